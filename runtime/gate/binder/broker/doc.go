// Package broker is the gate for Binder services on hosts without corsa.ko.
//
// The broker is the context manager of a Binder device that the service and its apps share. When the service adds a name,
// the broker keeps the reference and gives an object of its own, a stand-in, to whoever looks the name up. A transaction on a stand-in is
// passed on, as it is, to the object's copy in the instance of the app that has sent it, and so is the reply. The engine makes
// these copies known: see engine.Broker.
//
// # Threads and turns
//
// A transaction stays on the thread that has received it. Therefore the driver sees one chain of calls, from the app by way of
// the broker to the instance, and a call back to the app, or from there into the service again, comes to the thread that
// waits. Such a nested transaction belongs to the turn of the outer one and never waits.
//
// With concurrency=strict one app has its turn at a time. All transactions of that app go on together until somebody else
// waits; then the turn ends with the last of them, the instance is parked, and the next in the queue wakes its own. With
// concurrency=parallel each app has a queue of its own, and nobody is parked but for a checkpoint.
//
// # Boundaries
//
// An app is at a boundary when all its transactions have been answered. What was sent oneway is under way until the driver says that
// the instance has freed its memory.
package broker
