package binder

import "fmt"

// Protocol is a generation of the parcel format of Android's libbinder. The driver does not know it; both ends of a
// transaction have to agree on it. The names are those of libgbinder's configuration.
type Protocol uint8

// The protocols. They differ in the header of an interface token and in what follows an object.
const (
	AIDL  Protocol = iota + 1 // Android 9 and older
	AIDL2                     // Android 10
	AIDL3                     // Android 11, and 13 and newer
	AIDL4                     // Android 12
)

// Protocols lists all protocols, the oldest first.
var Protocols = []Protocol{AIDL, AIDL2, AIDL3, AIDL4}

func (p Protocol) String() string {
	switch p {
	case AIDL:
		return "aidl"
	case AIDL2:
		return "aidl2"
	case AIDL3:
		return "aidl3"
	case AIDL4:
		return "aidl4"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// ParseProtocol turns "aidl", "aidl2", "aidl3" or "aidl4" into a Protocol.
func ParseProtocol(name string) (Protocol, error) {
	for _, p := range Protocols {
		if p.String() == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("unknown binder protocol %q: use aidl, aidl2, aidl3 or aidl4", name)
}

// tokenHeader returns how many 32-bit words stand before the name in an interface token.
func (p Protocol) tokenHeader() int {
	switch p {
	case AIDL:
		return 1
	case AIDL2:
		return 2
	}
	return 3
}

// hasStability tells whether a word about the stability of its interface follows each object.
func (p Protocol) hasStability() bool { return p >= AIDL3 }

const (
	strictModeGather   = 0x40 << 16
	unsetWorkSource    = ^uint32(0)
	headerSystem       = 'S'<<24 | 'Y'<<16 | 'S'<<8 | 'T'
	headerVendor       = 'V'<<24 | 'N'<<16 | 'D'<<8 | 'R'
	stabilitySystem    = 0x0c
	stabilityWireAIDL4 = 1
)

// stability is the word after an object that belongs to the system; after a null object it is 0.
func (p Protocol) stability(null bool) uint32 {
	switch {
	case null && p == AIDL4:
		return stabilityWireAIDL4
	case null:
		return 0
	case p == AIDL4:
		return stabilitySystem<<24 | stabilityWireAIDL4
	}
	return stabilitySystem
}

// codeName names a transaction code for people.
func codeName(code uint32) string {
	switch code {
	case CodePing:
		return "ping"
	case CodeDump:
		return "dump"
	case CodeInterface:
		return "interface"
	case CodeSysProps:
		return "sysprops"
	case CodeShell:
		return "shell"
	}
	if code <= LastCall {
		return fmt.Sprintf("code %d", code)
	}
	return fmt.Sprintf("code %#x", code)
}
