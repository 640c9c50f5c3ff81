package service

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs"
	"corsa.dev/corsa/binderfs/servicemanager"
	"corsa.dev/corsa/runtime/gate/binder/broker"
	"corsa.dev/corsa/runtime/instance"
	"corsa.dev/corsa/spec"
)

// Without corsa.ko the monitor itself is the context manager of the service's device: it passes transactions on. So it has
// to be there before the program is, and starts that itself.

// brokerAvailable says why a service cannot be served through a broker on this host.
func brokerAvailable(engine string, svc *spec.Service) error {
	switch {
	case svc.Binder.Manager == spec.ManagerOwn:
		return fmt.Errorf("engine %s: %s=%s: without corsa.ko the service manager is corsa's; way out: aidl3 or another protocol, for a service "+
			"that adds names", engine, spec.KeyBinderManager, spec.ManagerOwn)
	case svc.AppKey != spec.AppKeyUID && svc.AppKey != spec.AppKeyPID:
		return fmt.Errorf("engine %s: %s=%s: without corsa.ko the sender's cgroup is not known; way out: uid or pid", engine, spec.KeyAppKey, svc.AppKey)
	}
	if s := binderfs.Probe(); s.Offer == binderfs.OfferNone || s.Offer == binderfs.OfferNodes {
		return fmt.Errorf("engine %s: %w: %s; way out: %s", engine, binderfs.ErrUnsupported, s.Detail, s.WayOut)
	}
	return nil
}

// Brokered reports whether the monitor of the service starts its program, which the caller then must not do.
func Brokered(svc *spec.Service) (bool, error) {
	if svc.Gate != spec.GateBinder {
		return false, nil
	}
	c, err := binderEngine(svc)
	return err == nil && c.brokered, err
}

// openBroker becomes context manager of the sandbox's first device.
func (m *Monitor) openBroker() error {
	pid, err := m.box.InitPID()
	if err != nil {
		return err
	}
	variant, err := servicemanager.ParseVariant(m.svc.Binder.Manager)
	if err != nil {
		return err
	}
	var known []instance.App
	if m.ledger != nil && m.svc.AppKey == spec.AppKeyPID {
		for _, a := range m.ledger.apps() {
			if !m.departed(a.App) {
				known = append(known, a.App)
			}
		}
	}
	m.broker, err = broker.New(broker.Config{
		Service: m.svc, Monitor: m, Device: filepath.Join(procPath(pid, "root"), binderRoot, m.svc.Binder.Devices[0]), Variant: variant,
		Log: m.log, Apps: known,
	})
	return err
}

// startBrokered starts the program of the sandbox behind a broker.
func (m *Monitor) startBrokered() error {
	if err := m.openBroker(); err != nil {
		return err
	}
	return m.box.Start()
}

// awaitRegistered returns once process pid has added its names to the broker's service manager.
func (m *Monitor) awaitRegistered(ctx context.Context, pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("%w: it has exited", ErrNotListening)
	}
	defer unix.Close(pidfd)
	return untilPublished(ctx, pid, pidfd, func() (string, error) {
		have := m.broker.Registered()
		var absent []string
		for _, name := range m.svc.Binder.Names {
			if !slices.ContainsFunc(have, func(s servicemanager.Service) bool { return s.Name == name }) {
				absent = append(absent, name)
			}
		}
		switch {
		case absent != nil:
			return "does not add " + strings.Join(absent, ", ") + " to the service manager", nil
		case len(have) == 0:
			return "adds nothing to the service manager", nil
		}
		return "", nil
	})
}

// seal ends the adding of names once the service rests, and tells the engine of the broker.
func (m *Monitor) seal(pid int) (err error) {
	for try := 1; ; try++ {
		if m.brokerTarget, err = m.broker.Seal(pid); err == nil || try == adoptTries {
			return err
		}
		time.Sleep(adoptPause)
	}
}

// brokerState is what the next monitor needs of the broker; nothing without one.
func (m *Monitor) brokerState() ([]byte, error) {
	if m.broker == nil {
		return nil, nil
	}
	return m.broker.State()
}

// resumeBroker takes over from the broker of a monitor that has died. Instances publish their objects again when they are opened.
func (m *Monitor) resumeBroker() (err error) {
	if err := m.openBroker(); err != nil {
		return err
	}
	m.brokerTarget, err = m.broker.Resume(m.rec.Broker)
	return err
}

// closeBroker ends a broker that does not come to serve.
func (m *Monitor) closeBroker() error {
	if m.broker == nil {
		return nil
	}
	err := m.broker.Close()
	if err != nil && !errors.Is(err, broker.ErrClosed) {
		return err
	}
	return nil
}
