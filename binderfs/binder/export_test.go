package binder

// Bytes returns what has been written to a parcel.
func Bytes(p *Parcel) []byte { return p.data }
