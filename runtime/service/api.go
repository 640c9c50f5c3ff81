package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/instance"
)

// maxRequest is the size of a request body in bytes, more than any can need.
const maxRequest = 64 << 10

// serveControl answers the control API on l until ctx is done; requests that are under way then are finished.
func (m *Monitor) serveControl(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           m.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("control socket: %w", err)
	case <-ctx.Done():
	}
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(wait); err != nil {
		return errors.Join(err, srv.Close())
	}
	return nil
}

func (m *Monitor) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ready", answer(func(*http.Request) (any, error) { return struct{}{}, nil }))
	mux.HandleFunc("GET /v1/service", answer(func(*http.Request) (any, error) { return m.view(), nil }))
	mux.HandleFunc("GET /v1/binder", answer(func(*http.Request) (any, error) { return m.binderStats() }))
	mux.HandleFunc("GET /v1/apps", answer(func(*http.Request) (any, error) { return m.viewApps(), nil }))
	mux.HandleFunc("GET /v1/apps/{app}/log", answer(func(r *http.Request) (any, error) { return m.history(pathApp(r)) }))
	mux.HandleFunc("POST /v1/apps/{app}/checkpoint", answer(m.postCheckpoint))
	mux.HandleFunc("POST /v1/apps/{app}/restore", answer(m.postRestore))
	mux.HandleFunc("POST /v1/signal", answer(m.postSignal))
	mux.HandleFunc("POST /v1/stop", answer(func(*http.Request) (any, error) {
		m.requestStop()
		return struct{}{}, nil
	}))
	mux.HandleFunc("GET /v1/events", m.getEvents)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.metrics.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
	return mux
}

func pathApp(r *http.Request) instance.App { return instance.App(r.PathValue("app")) }

// answer turns a function into a handler that answers with JSON.
func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		status := http.StatusOK
		if err != nil {
			v, status = encodeError(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v) // the client has gone away
	}
}

// readBody decodes the request's JSON into v. No body at all leaves v as it is.
func readBody(r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func (m *Monitor) postCheckpoint(r *http.Request) (any, error) {
	var req checkpointRequest
	if err := readBody(r, &req); err != nil {
		return nil, err
	}
	return m.checkpointNow(r.Context(), pathApp(r), req.Tag)
}

func (m *Monitor) postRestore(r *http.Request) (any, error) {
	var req restoreRequest
	if err := readBody(r, &req); err != nil {
		return nil, err
	}
	return m.restore(r.Context(), pathApp(r), req.To)
}

func (m *Monitor) postSignal(r *http.Request) (any, error) {
	var req signalRequest
	if err := readBody(r, &req); err != nil {
		return nil, err
	}
	if req.Signal < 1 || req.Signal > 64 {
		return nil, fmt.Errorf("%w: signal %d: must be between 1 and 64", ErrInvalid, req.Signal)
	}
	return struct{}{}, m.signal(unix.Signal(req.Signal))
}

// getEvents streams events, one JSON object a line.
func (m *Monitor) getEvents(w http.ResponseWriter, r *http.Request) {
	var since uint64
	if s := r.URL.Query().Get("since"); s != "" {
		var err error
		if since, err = strconv.ParseUint(s, 10, 64); err != nil {
			e, status := encodeError(fmt.Errorf("%w: since=%q: must be the number of an event", ErrInvalid, s))
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(e)
			return
		}
	}
	past, ch := m.bus.subscribe(since)
	defer m.bus.unsubscribe(ch)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	for _, e := range past {
		if enc.Encode(e) != nil {
			return
		}
	}
	for flush.Flush() == nil {
		select {
		case e, ok := <-ch:
			if !ok || enc.Encode(e) != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
