package route

import (
	"crypto/sha256"
	"encoding/hex"
	"runtime/debug"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -cflags "-O2 -g -Wall -Werror -mcpu=v3" program bpf/route.bpf.c

// What bpf/route.bpf.c has by the same names.
const (
	// MaxPublic is how many public names a service may have that are routed.
	MaxPublic = 4
	// MaxSpares is how many spares can be on offer at a time.
	MaxSpares = 64

	nameSize  = 108
	calibrate = 255

	spareNone    = 0
	spareOffered = 1
	spareTaking  = 2
	spareClaimed = 3
)

// version tells programs apart: one that another version of corsa has left is not adopted.
func version() string {
	sum := sha256.Sum256(_ProgramBytes)
	return hex.EncodeToString(sum[:8])
}

// load loads program and maps into the kernel; nothing is attached.
func load() (*programObjects, error) {
	defer func() { // what the kernel says about itself takes tens of megabytes, and is not needed again
		btf.FlushKernelSpec()
		debug.FreeOSMemory()
	}()
	spec, err := loadProgram()
	if err != nil {
		return nil, err
	}
	objects := new(programObjects)
	if err := spec.LoadAndAssign(objects, nil); err != nil {
		return nil, err
	}
	return objects, nil
}

// adoptObjects fills o from the pins in dir.
func adoptObjects(dir string) (_ *programObjects, err error) {
	o := new(programObjects)
	for name, m := range o.pinned() {
		if *m, err = ebpf.LoadPinnedMap(dir+"/"+name, nil); err != nil {
			_ = o.Close()
			return nil, err
		}
	}
	return o, nil
}

// pinned are the maps that outlive the monitor, by the names of their pins.
func (o *programObjects) pinned() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		"publics": &o.Publics, "routes": &o.Routes, "spares": &o.Spares, "settings": &o.Settings, "claimed": &o.Claimed, "counts": &o.Counts,
	}
}
