package cli

import "fmt"

// The exit codes of corsa itself. `run` and `exec` exit with the code of the program that they ran.
const (
	exitFailure = 1
	exitUsage   = 2
)

// exitCode is returned by a verb that exits with a code of its own and has nothing to say.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// usageError is a mistake in the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usagef makes an error of a command line that cannot be right whatever the state of the world; corsa exits with 2.
func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// setupError is a failure before the verb runs that is not a mistake in the command line.
type setupError struct{ err error }

func (e *setupError) Error() string { return e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }
