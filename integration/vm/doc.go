// Package vm boots Debian kernels under QEMU, without hardware virtualisation, and runs commands in them: a module
// can only be tested in a kernel of its own. What a VM consists of is made by `make vm-deps` and kept in a cache.
//
// A VM has a disk with chosen programs of this machine and their libraries, and beside it the files of one run. It
// has no network. Nothing of it outlives Run: QEMU dies with the thread that started it, and what is made for one
// run has no name in the file system.
package vm
