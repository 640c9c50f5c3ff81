// Package freshdb shows a test suite in which every test has a database of its own, seeded and warm, for the price of a
// connection. One redis-server is started and seeded once, by corsa. With --app-key connection each connection is an app,
// so each test that connects has a private copy of what the seed made, whatever other tests do to theirs; when it hangs up, the copy
// is gone. The tests know nothing of corsa: they dial a socket.
package freshdb

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var (
	socket string // where the database listens
	took   []time.Duration
)

// The seed: 10,000 accounts with 100 each.
const (
	accounts = 10_000
	balance  = "100"
	seed     = `i=0; while [ $i -lt 10000 ]; do echo "set account:$i 100"; i=$((i+1)); done | redis-cli -s %s >/dev/null`
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// run serves a redis for the time of the tests.
func run(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		fmt.Println("freshdb: needs root")
		return 0, nil
	}
	corsa := os.Getenv("CORSA_BIN")
	if corsa == "" {
		if corsa, err = exec.LookPath("corsa"); err != nil {
			return 0, errors.New("freshdb: install corsa, or say where it is: CORSA_BIN")
		}
	}
	dir, err := os.MkdirTemp("", "freshdb-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	socket = filepath.Join(dir, "redis.sock")
	root := filepath.Join(dir, "corsa")

	serve := exec.Command(corsa, "--root", root, "serve", "--detach", "--id", "freshdb", "--socket", socket,
		"--app-key", "connection", "--spares", "32", "--concurrency", "parallel", "--warm", fmt.Sprintf(seed, socket), "--",
		"redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no")
	serve.Stderr = os.Stderr
	if err := serve.Run(); err != nil {
		return 0, fmt.Errorf("corsa serve: %w", err)
	}
	defer func() {
		if e := exec.Command(corsa, "--root", root, "delete", "--force", "freshdb").Run(); e != nil {
			err = errors.Join(err, fmt.Errorf("corsa delete: %w", e))
		}
	}()

	code = m.Run()
	if n := len(took); n > 0 {
		slices.Sort(took)
		fmt.Printf("%d databases of %d accounts; until a test had its own: p50 %v, p99 %v\n", n, accounts, took[n/2], took[n*99/100])
	}
	return code, nil
}

// database is one test's own.
type database struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

// fresh connects, and that is all. What it measures ends with the first answer.
func fresh(t *testing.T) *database {
	t.Helper()
	begun := time.Now()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	db := &database{t, conn, bufio.NewReader(conn)}
	db.want("PONG", "PING")
	took = append(took, time.Since(begun))
	return db
}

// do runs a command and returns its reply, or "" for none.
func (db *database) do(words ...string) string {
	db.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := io.WriteString(db.conn, b.String()); err != nil {
		db.t.Fatal(err)
	}
	line, err := db.r.ReadString('\n')
	if err != nil {
		db.t.Fatal(err)
	}
	kind, rest := line[0], strings.TrimSpace(line[1:])
	if kind != '$' || rest == "-1" {
		return strings.TrimPrefix(rest, "-1")
	}
	n, err := strconv.Atoi(rest)
	if err != nil {
		db.t.Fatal(err)
	}
	text := make([]byte, n+2)
	if _, err := io.ReadFull(db.r, text); err != nil {
		db.t.Fatal(err)
	}
	return string(text[:n])
}

func (db *database) want(want string, words ...string) {
	db.t.Helper()
	if got := db.do(words...); got != want {
		db.t.Fatalf("%s: got %q, want %q", strings.Join(words, " "), got, want)
	}
}

// Each test may do what it likes to its database, and finds what the seed made.

func TestTransfer(t *testing.T) {
	for i := range 1000 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			db := fresh(t)
			from, to := fmt.Sprintf("account:%d", i), fmt.Sprintf("account:%d", i+1)
			db.want(balance, "GET", from)
			db.want(balance, "GET", to)
			db.want("70", "DECRBY", from, "30")
			db.want("130", "INCRBY", to, "30")
		})
	}
}

func TestEmpty(t *testing.T) {
	db := fresh(t)
	db.want(strconv.Itoa(accounts), "DBSIZE")
	db.want("OK", "FLUSHALL")
	db.want("0", "DBSIZE")
}

func TestAfterEmpty(t *testing.T) {
	fresh(t).want(strconv.Itoa(accounts), "DBSIZE")
}

func TestTwoAtOnce(t *testing.T) {
	a, b := fresh(t), fresh(t)
	a.want("0", "DECRBY", "account:0", "100")
	b.want(balance, "GET", "account:0")
}
