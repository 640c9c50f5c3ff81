package servicemanager

import (
	"fmt"

	"corsa.dev/corsa/binderfs/binder"
)

// Interface is the name of the interface that a service manager has.
const Interface = "android.os.IServiceManager"

// callbackInterface is that of objects which are told of services that are added.
const callbackInterface = "android.os.IServiceCallback"

// Variant is a generation of the interface. The names are those of libgbinder's configuration.
type Variant uint8

// The variants, by the version of Android that has brought them.
const (
	AIDL  Variant = iota + 1 // Android 8: written by hand
	AIDL2                    // Android 9: with dump priorities
	AIDL3                    // Android 11: generated from AIDL
	AIDL4                    // Android 12: as AIDL3, in the parcels of Android 12
	AIDL5                    // Android 15: getService2
	AIDL6                    // Android 16: checkService2
)

// Variants lists all variants, the oldest first.
var Variants = []Variant{AIDL, AIDL2, AIDL3, AIDL4, AIDL5, AIDL6}

func (v Variant) String() string {
	if v == AIDL {
		return "aidl"
	}
	return fmt.Sprintf("aidl%d", uint8(v))
}

// ParseVariant turns "aidl", "aidl2" … "aidl6" into a Variant.
func ParseVariant(name string) (Variant, error) {
	for _, v := range Variants {
		if v.String() == name {
			return v, nil
		}
	}
	return 0, fmt.Errorf("unknown service manager protocol %q: use aidl, aidl2, aidl3, aidl4, aidl5 or aidl6", name)
}

// Protocol returns the format of the parcels that go with the variant. The Conn of a Manager or Client needs it.
func (v Variant) Protocol() binder.Protocol {
	switch v {
	case AIDL:
		return binder.AIDL
	case AIDL2:
		return binder.AIDL2
	case AIDL4:
		return binder.AIDL4
	}
	return binder.AIDL3
}

// generated tells whether the interface was generated from AIDL, so that replies begin with an exception.
func (v Variant) generated() bool { return v >= AIDL3 }

// method is what a transaction code means in a variant.
type method uint8

const (
	unknownMethod method = iota
	getService
	getService2 // a union instead of an IBinder
	checkService
	checkService2 // the union
	addService
	listServices
	registerForNotifications
	unregisterForNotifications
	isDeclared
)

var (
	oldMethods   = []method{getService, checkService, addService, listServices}
	aidl3Methods = append(oldMethods[:4:4], registerForNotifications, unregisterForNotifications, isDeclared)
	aidl5Methods = []method{
		getService, getService2, checkService, addService, listServices, registerForNotifications, unregisterForNotifications, isDeclared,
	}
	aidl6Methods = []method{
		getService, getService2, checkService, checkService2, addService, listServices, registerForNotifications,
		unregisterForNotifications, isDeclared,
	}
)

// methods lists the methods in the order of their transaction codes.
func (v Variant) methods() []method {
	switch v {
	case AIDL, AIDL2:
		return oldMethods
	case AIDL3, AIDL4:
		return aidl3Methods
	case AIDL5:
		return aidl5Methods
	}
	return aidl6Methods
}

func (v Variant) method(code uint32) method {
	all := v.methods()
	if i := code - binder.FirstCall; i < uint32(len(all)) {
		return all[i]
	}
	return unknownMethod
}

func (v Variant) code(m method) uint32 {
	for i, have := range v.methods() {
		if have == m {
			return binder.FirstCall + uint32(i)
		}
	}
	return 0
}

// dumpPriorities are the values of a mask that callers send along; services are listed whatever it says.
const (
	dumpPriorityDefault = 8
	dumpPriorityAll     = 15
)

// The tags of the union Service: in Android 15 and 16 a binder that may be lazy, or an accessor.
const (
	tagServiceWithMetadata = 0
	parcelableNotNull      = 1
)
