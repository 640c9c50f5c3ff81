package spec

import (
	"errors"
	"fmt"
)

// ErrInvalid is what every error about a declaration is: an unknown key, a bad value, a contradiction, or a
// config.json that cannot be read as one.
var ErrInvalid = errors.New("invalid service declaration")

// KeyError says what is wrong with one annotation. errors.Is(err, ErrInvalid) holds.
type KeyError struct {
	Key     string // the full annotation key, e.g. "dev.corsa.checkpoint"
	Value   string // as it was written; empty if the key is missing
	Problem string // what is wrong with it
	Legal   string // which values are legal
}

func (e *KeyError) Error() string {
	s := e.Key
	if e.Value != "" {
		s += fmt.Sprintf("=%q", e.Value)
	}
	s += ": " + e.Problem
	if e.Legal != "" {
		s += "; legal: " + e.Legal
	}
	return s
}

// Is makes errors.Is(err, ErrInvalid) true.
func (e *KeyError) Is(target error) bool { return target == ErrInvalid }

// valueError is the problem with a value whose key is not known yet: the parsers are shared by annotations and
// flags of the same names.
type valueError struct{ problem, legal string }

func (e *valueError) Error() string {
	if e.legal == "" {
		return e.problem
	}
	return e.problem + "; legal: " + e.legal
}

func (e *valueError) Is(target error) bool { return target == ErrInvalid }

func bad(legal, format string, args ...any) error {
	return &valueError{problem: fmt.Sprintf(format, args...), legal: legal}
}
