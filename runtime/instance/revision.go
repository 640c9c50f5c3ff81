package instance

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

var (
	// ErrUnknownRevision says that a revision names no checkpoint of the app.
	ErrUnknownRevision = errors.New("no such checkpoint")
	// ErrAmbiguous says that it names several.
	ErrAmbiguous = errors.New("ambiguous checkpoint")
)

// Names of checkpoints besides Base, tags and ids.
const (
	revHead   = "HEAD"   // what the app's instance descends from
	revLatest = "latest" // what was taken last, on whatever branch
)

// maxShown bounds the candidates that an ambiguity lists.
const maxShown = 8

// Lookup finds the checkpoint that a revision names in an app's history:
//
//	base           the state in which the service was adopted
//	HEAD           the checkpoint that the app's instance descends from; also the empty text
//	latest         the one taken last; the base if there is none
//	TAG            the one with this tag
//	ID             the one whose id begins so, if there is but one
//	REV^, REV~N    the parent of REV; its Nth ancestor (REV~ is REV~1). They can be repeated: HEAD^^~3
//
// A tag goes before an id. Errors are ErrUnknownApp, ErrUnknownRevision and ErrAmbiguous.
func (m *Model) Lookup(app App, revision string) (Checkpoint, error) {
	e, err := m.entry(app)
	if err != nil {
		return Checkpoint{}, err
	}
	root, steps, err := parseRevision(revision)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("app %s: %w", app, err)
	}
	id, err := e.root(root)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("app %s: %w", app, err)
	}
	for done := range steps {
		if id == Base {
			return Checkpoint{}, fmt.Errorf("app %s: %w: %s is %d steps back and the base, which has no parent, is reached after %d",
				app, ErrUnknownRevision, revision, steps, done)
		}
		id = e.checkpoints[id].Parent
	}
	return m.get(app, e, id)
}

// root finds what the part before ^ and ~ names.
func (e *entry) root(name string) (ID, error) {
	switch name {
	case string(Base):
		return Base, nil
	case revHead, "":
		return e.head, nil
	case revLatest:
		if c := e.newest(); c != nil {
			return c.ID, nil
		}
		return Base, nil
	}
	if id, ok := e.tags[name]; ok {
		return id, nil
	}
	var found []string
	for _, c := range e.order {
		if strings.HasPrefix(string(c.ID), strings.ToLower(name)) {
			found = append(found, string(c.ID))
		}
	}
	switch len(found) {
	case 1:
		return ID(found[0]), nil
	case 0:
		return "", fmt.Errorf("%w: nothing has the tag or id %q; `corsa log` lists what there is", ErrUnknownRevision, name)
	}
	more := ""
	if len(found) > maxShown {
		more = fmt.Sprintf(" and %d more", len(found)-maxShown)
		found = found[:maxShown]
	}
	return "", fmt.Errorf("%w: %q begins %s%s", ErrAmbiguous, name, strings.Join(found, ", "), more)
}

// parseRevision splits "HEAD^~2" into "HEAD" and 3.
func parseRevision(s string) (root string, steps int, err error) {
	const maxSteps = 1 << 30
	at := strings.IndexAny(s, "^~")
	if at < 0 {
		return s, 0, nil
	}
	root = s[:at]
	for rest := s[at:]; rest != ""; {
		op := rest[0]
		rest = rest[1:]
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		rest = rest[len(digits):]
		n := 1
		switch {
		case rest != "" && rest[0] != '^' && rest[0] != '~':
			return "", 0, fmt.Errorf("%w: %q: after ^ only ^ and ~ can follow, after ~ also a number", ErrUnknownRevision, s)
		case op == '^' && digits != "":
			return "", 0, fmt.Errorf("%w: %q: a checkpoint has one parent; write ~%s for the ancestor of that degree", ErrUnknownRevision, s, digits)
		case digits != "":
			if n, err = strconv.Atoi(digits); err != nil || n > maxSteps {
				return "", 0, fmt.Errorf("%w: %q: no history goes back %s steps", ErrUnknownRevision, s, digits)
			}
		}
		steps = min(steps+n, maxSteps)
	}
	return root, steps, nil
}
