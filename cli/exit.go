package cli

import "fmt"

// The exit codes of corsa itself, which are runc's. `run` and `exec` exit with the code of the program that they ran.
const (
	exitFailure = 1   // usage errors too
	exitExec    = 255 // exec could not execute the program
)

// codedError is a failure with an exit code of its own.
type codedError struct {
	err  error
	code int
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// exitCode is returned by a verb that exits with a code of its own and has nothing to say.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// usageError is a mistake in the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usagef makes an error of a command line that cannot be right whatever the state of the world; the command's usage is shown with it.
func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// setupError is a failure before the verb runs that is not a mistake in the command line.
type setupError struct{ err error }

func (e *setupError) Error() string { return e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }
