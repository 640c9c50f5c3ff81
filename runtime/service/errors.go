package service

import (
	"errors"
	"net/http"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/gate"
	"corsa.dev/corsa/runtime/instance"
)

var (
	// ErrNotServed says that there is no virtualised service of that id.
	ErrNotServed = errors.New("not a virtualised service; `corsa list` shows what there is")
	// ErrUnknownApp says that the service has never had a request from the app.
	ErrUnknownApp = instance.ErrUnknownApp
	// ErrUnknownCheckpoint says that an app's history has no such checkpoint.
	ErrUnknownCheckpoint = instance.ErrUnknownRevision
	// ErrInvalid says that a request makes no sense.
	ErrInvalid = errors.New("invalid request")
	// ErrNoInstance says that the app has no instance at the moment; restoring it gives it one.
	ErrNoInstance = errors.New("the app has no instance")
	// ErrLeft says that an app is a connection or a process that has ended. What it has tagged is kept for inspection.
	ErrLeft = errors.New("it has ended and cannot come back; of what it had the tagged checkpoints are left")
	// ErrNotListening says that the service did not listen where its bundle says that it does.
	ErrNotListening = errors.New("the service does not listen")
	// ErrStopping says that the service is being ended.
	ErrStopping = errors.New("the service is being stopped")

	errLocked = errors.New("it has a monitor already")
)

// codes are the errors that keep their identity across the control API.
var codes = []struct {
	err    error
	code   string
	status int
}{
	{ErrNotServed, "not-served", http.StatusNotFound},
	{ErrUnknownApp, "unknown-app", http.StatusNotFound},
	{ErrUnknownCheckpoint, "unknown-checkpoint", http.StatusNotFound},
	{instance.ErrAmbiguous, "ambiguous-checkpoint", http.StatusBadRequest},
	{instance.ErrTag, "bad-tag", http.StatusBadRequest},
	{ErrInvalid, "invalid", http.StatusBadRequest},
	{ErrNoInstance, "no-instance", http.StatusConflict},
	{ErrLeft, "left", http.StatusConflict},
	{ErrStopping, "stopping", http.StatusServiceUnavailable},
	{ErrLimit, "limit", http.StatusServiceUnavailable},
	{gate.ErrQuarantined, "quarantined", http.StatusConflict},
	{gate.ErrStopped, "stopped", http.StatusConflict},
	{engine.ErrRefused, "refused", http.StatusConflict},
	{engine.ErrBusy, "busy", http.StatusConflict},
	{engine.ErrGone, "gone", http.StatusConflict},
}

// remoteError is an error of a monitor as its client sees it.
type remoteError struct {
	Message string `json:"error"`
	Code    string `json:"code,omitempty"`
}

func (e *remoteError) Error() string { return e.Message }

func (e *remoteError) Is(target error) bool {
	for _, c := range codes {
		if c.err == target {
			return e.Code == c.code
		}
	}
	return false
}

// encodeError is what the API answers for err, and with which status.
func encodeError(err error) (remoteError, int) {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return remoteError{Message: err.Error(), Code: c.code}, c.status
		}
	}
	return remoteError{Message: err.Error()}, http.StatusInternalServerError
}
