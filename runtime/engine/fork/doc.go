// Package fork is the engine that works on any stock Linux: it forks the running service, copy on write, by system
// calls injected into it.
//
// # How it works
//
// The engine adds one mapping, the arena (layout.go), to the service and forks it once: that fork, an anchor
// (anchor.go), is the base. An anchor runs nothing but a small stub (stub_amd64.s) which waits for commands in a
// page of memory that it shares with the engine; a command is a batch of system calls. Forking an anchor gives
// another one. An image is a frozen anchor. An instance is an anchor with threads around it (spawn.go): they share its
// memory, descriptors and handlers, and live in a pid namespace of their own under the ids that they had.
//
// A dormant instance's threads sit in the stub, each with a signal frame of where it was; waking them is one futex
// call, and rt_sigreturn takes them back. Parking (park.go) is the only thing that takes ptrace. A checkpoint is a fork
// of the anchor of a dormant instance; it is born frozen and nothing in it has to be stopped.
//
// # Why it is safe
//
// Whatever the stub runs ends in a wait for the next command or in rt_sigreturn, so the engine may die at any
// moment: no thread is ever left with registers that are not its own. Until a service is adopted for good it wakes by
// itself after some seconds.
package fork
