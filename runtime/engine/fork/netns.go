package fork

import "corsa.dev/corsa/runtime/engine/fdplan"

// netns is the network namespace in which TCP listeners of instances live.
type netns struct{ fdplan.Netns }

func (n *netns) dial(family, port int) (int, error) { return n.Dial(family, port) }

// inherit takes over the namespace in which an existing socket lives.
func (n *netns) inherit(sock int) error { return n.Inherit(sock) }

func (n *netns) close() { n.Close() }
