// Package containertest has what the tests of corsa under podman and under containerd share: the binary, images made of
// the programs of this host, terminals, and a look at what is left behind. It is for tests only.
package containertest
