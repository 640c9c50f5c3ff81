package services

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// patience is how long a client waits for a reply. Reaching it is an error, never a measurement.
const patience = 30 * time.Second

// line is a connection on which requests and replies are single lines.
type line struct {
	conn    net.Conn
	replies *bufio.Reader
}

func dialLine(socket string) (*line, error) {
	c, err := net.DialTimeout("unix", socket, patience)
	if err != nil {
		return nil, err
	}
	return &line{c, bufio.NewReader(c)}, nil
}

func (l *line) ask(request string) (string, error) {
	if err := l.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(l.conn, request+"\r\n"); err != nil {
		return "", fmt.Errorf("%s: %w", request, err)
	}
	reply, err := l.replies.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s: %w", request, err)
	}
	return strings.TrimRight(reply, "\r\n"), nil
}

func (l *line) Close() error { return l.conn.Close() }

// increment is a counter that one line moves.
type increment struct {
	*line
	request, prefix string
}

// lineCounter makes a Dial of a request whose reply is prefix and the new number.
func lineCounter(request, prefix string) func(string) (Counter, error) {
	return func(socket string) (Counter, error) {
		l, err := dialLine(socket)
		if err != nil {
			return nil, err
		}
		return increment{l, request, prefix}, nil
	}
}

func (i increment) Add() (uint64, error) {
	reply, err := i.ask(i.request)
	if err != nil {
		return 0, err
	}
	number, ok := strings.CutPrefix(reply, i.prefix)
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("%s: reply %q is no number", i.request, reply)
	}
	return n, nil
}

// lineCrash makes a Crash of a request that the service does not survive.
func lineCrash(request string) func(string) error {
	return func(socket string) error {
		l, err := dialLine(socket)
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
		return expectDeath(l.ask(request))
	}
}

// expectDeath turns the end of a connection into success, and a reply into an error.
func expectDeath(reply string, err error) error {
	var late net.Error
	switch {
	case err == nil:
		return fmt.Errorf("the service has survived and replies %q", reply)
	case errors.As(err, &late) && late.Timeout():
		return err
	default:
		return nil
	}
}

// memcachedCounter makes sure that there is something to increment.
type memcachedCounter struct{ *line }

func dialMemcached(socket string) (Counter, error) {
	l, err := dialLine(socket)
	if err != nil {
		return nil, err
	}
	return memcachedCounter{l}, nil
}

func (m memcachedCounter) Add() (uint64, error) {
	reply, err := m.ask("incr corsa-count 1")
	if err == nil && reply == "NOT_FOUND" {
		if reply, err = m.ask("add corsa-count 0 0 1\r\n1"); err == nil && reply == "STORED" {
			return 1, nil
		}
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(reply), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("incr: reply %q is no number", reply)
	}
	return n, nil
}

// httpCounter keeps one connection alive, as a browser or a library does.
type httpCounter struct {
	client       *http.Client
	method, path string
	parse        func(body string) (uint64, error)
}

func newHTTPClient(socket string) *http.Client {
	return &http.Client{
		Timeout: patience,
		Transport: &http.Transport{
			MaxConnsPerHost: 1,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
		},
	}
}

func dialHTTP(method, path string, parse func(string) (uint64, error)) func(string) (Counter, error) {
	return func(socket string) (Counter, error) {
		return &httpCounter{newHTTPClient(socket), method, path, parse}, nil
	}
}

func (h *httpCounter) Add() (uint64, error) {
	body, err := request(h.client, h.method, h.path)
	if err != nil {
		return 0, err
	}
	return h.parse(body)
}

func (h *httpCounter) Close() error {
	h.client.CloseIdleConnections()
	return nil
}

func request(client *http.Client, method, path string) (string, error) {
	req, err := http.NewRequest(method, "http://service"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return string(body), err
}

func httpCrash(path string) func(string) error {
	return func(socket string) error {
		client := newHTTPClient(socket)
		defer client.CloseIdleConnections()
		return expectDeath(request(client, http.MethodPost, path))
	}
}

func plainNumber(body string) (uint64, error) {
	return strconv.ParseUint(strings.TrimSpace(body), 10, 64)
}

// The third line of stub_status holds accepted connections, handled connections and requests.
var statusLine = regexp.MustCompile(`(?m)^ (\d+) (\d+) (\d+) $`)

func nginxRequests(body string) (uint64, error) {
	m := statusLine.FindStringSubmatch(body)
	if m == nil {
		return 0, fmt.Errorf("unexpected status page %q", body)
	}
	return strconv.ParseUint(m[3], 10, 64)
}
