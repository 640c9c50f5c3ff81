// Package route leads an app's connect() on a service's public unix socket to the listener of the app's own instance, in
// the kernel: the bytes of such a connection never pass through the monitor, and the service sees the app's own credentials.
//
// A BPF program at cgroup/connect_unix rewrites the name that the app gives. It knows the app by the effective uid in the
// initial user namespace, which is what SO_PEERCRED shows, and the public name as it is spelled; another spelling of the
// same path is not recognised. Stream and seqpacket sockets are redirected.
//
// # Doubt
//
// The program never refuses a connect(). Where it cannot be sure, the name stays what it was, and the app arrives at whoever
// listens on the public socket: when the monitor has not beaten its heart for Validity, when the app has no route and there
// is no spare, when the app's mount namespace or root directory (for a path) or network namespace (for an abstract name)
// is not the monitor's, so that the name may mean something else there.
//
// # Permissions
//
// A redirected connect() is checked against the target, not the public socket. Whoever makes targets has to see to it
// that they let in exactly the processes that the public socket would: Site does. An abstract target lets in everybody.
//
// # What survives what
//
// Program, routes and spares are pinned in a bpffs and survive the monitor. Until its last heartbeat runs out apps are
// led on; a new monitor that opens the same ID within that time is not noticed. A dead monitor's program that nobody adopts redirects
// nothing any more and is removed by Remove. All of it ends with the machine, and nothing is kept on disk. Established connections do
// not depend on any of it.
//
// There is one program per service, and a cgroup takes 64 programs of a kind. Each costs every connect() on a unix
// socket on the host about 0.1 µs.
package route
