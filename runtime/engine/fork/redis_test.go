package fork

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"corsa.dev/corsa/runtime/engine"
)

// dialFile turns a descriptor of the engine into a connection.
func dialFile(t testing.TB, fd int, err error) net.Conn {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "conn")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func ask(t *testing.T, c net.Conn, q string) string {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, q+"\r\n"); err != nil {
		t.Fatal(q, err)
	}
	s, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(q, err)
	}
	return strings.TrimSpace(s)
}

func TestRedis(t *testing.T) {
	dir := t.TempDir()
	sock := dir + "/r.sock"
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", sock, "--save", "", "--dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it was destroyed with the service
		_ = cmd.Wait()
	})
	for range 100 {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	log := logrus.New()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	t0 := time.Now()
	svc, err := New().Adopt(ctx, engine.Target{
		PID: cmd.Process.Pid, Listeners: []engine.Address{{Network: "unix", Address: sock}}, Dir: dir, Log: logrus.NewEntry(log),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := svc.Destroy(); err != nil {
			t.Error(err)
		}
	})
	t.Log("adopt", time.Since(t0))
	t0 = time.Now()
	in, _, err := svc.Branch(ctx, svc.Base(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("branch", time.Since(t0), in.PID())
	defer func() {
		if err := in.Kill(); err != nil {
			t.Error(err)
		}
	}()
	fd, err := in.Dial(0)
	c := dialFile(t, fd, err)
	activate := func() {
		if err := in.Activate(); err != nil {
			t.Fatal(err)
		}
	}
	activate()
	for i := 1; i < 100; i++ {
		if s := ask(t, c, "INCR x"); s != fmt.Sprintf(":%d", i) {
			t.Fatal(s)
		}
		if err := in.Park(time.Second); err != nil {
			t.Fatal(err)
		}
		activate()
	}
}
