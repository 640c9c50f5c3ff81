package servicemanager

import (
	"context"
	"errors"

	"corsa.dev/corsa/binderfs/binder"
)

// Options say how a Manager works. Variant is required.
type Options struct {
	Variant Variant
	Threads int                 // that answer; 0 means 4
	Buffer  int                 // as binder.Options.Buffer
	Trace   func(*binder.Event) // as binder.Options.Trace
	// StandIn, if set, is asked about each service that is to be added, and what it returns is given to those who look the
	// service up. The reference is the manager's and may be cloned. An error refuses the service.
	StandIn func(s Service, service *binder.Ref) (binder.Binder, error)
	// Other, if set, carries out the transactions that are in no range of an interface.
	Other binder.Handler
}

// Manager is the context manager of a device. It works until it is closed.
type Manager struct {
	conn     *binder.Conn
	options  Options
	variant  Variant
	registry registry
}

// New becomes the context manager of the device at path. The error is binder.ErrManagerTaken if it has one.
func New(path string, o Options) (*Manager, error) {
	if o.Threads == 0 {
		o.Threads = 4
	}
	conn, err := binder.Open(path, binder.Options{Threads: o.Threads, Buffer: o.Buffer, Protocol: o.Variant.Protocol(), Trace: o.Trace})
	if err != nil {
		return nil, err
	}
	m := &Manager{
		conn: conn, options: o, variant: o.Variant,
		registry: registry{services: map[string]*entry{}, waiting: map[string][]*entry{}},
	}
	if _, err := conn.BecomeContextManager(Interface, binder.HandlerFunc(m.transact)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return m, nil
}

// Conn returns the Manager's connection, which is closed with it.
func (m *Manager) Conn() *binder.Conn { return m.conn }

// Publish adds a service that is not another process', in place of one that may have the name.
func (m *Manager) Publish(s Service, service *binder.Object) error {
	if err := checkName(s.Name); err != nil {
		return err
	}
	return m.registry.add(s, nil, service, m.tell(s.Name))
}

// Services lists what is published, by name.
func (m *Manager) Services() []Service { return m.registry.list() }

// Close gives the device's place up. Services lose their names; who asks for them gets binder.ErrDead.
func (m *Manager) Close() error {
	m.registry.close()
	return m.conn.Close()
}

// Err returns why the Manager does not answer any more, nil if it does.
func (m *Manager) Err() error { return m.conn.Err() }

// Failed is closed when Err has something to tell.
func (m *Manager) Failed() <-chan struct{} { return m.conn.Failed() }

func (m *Manager) transact(tx *binder.Transaction, reply *binder.Parcel) error {
	if tx.Code < binder.FirstCall || tx.Code > binder.LastCall {
		if m.options.Other != nil {
			return m.options.Other.Transact(tx, reply)
		}
		return binder.StatusUnknownTransaction
	}
	// The header depends on the caller's protocol, which may be newer than the variant: Android 10's is.
	if _, ok := tx.Data.MatchInterface(Interface); !ok {
		return binder.StatusBadType
	}
	r := &tx.Data
	switch m.variant.method(tx.Code) {
	case getService, checkService:
		return m.get(tx, reply, m.writeBinder)
	case getService2, checkService2:
		return m.get(tx, reply, m.writeUnion)
	case addService:
		return m.add(tx, reply)
	case listServices:
		return m.list(r, reply)
	case registerForNotifications:
		return m.register(tx, reply)
	case unregisterForNotifications:
		return m.unregister(r, reply)
	case isDeclared:
		r.String16()
		reply.WriteNoException()
		reply.WriteBool(false)
		return r.Err()
	}
	return binder.StatusUnknownTransaction
}

// get answers at once, whether there is such a service or not; Android's library asks again where the caller wants to wait.
func (m *Manager) get(tx *binder.Transaction, reply *binder.Parcel, write func(*binder.Parcel, binder.Binder)) error {
	name := tx.Data.String16()
	if err := tx.Data.Err(); err != nil {
		return err
	}
	if m.variant.generated() {
		reply.WriteNoException()
	}
	service := m.registry.get(name)
	if ref, ok := service.(*binder.Ref); ok {
		// The number has to stay this service's until the driver has read it, whatever happens to the service meanwhile.
		tx.AfterReply(ref.Release)
	}
	write(reply, service)
	return nil
}

func (m *Manager) writeBinder(reply *binder.Parcel, service binder.Binder) {
	reply.WriteBinder(service)
}

// writeUnion writes a Service with the service's metadata: a parcelable in a union, each with its size in front.
func (m *Manager) writeUnion(reply *binder.Parcel, service binder.Binder) {
	reply.WriteInt32(parcelableNotNull)
	reply.WriteInt32(tagServiceWithMetadata)
	reply.WriteInt32(parcelableNotNull)
	inner := binder.NewParcel(m.variant.Protocol())
	inner.WriteBinder(service)
	inner.WriteBool(false) // not lazy
	reply.WriteInt32(int32(4 + inner.Len()))
	reply.WriteBinder(service)
	reply.WriteBool(false)
}

func (m *Manager) add(tx *binder.Transaction, reply *binder.Parcel) error {
	r := &tx.Data
	name := r.String16()
	b := r.Binder()
	// What follows, whether isolated processes may have it and at which priorities it is dumped, matters to Android alone.
	err := r.Err()
	ref, ok := b.(*binder.Ref)
	switch {
	case err != nil:
	case !ok:
		err = &binder.Exception{Code: binder.ExIllegalArgument, Message: "null, or an object of the service manager itself"}
	default:
		if nameErr := checkName(name); nameErr != nil {
			err = &binder.Exception{Code: binder.ExIllegalArgument, Message: nameErr.Error()}
		} else {
			err = m.publish(Service{Name: name, PID: tx.SenderPID, UID: tx.SenderUID}, ref)
		}
	}
	if err != nil && ok {
		ref.Release()
	}
	return m.finish(reply, err)
}

func (m *Manager) publish(s Service, ref *binder.Ref) error {
	var given binder.Binder = ref
	if m.options.StandIn != nil {
		var err error
		if given, err = m.options.StandIn(s, ref); err != nil {
			return err
		}
	}
	return m.registry.add(s, ref, given, m.tell(s.Name))
}

// finish writes the reply of a method without a result.
func (m *Manager) finish(reply *binder.Parcel, err error) error {
	var e *binder.Exception
	switch {
	case err == nil:
		reply.WriteInt32(0) // no exception; in the old interface: the status
		return nil
	case errors.As(err, &e) && m.variant.generated():
		reply.WriteException(e)
		return nil
	case errors.As(err, &e):
		return binder.StatusBadValue
	}
	return err
}

func (m *Manager) list(r *binder.Reader, reply *binder.Parcel) error {
	if !m.variant.generated() {
		return m.listOne(r, reply)
	}
	r.Int32() // dump priorities
	var names []string
	for _, s := range m.registry.list() {
		names = append(names, s.Name)
	}
	reply.WriteNoException()
	reply.WriteStrings16(names)
	return r.Err()
}

// listOne answers the old interface, which asks for one name after the other.
func (m *Manager) listOne(r *binder.Reader, reply *binder.Parcel) error {
	i := int(r.Int32())
	if err := r.Err(); err != nil {
		return err
	}
	all := m.registry.list()
	if i < 0 || i >= len(all) {
		return binder.StatusPermissionDenied // the number -1, by which the old interface tells the end
	}
	reply.WriteString16(all[i].Name)
	return nil
}

func (m *Manager) register(tx *binder.Transaction, reply *binder.Parcel) error {
	r := &tx.Data
	name := r.String16()
	callback := r.Ref()
	if err := r.Err(); err != nil {
		return err
	}
	err := checkName(name)
	if err != nil {
		err = &binder.Exception{Code: binder.ExIllegalArgument, Message: err.Error()}
	} else {
		err = m.registry.wait(Service{Name: name, PID: tx.SenderPID, UID: tx.SenderUID}, callback, m.tell(name))
	}
	if err != nil {
		callback.Release()
	}
	return m.finish(reply, err)
}

func (m *Manager) unregister(r *binder.Reader, reply *binder.Parcel) error {
	name := r.String16()
	callback := r.Ref()
	if err := r.Err(); err != nil {
		return err
	}
	defer callback.Release()
	if !m.registry.forget(name, callback) {
		return m.finish(reply, &binder.Exception{Code: binder.ExIllegalState, Message: "not registered"})
	}
	return m.finish(reply, nil)
}

// onRegistration is the one method of android.os.IServiceCallback.
const onRegistration = binder.FirstCall

// tell returns a function that tells somebody who waits of a service. It does not wait for an answer, and one who is gone is
// removed when the driver tells so.
func (m *Manager) tell(name string) func(waiting *binder.Ref, service binder.Binder) {
	return func(waiting *binder.Ref, service binder.Binder) {
		p := m.conn.NewParcel()
		p.WriteInterfaceToken(callbackInterface)
		p.WriteString16(name)
		p.WriteBinder(service)
		_ = waiting.Send(context.Background(), onRegistration, p)
	}
}
