package spec

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Validate checks a Service that was not made by FromAnnotations. Its error is that of FromAnnotations.
func (s *Service) Validate() error {
	_, _, err := FromAnnotations(s.Annotations())
	return err
}

// contradictions checks what no value shows by itself. noEndpoint says that neither endpoint key was given at
// all, noDevices the same of the key for Binder devices; one that was given and is wrong has been reported already.
//
// Two pairs look contradictory and are not: on-crash=retry with checkpoint=manual re-delivers the request to the
// newest state there is, which may be the base; and crash-reply with on-crash=retry is for the request whose
// retries are used up.
func (s *Service) contradictions(noEndpoint, noDevices bool) error {
	var problems []error
	report := func(key, value, problem, legal string) {
		problems = append(problems, &KeyError{Key: key, Value: value, Problem: problem, Legal: legal})
	}
	if s.Gate == GateBinder {
		s.binderContradictions(noDevices, report)
	} else {
		s.unusedBinder(report)
	}
	if noEndpoint && s.Gate == GateSocket {
		report(KeySocket, "", "a service needs an address, and neither this key nor "+KeyTCP+" is given", legalSocket)
	}
	seen := map[Endpoint]bool{}
	for _, e := range s.Endpoints {
		key := KeySocket
		if e.Network == "tcp" {
			key = KeyTCP
			if s.AppKey == AppKeyPID || s.AppKey == AppKeyCgroup {
				report(KeyAppKey, string(s.AppKey),
					"contradicts "+key+"="+e.Address+": a TCP connection does not tell its peer's process", "uid, connection")
			}
		}
		if seen[e] {
			report(key, e.Address, "is listed twice", "each address once")
		}
		seen[e] = true
	}
	for i, path := range s.Shared {
		switch problem := pathProblem(path); {
		case problem != "":
			report(KeyShared, path, problem, legalShared)
		case seen[Endpoint{Network: "unix", Address: path}]:
			report(KeyShared, path, "contradicts "+KeySocket+": each instance listens on a socket of its own", legalShared)
		case slices.Contains(s.Shared[:i], path):
			report(KeyShared, path, "is listed twice", "each path once")
		}
	}
	s.privateContradictions(report)
	if s.Timers.On && s.Engine == "kmod" {
		report(KeyTimers, s.Timers.String(),
			"contradicts "+KeyEngine+"=kmod: that engine does not tell when an instance's timers are due", "off; or another engine")
	}
	if s.Timers.On && s.Gate == GateBinder {
		report(KeyTimers, s.Timers.String(), "contradicts "+KeyGate+"="+GateBinder+": only the socket gate gives turns for timers", "off")
	}
	s.budgetContradictions(report)
	if s.Engine == "kmod" && s.Concurrency == Parallel {
		report(KeyConcurrency, string(s.Concurrency),
			"contradicts "+KeyEngine+"=kmod: all instances are the same process, and one runs at a time", "strict; or another engine")
	}
	if s.Path == PathConnect || s.Path == PathHandover {
		if s.Gate == GateBinder {
			report(KeyPath, string(s.Path), "has no meaning with "+KeyGate+"=binder", "auto, proxied")
		} else if need := s.NeedsBytes(); need != "" {
			report(KeyPath, string(s.Path),
				"contradicts "+Prefix+need+": on a direct path nobody sees requests and replies", "auto, proxied; or another policy")
		}
	}
	if strings.ContainsRune(s.Warm, 0) {
		report(KeyWarm, s.Warm, "contains a NUL byte", "a shell command")
	}
	return errors.Join(problems...)
}

// budgetContradictions checks the budgets that are kept by evicting apps.
func (s *Service) budgetContradictions(report func(key, value, problem, legal string)) {
	for _, b := range []struct {
		key   string
		value int64
	}{{KeyMemory, s.MemoryBudget}, {KeyInstances, int64(s.Instances)}} {
		if b.value == 0 {
			continue
		}
		value := strconv.FormatInt(b.value, 10)
		if s.Engine == "kmod" {
			report(b.key, value, "contradicts "+KeyEngine+"=kmod: all instances are the same process, and none can be ended to make room", "0; or another engine")
		}
		if s.Gate == GateBinder {
			report(b.key, value, "contradicts "+KeyGate+"="+GateBinder+": other processes hold references to an instance's objects", "0")
		}
	}
}

// privateContradictions checks the private directories.
func (s *Service) privateContradictions(report func(key, value, problem, legal string)) {
	for i, dir := range s.Private {
		inside := []string{dir}
		if problem := pathProblem(dir); problem != "" {
			report(KeyPrivate, dir, problem, legalPrivate)
			continue
		}
		for _, e := range s.Endpoints {
			if e.Network == "unix" && within(e.Address, inside) {
				report(KeyPrivate, dir, "contradicts "+KeySocket+"="+e.Address+": apps connect to it, so that it cannot be an instance's own", legalPrivate)
			}
		}
		for _, path := range s.Shared {
			if within(path, inside) || within(dir, []string{path}) {
				report(KeyPrivate, dir, "contradicts "+KeyShared+"="+path, legalPrivate)
			}
		}
		for _, other := range s.Private[:i] {
			switch {
			case other == dir:
				report(KeyPrivate, dir, "is listed twice", "each directory once")
			case within(other, inside) || within(dir, []string{other}):
				report(KeyPrivate, dir, "overlaps with "+other, legalPrivate)
			}
		}
	}
	if len(s.Private) > 0 && s.Engine == "kmod" {
		report(KeyPrivate, JoinList(s.Private),
			"contradicts "+KeyEngine+"=kmod: all instances are the same process and see the same files", "none; or another engine")
	}
}

// unknownKey suggests the nearest key there is, if one is near.
func unknownKey(key string) error {
	const tooFar = 4
	best, distance := "", tooFar
	for _, k := range Keys() {
		if d := editDistance(strings.ToLower(key), k); d < distance {
			best, distance = k, d
		}
	}
	e := &KeyError{Key: key, Problem: "there is no such key", Legal: strings.Join(Keys(), ", ")}
	if best != "" {
		e.Problem += "; did you mean " + best + "?"
	}
	return e
}

// editDistance is the number of bytes to insert, delete or replace that make b of a.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
