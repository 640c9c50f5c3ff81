// Package instance is the model of one virtualised service: apps, their instances, checkpoints and histories.
// It is pure Go: no system calls, no goroutines, nothing of ours imported.
//
// A Model changes only by applying Records. Each of its operations checks what is asked, applies the record that
// says it and returns the record; written to a journal and applied to an empty Model in the same order, the
// records give the same Model again. What the engine needs to find an image or instance again travels along as an
// opaque handle. A Model is not safe for concurrent use; its owner locks it.
package instance

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// App is an app key as it is written everywhere: "uid:2001", "pid:77.8042" (a pid and its start time, since pids are
// used again), "cgroup:/user.slice/a", "conn:12".
type App string

// ErrBadApp says that a text does not name an app.
var ErrBadApp = errors.New("not an app")

// ParseApp reads an app as users write it: its key, where a bare number means a uid. The result is in the one
// form that compares equal with what a gate makes of a client. The error is an ErrBadApp that shows the legal forms.
func ParseApp(s string) (App, error) {
	kind, value, ok := strings.Cut(s, ":")
	if !ok {
		kind, value = "uid", s
	}
	switch kind {
	case "uid":
		return parseNumber(s, kind, value, 32)
	case "pid":
		pid, start, ok := strings.Cut(value, ".")
		app, err := parseNumber(s, kind, pid, 31)
		if err != nil || !ok {
			return app, err
		}
		if _, err := strconv.ParseUint(start, 10, 64); err != nil {
			return "", fmt.Errorf("%q is %w: write pid:NUMBER.START as `corsa apps` shows it", s, ErrBadApp)
		}
		return app + App("."+start), nil
	case "conn":
		return parseNumber(s, kind, value, 64)
	case "cgroup":
		if !path.IsAbs(value) || path.Clean(value) != value || strings.ContainsRune(value, 0) || !utf8.ValidString(value) {
			return "", fmt.Errorf("%q is %w: a cgroup is an absolute path without . or .., such as cgroup:/user.slice", s, ErrBadApp)
		}
		return App("cgroup:" + value), nil
	}
	return "", fmt.Errorf("%q is %w: write uid:NUMBER (or just the number), pid:NUMBER, cgroup:/PATH or conn:NUMBER", s, ErrBadApp)
}

func parseNumber(s, kind, value string, bits int) (App, error) {
	n, err := strconv.ParseUint(value, 10, bits)
	if errors.Is(err, strconv.ErrRange) {
		return "", fmt.Errorf("%q is %w: the number has more than %d bits", s, ErrBadApp, bits)
	}
	if err != nil {
		return "", fmt.Errorf("%q is %w: write uid:NUMBER (or just the number), pid:NUMBER, cgroup:/PATH or conn:NUMBER", s, ErrBadApp)
	}
	return App(kind + ":" + strconv.FormatUint(n, 10)), nil
}
