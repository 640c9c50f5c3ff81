// Package socket is the gate for services that listen on unix stream sockets or on loopback TCP ports.
//
// It takes the public address over, names the app of every connection by what the kernel says about the client,
// connects it to the app's own instance and moves the bytes.
//
// # One thread
//
// One locked OS thread accepts, reads, writes, schedules and switches. A request that went through a channel or a
// second thread would pay for a wake-up each way, which costs as much as the request. The loop therefore owns all state and takes
// no lock on the path of a transaction; it hands slow work (asking the monitor for an instance, checkpoints,
// crashes) to worker goroutines, whose results come back through a queue and an eventfd. Meanwhile the connections of that app are
// not read, so that its clients feel back-pressure, and the others go on.
//
// # Boundaries
//
// The gate does not know the service's protocol. A transaction begins with bytes forwarded to the instance and has been
// answered when bytes come back. An app is quiet when every one of its transactions has been answered, the instance has
// consumed everything that was sent to it, and it has accepted every connection. Then engine.Instance.Park decides: it succeeds only
// if every thread waits. Both together are a transaction boundary, the only place at which an app is switched
// away from or checkpointed. The exception is a transaction that does not end: after 100 ms it no longer keeps
// others waiting, and gets turns of its own from then on, 10 to 100 ms long with pauses ten times as long.
//
// # Guarantees
//
// Bytes arrive complete and in order in both directions, through switches, checkpoints and replacements of an
// instance; an end of file is passed on after the last byte. Descriptors in flight are passed on with the byte that they
// came with, or the connection is reset and the reason logged. With concurrency=strict no two instances are active at the same time, and apps take
// turns first come, first served. A crash reaches only the connections of that app whose requests were under way; with a crash
// reply these go on too. See crash.go for what the gate can know of a reply that a crash may have cut off.
//
// # Apps that end
//
// An app that is a connection or a process ends with it. Its instance ends once the service has noticed that the connection
// was closed, so that what was asked last is carried out, and Monitor.Left discards the rest.
//
// # Cost
//
// A proxied request has two more context switches than a direct one. BenchmarkRedisGet on a busy machine with 2 CPUs, p50:
// 2.0 to 2.3 times direct with everything on one CPU (a bare read/write loop in C: 1.8 to 2.2, median 1.9), 1.5
// to 2.3 times with the scheduler free to choose. A direct connection has none of that: the app's socket is put into the
// instance, see handover.go, and is watched only while that is dormant, see watch.go.
//
// # Limits
//
// At most 128 KiB are held back in each direction of a connection. A request longer than 1 MiB, or with descriptors, is not
// retried. Requests are not told apart: after a crash there is one crash reply for all that a connection had under way.
// The first descriptors ever seen by a gate may be attached to an earlier byte of the same burst if they do not come with
// the first bytes of their connection; from then on their place is exact. On proxied connections the service sees
// the gate's credentials.
package socket
