package spec

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Prefix is that of all annotations which corsa reads. An annotation with this prefix that is not in Keys is an
// error; all others are left alone.
const Prefix = "dev.corsa."

// BinderPrefix is that of the annotations which a container may have that declares no service: it gets a binderfs.
const BinderPrefix = Prefix + "binder."

// The annotations. Each has a flag of the same name, without the prefix and
// with "-" for ".", in `corsa serve` and `corsa spec --service`.
const (
	KeyEngine       = Prefix + "engine"         // LegalEngine; default auto
	KeyGate         = Prefix + "gate"           // LegalGate; default socket
	KeySocket       = Prefix + "socket"         // list of unix socket paths, see JoinList
	KeyTCP          = Prefix + "tcp"            // list of loopback addresses with port, see JoinList
	KeyAppKey       = Prefix + "app-key"        // LegalAppKey; default uid
	KeyCheckpoint   = Prefix + "checkpoint"     // LegalCheckpoint; default manual
	KeyHistory      = Prefix + "history"        // LegalHistory; default 16
	KeyHistoryBytes = Prefix + "history-bytes"  // LegalHistoryBytes; default 0
	KeyHugePages    = Prefix + "huge-pages"     // LegalHugePages; default auto
	KeySpares       = Prefix + "spares"         // LegalSpares; default 1
	KeyMemory       = Prefix + "memory-budget"  // LegalHistoryBytes; default 0
	KeyInstances    = Prefix + "instances"      // LegalInstances; default 0
	KeyOnCrash      = Prefix + "on-crash"       // LegalCrash; default restore
	KeyCrashReply   = Prefix + "crash-reply"    // LegalCrashReply; default empty: reset the connection
	KeyConcurrency  = Prefix + "concurrency"    // LegalConcurrency; default strict
	KeyTimers       = Prefix + "dormant-timers" // LegalTimers; default off
	KeyPath         = Prefix + "path"           // LegalPath; default auto
	KeyShared       = Prefix + "shared"         // list of absolute paths, see JoinList; default none
	KeyPrivate      = Prefix + "private"        // list of absolute paths of directories, see JoinList; default none
	KeyWarm         = Prefix + "warm"           // a shell command; default none

	KeyBinderDevices = BinderPrefix + "devices" // list of names; needed for the gate binder
	KeyBinderPublish = BinderPrefix + "publish" // directory of the host; default none
	KeyBinderManager = BinderPrefix + "manager" // LegalBinderManager; default own
	KeyBinderNames   = BinderPrefix + "names"   // list of names of services, see JoinList; default none
)

// setters parse one annotation into a Service.
var setters = map[string]func(*Service, string) error{
	KeyEngine:       func(s *Service, v string) (err error) { s.Engine, err = ParseEngine(v); return },
	KeyGate:         func(s *Service, v string) (err error) { s.Gate, err = ParseGate(v); return },
	KeySocket:       func(s *Service, v string) error { return s.addEndpoints(v, ParseSocket) },
	KeyTCP:          func(s *Service, v string) error { return s.addEndpoints(v, ParseTCP) },
	KeyAppKey:       func(s *Service, v string) (err error) { s.AppKey, err = ParseAppKey(v); return },
	KeyCheckpoint:   func(s *Service, v string) (err error) { s.Checkpoint, err = ParseCheckpointPolicy(v); return },
	KeyHistory:      func(s *Service, v string) (err error) { s.History, err = ParseHistory(v); return },
	KeyHistoryBytes: func(s *Service, v string) (err error) { s.HistoryBytes, err = ParseBytes(v); return },
	KeyHugePages:    func(s *Service, v string) (err error) { s.HugePages, err = ParseHugePages(v); return },
	KeySpares:       func(s *Service, v string) (err error) { s.Spares, err = ParseSpares(v); return },
	KeyMemory:       func(s *Service, v string) (err error) { s.MemoryBudget, err = ParseBytes(v); return },
	KeyInstances:    func(s *Service, v string) (err error) { s.Instances, err = ParseInstances(v); return },
	KeyOnCrash:      func(s *Service, v string) (err error) { s.OnCrash, err = ParseCrashPolicy(v); return },
	KeyCrashReply:   func(s *Service, v string) (err error) { s.CrashReply, err = ParseCrashReply(v); return },
	KeyConcurrency:  func(s *Service, v string) (err error) { s.Concurrency, err = ParseConcurrency(v); return },
	KeyTimers:       func(s *Service, v string) (err error) { s.Timers, err = ParseTimerPolicy(v); return },
	KeyPath:         func(s *Service, v string) (err error) { s.Path, err = ParsePath(v); return },
	KeyShared:       func(s *Service, v string) (err error) { s.Shared, err = SplitList(v); return },
	KeyPrivate:      func(s *Service, v string) (err error) { s.Private, err = SplitList(v); return },
	KeyWarm:         func(s *Service, v string) error { s.Warm = v; return nil },

	KeyBinderDevices: func(s *Service, v string) (err error) { s.Binder.Devices, err = ParseBinderDevices(v); return },
	KeyBinderPublish: func(s *Service, v string) (err error) { s.Binder.Publish, err = ParseBinderPublish(v); return },
	KeyBinderManager: func(s *Service, v string) (err error) { s.Binder.Manager, err = ParseBinderManager(v); return },
	KeyBinderNames:   func(s *Service, v string) (err error) { s.Binder.Names, err = SplitList(v); return },
}

// Keys returns all annotation keys, sorted.
func Keys() []string { return slices.Sorted(maps.Keys(setters)) }

// Default returns a Service with the defaults of all keys and no endpoint; it is valid once it has one.
func Default() *Service {
	return &Service{
		Engine:      "auto",
		Gate:        GateSocket,
		Binder:      Binder{Manager: ManagerOwn},
		AppKey:      AppKeyUID,
		Checkpoint:  CheckpointPolicy{Mode: CheckpointManual},
		History:     16,
		HugePages:   HugePagesAuto,
		Spares:      1,
		OnCrash:     CrashPolicy{Mode: CrashRestore},
		Concurrency: Strict,
		Path:        PathAuto,
	}
}

// FromAnnotations reads the annotations of a bundle. It returns false if none of them begins with Prefix, or all that
// do begin with BinderPrefix: then the bundle is an ordinary container. The error joins one *KeyError per problem, in the order of the keys.
// Endpoints come in the order in which they are listed, sockets before TCP ports.
func FromAnnotations(annotations map[string]string) (*Service, bool, error) {
	s := Default()
	var problems []error
	declared := false
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(key, Prefix) {
			continue
		}
		declared = declared || !strings.HasPrefix(key, BinderPrefix)
		if _, ok := setters[key]; !ok {
			problems = append(problems, unknownKey(key))
		}
	}
	if !declared {
		return nil, false, errors.Join(problems...)
	}
	for _, key := range Keys() {
		if key == KeyTCP {
			continue // after KeySocket, see below
		}
		problems = append(problems, s.set(annotations, key))
		if key == KeySocket {
			problems = append(problems, s.set(annotations, KeyTCP))
		}
	}
	_, socket := annotations[KeySocket]
	_, tcp := annotations[KeyTCP]
	_, devices := annotations[KeyBinderDevices]
	if err := s.contradictions(!socket && !tcp, !devices); err != nil {
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return nil, true, err
	}
	return s, true, nil
}

// set parses the annotation key, if it is there.
func (s *Service) set(annotations map[string]string, key string) error {
	value, ok := annotations[key]
	if !ok {
		return nil
	}
	err := setters[key](s, value)
	if err == nil {
		return nil
	}
	ke := &KeyError{Key: key, Value: value, Problem: err.Error()}
	var ve *valueError
	if errors.As(err, &ve) {
		ke.Problem, ke.Legal = ve.problem, ve.legal
	}
	return ke
}

func (s *Service) addEndpoints(list string, parse func(string) (Endpoint, error)) error {
	items, err := SplitList(list)
	if err != nil {
		return err
	}
	for _, item := range items {
		e, err := parse(item)
		if err != nil {
			return err
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return nil
}

// Annotations returns what FromAnnotations reads as the same Service. Policies are written out even where they
// have their default, so that a bundle shows what can be changed.
func (s *Service) Annotations() map[string]string {
	a := map[string]string{
		KeyEngine:      s.Engine,
		KeyGate:        s.Gate,
		KeyAppKey:      string(s.AppKey),
		KeyCheckpoint:  s.Checkpoint.String(),
		KeyHistory:     strconv.Itoa(s.History),
		KeyHugePages:   string(cmp.Or(s.HugePages, HugePagesOff)),
		KeySpares:      strconv.Itoa(s.Spares),
		KeyOnCrash:     s.OnCrash.String(),
		KeyConcurrency: string(s.Concurrency),
		KeyTimers:      s.Timers.String(),
		KeyPath:        string(cmp.Or(s.Path, PathAuto)),
	}
	var sockets, ports []string
	for _, e := range s.Endpoints {
		if e.Network == "tcp" {
			ports = append(ports, e.Address)
		} else {
			sockets = append(sockets, e.Address)
		}
	}
	if s.Gate == GateBinder {
		a[KeyBinderManager] = s.Binder.Manager
	}
	for key, list := range map[string][]string{
		KeySocket: sockets, KeyTCP: ports, KeyShared: s.Shared, KeyPrivate: s.Private, KeyBinderDevices: s.Binder.Devices, KeyBinderNames: s.Binder.Names,
	} {
		if len(list) > 0 {
			a[key] = JoinList(list)
		}
	}
	if s.HistoryBytes != 0 {
		a[KeyHistoryBytes] = strconv.FormatInt(s.HistoryBytes, 10)
	}
	if s.MemoryBudget != 0 {
		a[KeyMemory] = strconv.FormatInt(s.MemoryBudget, 10)
	}
	if s.Instances != 0 {
		a[KeyInstances] = strconv.Itoa(s.Instances)
	}
	if s.Binder.Publish != "" {
		a[KeyBinderPublish] = s.Binder.Publish
	}
	if s.CrashReply != "" {
		a[KeyCrashReply] = FormatCrashReply(s.CrashReply)
	}
	if s.Warm != "" {
		a[KeyWarm] = s.Warm
	}
	return a
}
