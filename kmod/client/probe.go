package client

import (
	"errors"
	"fmt"
	"os"
)

// Result is the answer to whether the module can be used.
type Result int

// Unknown means that it could not be told, and why is in Probed.Detail.
const (
	Unknown Result = iota
	No
	Yes
)

// Probed is what Probe found out.
type Probed struct {
	Result  Result
	Detail  string // the version, or what is in the way
	Version Version
}

// Probe finds out whether the module can be used here and now. It changes nothing.
func Probe() Probed { return probe(wire(), moduleLoaded) }

// moduleLoaded says whether the kernel has the module, whatever /dev shows of it.
func moduleLoaded() bool {
	_, err := os.Stat("/sys/module/corsa")
	return err == nil
}

func probe(w Wire, loaded func() bool) Probed {
	d, err := OpenWith(w)
	switch {
	case err == nil:
		v := d.Version()
		if err := d.Close(); err != nil {
			return Probed{Unknown, err.Error(), v}
		}
		return Probed{Yes, "version " + v.String(), v}
	case errors.Is(err, ErrNoModule) && loaded():
		return Probed{Result: Unknown, Detail: fmt.Sprintf("corsa.ko is loaded, but there is no %s here", path)}
	case errors.Is(err, ErrNoModule):
		return Probed{Result: No, Detail: fmt.Sprintf("corsa.ko is not loaded: there is no %s", path)}
	case errors.Is(err, ErrVersion):
		return Probed{Result: No, Detail: err.Error()}
	}
	return Probed{Result: Unknown, Detail: err.Error()}
}
