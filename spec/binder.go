package spec

import (
	"slices"
	"strings"
)

// Binder says how a service is reached through Binder. A container that declares no service may have devices, too.
type Binder struct {
	// Devices are the names of the devices of the container's own binderfs, which is mounted on /dev/binderfs in it;
	// /dev/NAME are links. Apps call the service through them.
	Devices []string
	// Publish is the directory of the host on which the binderfs is mounted as well; "": nowhere.
	Publish string
	// Manager says who is the context manager of the first device: ManagerOwn, or the protocol of a service manager that
	// corsa runs.
	Manager string
	// Names are those under which the service has to be known to the service manager before it is adopted. With none, any
	// name will do. It is for a Manager that corsa runs.
	Names []string
}

// ManagerOwn says that the service itself is the context manager, or starts it.
const ManagerOwn = "own"

// managers are the service managers that corsa can run, by their protocol.
var managers = []string{"aidl", "aidl2", "aidl3", "aidl4", "aidl5", "aidl6"}

// The legal values.
const (
	LegalBinderDevices = "names of devices, such as binder,hwbinder,vndbinder"
	LegalBinderPublish = "absolute path of a directory, without . or .."
	LegalBinderManager = "own, aidl (Android 8), aidl2 (9), aidl3 (11), aidl4 (12), aidl5 (15), aidl6 (16)"
)

// maxDeviceName is the longest name that binderfs takes.
const maxDeviceName = 255

// reservedDevices are files of binderfs itself, and the directory that it is mounted on.
var reservedDevices = []string{".", "..", "binder-control", "binder_logs", "features", "binderfs"}

// ParseBinderDevices reads a list of device names.
func ParseBinderDevices(s string) ([]string, error) {
	names, err := SplitList(s)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		switch {
		case len(name) > maxDeviceName:
			return nil, bad(LegalBinderDevices, "%q is longer than %d bytes", name, maxDeviceName)
		case strings.ContainsAny(name, "/\x00,"), slices.Contains(reservedDevices, name):
			return nil, bad(LegalBinderDevices, "no device can be called %q", name)
		case slices.Contains(names[:i], name):
			return nil, bad(LegalBinderDevices, "%q is listed twice", name)
		}
	}
	return names, nil
}

// ParseBinderPublish reads the path of a directory of the host.
func ParseBinderPublish(s string) (string, error) {
	if problem := pathProblem(s); problem != "" {
		return "", bad(LegalBinderPublish, "%q %s", s, problem)
	}
	return s, nil
}

// ParseBinderManager reads who is the context manager.
func ParseBinderManager(s string) (string, error) {
	if s == ManagerOwn || slices.Contains(managers, s) {
		return s, nil
	}
	return "", bad(LegalBinderManager, "there is no service manager %q", s)
}

// binderContradictions reports what a service behind the Binder gate cannot have.
func (s *Service) binderContradictions(noDevices bool, report func(key, value, problem, legal string)) {
	const gate = "contradicts " + KeyGate + "=" + GateBinder
	if noDevices {
		report(KeyBinderDevices, "", "a Binder service needs devices, and this key is not given", LegalBinderDevices)
	}
	for _, e := range s.Endpoints {
		key := KeySocket
		if e.Network == "tcp" {
			key = KeyTCP
		}
		report(key, e.Address, gate+": one gate stands before one kind of clients", "no socket")
	}
	if s.AppKey == AppKeyConnection {
		report(KeyAppKey, string(s.AppKey), gate+": Binder has no connections", "uid, pid, cgroup")
	}
	if s.OnCrash.Mode == CrashRetry && s.Engine == "kmod" {
		report(KeyOnCrash, s.OnCrash.String(), gate+" with "+KeyEngine+"=kmod: the driver has given the transaction away and keeps no copy; its "+
			"caller is told that it has failed", "restore, stop; or engine fork")
	}
	if s.CrashReply != "" {
		report(KeyCrashReply, FormatCrashReply(s.CrashReply), gate+": a call that dies with its instance fails by the driver's own error", "none")
	}
	if s.Binder.Manager == ManagerOwn && len(s.Binder.Names) > 0 {
		report(KeyBinderNames, JoinList(s.Binder.Names), "contradicts "+KeyBinderManager+"="+ManagerOwn+": corsa does not know the names of that one",
			"none; or another "+KeyBinderManager)
	}
}

// unusedBinder reports keys that need the Binder gate. Devices and where they are seen do not.
func (s *Service) unusedBinder(report func(key, value, problem, legal string)) {
	const other = "has no meaning with " + KeyGate + "=" + GateSocket
	if s.Binder.Manager != ManagerOwn {
		report(KeyBinderManager, s.Binder.Manager, other, KeyGate+"="+GateBinder)
	}
	if len(s.Binder.Names) > 0 {
		report(KeyBinderNames, JoinList(s.Binder.Names), other, KeyGate+"="+GateBinder)
	}
}
