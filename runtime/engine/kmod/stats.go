package kmod

import (
	"fmt"
	"time"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/runtime/engine"
)

// What the module counts and times of a service that this engine has adopted. For measurements.

func sessionOf(s engine.Service) (*client.Session, error) {
	k, ok := s.(*service)
	if !ok {
		return nil, fmt.Errorf("%T is no service of the engine kmod", s)
	}
	return k.session, nil
}

// Stats reads the module's counters and histograms.
func Stats(s engine.Service) (*client.Stats, error) {
	session, err := sessionOf(s)
	if err != nil {
		return nil, err
	}
	return session.Stats()
}

// StartSamples begins to record raw durations of a kind; Samples returns and forgets them.
func StartSamples(s engine.Service, kind client.HistKind) error {
	session, err := sessionOf(s)
	if err != nil {
		return err
	}
	return session.StartSamples(kind)
}

// Samples returns what has been recorded since StartSamples or the last call.
func Samples(s engine.Service, kind client.HistKind) ([]time.Duration, error) {
	session, err := sessionOf(s)
	if err != nil {
		return nil, err
	}
	return session.Samples(kind)
}
