package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/instance"
)

// answerLimit is how long a monitor that has the lock may take until it answers: it may be taking over.
const answerLimit = 60 * time.Second

// Client talks to the monitor of one service. It is safe for concurrent use.
type Client struct {
	ref  Ref
	http *http.Client
}

// Open returns a client of r's monitor. If the monitor has died, another one is started first, which takes over.
// ErrNotServed.
func Open(ctx context.Context, r Ref) (*Client, error) {
	c := newClient(r)
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// connect makes sure that there is a monitor and that it answers.
func (c *Client) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerLimit,
		fmt.Errorf("service %q: its monitor does not answer within %v; see %s", c.ref.ID, answerLimit, c.ref.layout().log()))
	defer cancel()
	for {
		if err := ensure(ctx, c.ref); err != nil {
			return err
		}
		err := c.roundTrip(ctx, http.MethodGet, "/v1/ready", nil, nil)
		if err == nil || !lostMonitor(err) {
			return err
		}
		// It is starting, or dying.
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lostMonitor reports whether err is that of a connection on whose other end there is no monitor, or one that dies.
func lostMonitor(err error) bool {
	for _, e := range []error{unix.ECONNREFUSED, fs.ErrNotExist, unix.ECONNRESET, unix.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func newClient(r Ref) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return dialUnix(ctx, r.layout().control()) }
	return &Client{ref: r, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Close releases idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Service describes what is served.
func (c *Client) Service(ctx context.Context) (ServiceView, error) {
	var v ServiceView
	return v, c.call(ctx, http.MethodGet, "/v1/service", nil, &v)
}

// Binder reads the counters of the service's Binder gate. ErrInvalid: it has another gate.
func (c *Client) Binder(ctx context.Context) (engine.BinderStats, error) {
	var s engine.BinderStats
	err := c.call(ctx, http.MethodGet, "/v1/binder", nil, &s)
	return s, err
}

// Apps lists the apps, sorted.
func (c *Client) Apps(ctx context.Context) ([]AppView, error) {
	var v []AppView
	return v, c.call(ctx, http.MethodGet, "/v1/apps", nil, &v)
}

// Log returns app's history. ErrUnknownApp.
func (c *Client) Log(ctx context.Context, app instance.App) (instance.History, error) {
	var v instance.History
	return v, c.call(ctx, http.MethodGet, appPath(app, "log"), nil, &v)
}

// Checkpoint captures app's instance at its next transaction boundary and tags the checkpoint unless tag is empty.
// ErrUnknownApp, ErrNoInstance, engine.ErrRefused.
func (c *Client) Checkpoint(ctx context.Context, app instance.App, tag string) (CheckpointView, error) {
	var v CheckpointView
	return v, c.call(ctx, http.MethodPost, appPath(app, "checkpoint"), checkpointRequest{Tag: tag}, &v)
}

// Restore puts app back to the checkpoint that the revision to names; "" is the newest. ErrUnknownApp,
// ErrUnknownCheckpoint.
func (c *Client) Restore(ctx context.Context, app instance.App, to string) (RestoreView, error) {
	var v RestoreView
	return v, c.call(ctx, http.MethodPost, appPath(app, "restore"), restoreRequest{To: to}, &v)
}

// Signal sends sig to every instance.
func (c *Client) Signal(ctx context.Context, sig unix.Signal) error {
	return c.call(ctx, http.MethodPost, "/v1/signal", signalRequest{Signal: int(sig)}, nil)
}

// Events calls f for every event with a number above since, and for those to come, until ctx is done, f returns an
// error or the service ends. It returns nil in the last case.
func (c *Client) Events(ctx context.Context, since uint64, f func(Event) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://corsa/v1/events?since="+strconv.FormatUint(since, 10), nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("service %q: %w", c.ref.ID, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.failure(resp)
	}
	lines := json.NewDecoder(resp.Body)
	for {
		var e Event
		switch err := lines.Decode(&e); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("service %q: its monitor went away: %w", c.ref.ID, err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
}

// Metrics copies the Prometheus metrics to w.
func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://corsa/metrics", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.failure(resp)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}

func (c *Client) stop(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/stop", nil, nil)
}

// call is a round trip. A question is asked again if the monitor died over it; a command is not, since it may have been
// carried out.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	err := c.roundTrip(ctx, method, path, in, out)
	if method == http.MethodGet && err != nil && lostMonitor(err) {
		if err := c.connect(ctx); err != nil {
			return err
		}
		return c.roundTrip(ctx, method, path, in, out)
	}
	return err
}

func (c *Client) roundTrip(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://corsa"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("service %q: %w", c.ref.ID, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return c.failure(resp)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("service %q: answer to %s %s: %w", c.ref.ID, method, path, err)
	}
	return nil
}

func (c *Client) failure(resp *http.Response) error {
	var e remoteError
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || json.Unmarshal(data, &e) != nil || e.Message == "" {
		return fmt.Errorf("service %q: %s: %s", c.ref.ID, resp.Status, bytes.TrimSpace(data))
	}
	return fmt.Errorf("service %q: %w", c.ref.ID, &e)
}

func appPath(app instance.App, verb string) string {
	return "/v1/apps/" + url.PathEscape(string(app)) + "/" + verb
}
