package enginetest

import (
	"fmt"
	"slices"
	"strings"
)

// Engines are those that the programs make declarations about, in the order of the report's columns.
var Engines = []string{"fork", "kmod"}

// fate is what becomes of a kind of state in an engine's hands.
type fate string

const (
	private fate = "private" // each instance has its own, with the state at the checkpoint
	shared  fate = "shared"  // it is common to all instances
	partly  fate = "partly"  // private but for what the text says: the program is not run
	refused fate = "refused" // named before anything is touched
)

// expectation is what a program declares about one engine.
type expectation struct {
	fate fate
	word string // refused: a blocker's object contains it
	text string // refused: and its reason contains this; else a remark
}

// parseExpectation parses "refused WORD: REASON", "private", "private: REMARK" and the like.
func parseExpectation(value string) (e expectation, err error) {
	head, text, _ := strings.Cut(value, ": ")
	name, word, _ := strings.Cut(head, " ")
	e = expectation{fate(name), word, text}
	switch {
	case e.fate == refused && word != "" && text != "":
	case e.fate == partly && word == "" && text != "":
	case (e.fate == private || e.fate == shared) && word == "":
	default:
		err = fmt.Errorf("%q: want `refused WORD: REASON`, `partly: REMARK`, or private or shared with `: REMARK` or without", value)
	}
	return e, err
}

// engine takes in a directive "NAME EXPECTATION".
func (p *program) engine(value string) error {
	name, rest, _ := strings.Cut(value, " ")
	if !slices.Contains(Engines, name) {
		return fmt.Errorf("%q: there is no engine %q", value, name)
	}
	e, err := parseExpectation(rest)
	if err != nil {
		return err
	}
	if p.engines == nil {
		p.engines = map[string]expectation{}
	}
	p.engines[name] = e
	return nil
}

// expect is what is to become of the program's state with the engine.
func (p *program) expect(engine string) expectation {
	if e, ok := p.engines[engine]; ok {
		return e
	}
	return p.otherwise
}
