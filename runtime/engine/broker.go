package engine

// Broker says that a service is called through a Binder device on which a gate in this process stands in for it: it is the
// device's context manager and passes the apps' transactions on.
//
// An open device cannot be inherited: what the driver keeps for it belongs to the memory of the process that has opened it.
// An engine that copies processes opens it anew for every instance, and publishes the objects that others had references
// to: it sends the context manager a oneway transaction with the code BrokerPublish, whose data are
//
//	token    [16]byte  // BrokeredInstance.BrokerToken
//	n        uint32
//	         uint32    // zero
//	ptrs     [n]uint64 // by which the service calls its objects; the same in all instances
//	objects  [n]flat_binder_object
//
// all in the machine's byte order. So the gate has, for each instance, references to its copies of the service's objects.
// The driver is told nothing that would let it drop these objects while the instance lives, whatever becomes of the gate.
type Broker struct {
	// Device is the path of the device in the caller's mount namespace, in a binderfs that is mounted with stats=global.
	Device string
	// Manager is the process that is context manager, in the initial pid namespace. Only it may have references to objects
	// of the service.
	Manager int
}

// BrokerPublish is the transaction code: '_CRS'.
const BrokerPublish uint32 = '_'<<24 | 'C'<<16 | 'R'<<8 | 'S'

// BrokerToken names an instance to the context manager of its device. Nobody else can know it.
type BrokerToken [16]byte

// BrokeredInstance is implemented by instances of engines that take Target.Broker.
type BrokeredInstance interface {
	Instance
	// BrokerToken is zero if the instance has no Binder device open.
	BrokerToken() BrokerToken
	// BrokerPID is the process that has the device open for the instance, in the initial pid namespace.
	BrokerPID() int
	// BrokerIdle reports whether the instance has taken all that was sent to it, carried it out, and given the memory back.
	// It reads a file: not for the transaction path.
	BrokerIdle() (bool, error)
}
