package uapi

import "unsafe"

// BinderKeyMax is the last kind of key that this package knows.
const BinderKeyMax = 3

// BinderEnable is struct corsa_binder_enable.
type BinderEnable struct {
	Size, Flags, Key, Devices uint32
	WaitNS                    uint64
	Hook, Reserved            uint32
}

// BinderRoute is struct corsa_binder_route.
type BinderRoute struct {
	Size, Flags uint32
	Key         uint64
	ID, Every   uint32
}

// BinderRouteInfo is struct corsa_binder_route_info.
type BinderRouteInfo struct {
	Key                     uint64
	ID, Flags, Every, Since uint32
	Transactions, Oneway    uint64
}

// BinderRoutes is struct corsa_binder_routes.
type BinderRoutes struct {
	Size, Cap       uint32
	Routes          uint64
	Count, Reserved uint32
}

// BinderStats is struct corsa_binder_stats.
type BinderStats struct {
	Size, InProgress, Waiting, Tickets                                  uint32
	Transactions, Oneway, Nested, Outgoing, Waits, Switches             uint64
	Timeouts, Interrupted, Aborted, BufferFaults, WaitNS, LongestWaitNS uint64
}

// The requests of the Binder gate.
var (
	ReqBinderEnable = iowr(0x20, unsafe.Sizeof(BinderEnable{}))
	ReqBinderRoute  = iowr(0x21, unsafe.Sizeof(BinderRoute{}))
	ReqBinderRoutes = iowr(0x22, unsafe.Sizeof(BinderRoutes{}))
	ReqBinderStats  = iowr(0x23, unsafe.Sizeof(BinderStats{}))
)
