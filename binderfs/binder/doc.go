// Package binder speaks the wire protocol of the Linux Binder driver, without cgo and without libbinder.
//
// A Conn is one open of a Binder device: what the driver calls a process. A program that serves publishes an Object
// with a Handler; a program that calls holds a Ref to an object of another process and sends it a Parcel:
//
//	conn, err := binder.Open("/dev/binderfs/binder", binder.Options{Threads: 4})
//	echo := conn.NewObject("org.example.IEcho", binder.HandlerFunc(func(tx *binder.Transaction, reply *binder.Parcel) error {
//		reply.WriteString16(tx.Data.String16())
//		return tx.Data.Err()
//	}))
//
//	request := conn.NewParcel()
//	request.WriteString16("hello")
//	var reply binder.Reply
//	defer reply.Release()
//	err = ref.Transact(ctx, 1, request, &reply)
//
// The driver ties transactions to operating system threads. Transact therefore holds its goroutine to a thread until the
// reply is there, and a handler runs on the thread that has received the transaction: the calls that it makes on its own
// goroutine are nested calls in the sense of the driver, so that a callback comes back to the waiting thread. Calls that a
// handler makes on other goroutines are calls of their own.
//
// Nothing that a peer sends makes this package panic: a malformed parcel is an error of its Reader.
package binder
