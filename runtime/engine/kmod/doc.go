// Package kmod is the engine that works inside the kernel: corsa.ko swaps memory, descriptors and registers of the
// running service in place. The process, its pid, its thread ids and its Binder nodes stay the same for all apps.
//
// # How it works
//
// kmod/uapi/corsa.h is the contract with the module, corsa.dev/corsa/kmod/client the door to it. Adopting a service
// attaches a session to its process, which becomes record 0 and stays parked for good. The base and every image is an
// image record, every instance an instance record.
//
// The module copies memory, registers and the offsets of regular files. What lies behind other descriptors, it shares.
// So the engine reads the descriptor table into a plan (fdplan) when an image is taken, closes what is in the plan in
// the image, and for each instance makes new sockets, pipes, eventfds and timers and has them installed at their
// numbers; epoll sets are made and filled in the instance's own table.
//
// Park and Activate are one request each. A capture shows the instance in /proc for a moment (HOLD), so it keeps the
// others from running meanwhile.
//
// # What outlives the engine
//
// The session is persistent: the kernel keeps it with all records when the engine dies, and Recover joins it. Record
// ids are never used twice within a session, and a random number that is kept with the base tells sessions apart.
package kmod
