package binder

// Bytes returns what has been written to a parcel.
func Bytes(p *Parcel) []byte { return p.data }

// Remotes returns how many objects of other processes the Conn has references to.
func Remotes(c *Conn) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.remotes)
}
