package measure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"corsa.dev/corsa/spec"
)

// served measures a GET through `corsa serve`, with the whole of corsa in between, against a server without it.
func (r *run) served() (err error) {
	defer func() { err = errors.Join(err, r.cpus.self(AnyCPU)) }()
	for _, cpu := range []string{PinnedCPU, AnyCPU} {
		ways := []way{{"manual", spec.PathProxied, targetGet}, {"manual", spec.PathHandover, targetDirect}}
		if !r.Quick {
			ways = append(ways, way{"every", spec.PathProxied, 0}) // it waits for the checkpoint after the request before
		}
		for _, w := range ways {
			r.Progress(fmt.Sprintf("redis: GET through corsa, %s CPU, %s", cpu, w))
			// Programs begin on the CPUs of the thread that starts them.
			if err := r.cpus.self(cpu); err != nil {
				return err
			}
			if err := r.get(cpu, w); err != nil {
				return fmt.Errorf("GET through corsa: %w", err)
			}
		}
	}
	return nil
}

// way is how a service is served.
type way struct {
	checkpoint string
	path       spec.Path
	target     float64
}

func (w way) String() string { return fmt.Sprintf("checkpoint %s, %s", w.checkpoint, w.path) }

// name is that of a row about w.
func (w way) name(row string) string {
	if w.path == spec.PathHandover {
		return row + handedOver
	}
	return row
}

func (r *run) get(cpu string, w way) (err error) {
	dir := r.path("get")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	alone := redisCommand(r.path("get", "direct.sock"), dir)
	if err := alone.Start(); err != nil {
		return err
	}
	defer func() {
		_ = alone.Process.Kill()
		_ = alone.Wait() // killed
	}()
	root, id, public := r.path("get", "root"), fmt.Sprintf("measure-%d", os.Getpid()), r.path("get", "redis.sock")
	serve := append([]string{
		"serve", "--detach", "--id", id, "--socket", public, "--checkpoint", w.checkpoint, "--path", string(w.path), "--app-key", "connection", "--",
	}, redisCommand(public, "/").Args...)
	defer func() { err = errors.Join(err, r.corsa(root, "delete", "--force", id)) }()
	if err := r.corsa(root, serve...); err != nil {
		return err
	}
	paths := []string{r.path("get", "direct.sock"), public, public} // without corsa, and two apps
	if w.path == spec.PathHandover {
		boxed, err := r.boxed(cpu, root, id)
		if err != nil {
			return err
		}
		paths = append(paths, boxed)
	}
	conns := make([]*conn, len(paths))
	for i, path := range paths {
		if conns[i], err = populated(r.ctx, path); err != nil {
			return err
		}
		defer conns[i].close()
	}
	if err := r.gets(cpu, w, conns); err != nil || w.checkpoint != "manual" {
		return err
	}
	return r.visits(cpu, w)
}

// boxed starts a server in the container of the service, with which it ends, and returns its socket.
func (r *run) boxed(cpu, root, id string) (string, error) {
	pidFile := r.path("get", "boxed.pid")
	const socket = "/tmp/boxed.sock"
	out, err := os.Create(r.path("get", "boxed.log")) // the server has it, too: a pipe would never end
	if err != nil {
		return "", err
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(r.Corsa, append([]string{"--root", root, "exec", "--detach", "--pid-file", pidFile, id}, redisCommand(socket, "/").Args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name()) // besides the error
		return "", fmt.Errorf("corsa exec: %w: %s", err, bytes.TrimSpace(said))
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return "", err
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil {
		return "", err
	}
	path := fmt.Sprintf("/proc/%d/root%s", pid, socket)
	c, err := populated(r.ctx, path) // it has all its threads then
	if err != nil {
		return "", err
	}
	c.close()
	return path, r.cpus.process(cpu, pid) // a container's programs begin on all CPUs
}

const getReply = len("$8\r\nvalue:42\r\n")

func getRequest() []byte { return []byte("*2\r\n$3\r\nGET\r\n$6\r\nkey:42\r\n") }

// gets measures an app that talks alone, and two that take turns. conns are to a server without corsa, of two apps, and to a
// server in the same container, if there is one.
func (r *run) gets(cpu string, w way, conns []*conn) error {
	alone := slices.Delete(slices.Clone(conns), 2, 3) // one of the apps
	times := make([][]time.Duration, len(alone))
	var switched []time.Duration
	n := 2000
	if w.checkpoint != "manual" {
		n = 200
	}
	err := r.repeat(5, 5, func() error { // in turns, since the machine's mood changes
		for i := range times {
			if err := alone[i].gets(n, getRequest(), getReply, &times[i]); err != nil {
				return err
			}
		}
		for range n / 4 {
			for _, c := range conns[1:3] {
				t0 := time.Now()
				if err := c.ask(getRequest(), getReply); err != nil {
					return err
				}
				switched = append(switched, time.Since(t0))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	row := Row{Name: w.name(rowGet), Service: "redis", CPU: cpu, Value: describe(times[1]), Note: w.String()}
	r.add(row.ratio("GET without corsa", describe(times[0]), w.target))
	if len(times) > 2 {
		row = Row{Name: w.name(rowGetBox), Service: "redis", CPU: cpu, Value: describe(times[1]), Note: w.String()}
		r.add(row.ratio("GET from a server in the same container", describe(times[2]), w.target))
	}
	row = Row{Name: w.name(rowGetTurn), Service: "redis", CPU: cpu, Value: describe(switched), Note: w.String()}
	r.add(row.ratio("GET without corsa", describe(times[0]), 0))
	return nil
}

// visits measures connections that are made for one request each.
func (r *run) visits(cpu string, w way) (err error) {
	root, id, public := r.path("get", "root"), fmt.Sprintf("measure-uid-%d", os.Getpid()), r.path("get", "uid.sock")
	serve := append([]string{"serve", "--detach", "--id", id, "--socket", public, "--path", string(w.path), "--"}, redisCommand(public, "/").Args...)
	defer func() { err = errors.Join(err, r.corsa(root, "delete", "--force", id)) }()
	if err := r.corsa(root, serve...); err != nil {
		return err
	}
	var times [2][]time.Duration
	paths := []string{r.path("get", "direct.sock"), public}
	for _, path := range paths {
		c, err := populated(r.ctx, path)
		if err != nil {
			return err
		}
		c.close()
	}
	err = r.repeat(5, 5, func() error {
		for i, path := range paths {
			for range 200 {
				t0 := time.Now()
				c, err := dialPath(r.ctx, path)
				if err != nil {
					return err
				}
				err = c.ask(getRequest(), getReply)
				c.close()
				if err != nil {
					return err
				}
				times[i] = append(times[i], time.Since(t0))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	row := Row{Name: w.name(rowVisit), Service: "redis", CPU: cpu, Value: describe(times[1]), Note: w.String()}
	r.add(row.ratio("without corsa", describe(times[0]), 0))
	return nil
}

func (c *conn) gets(n int, request []byte, reply int, times *[]time.Duration) error {
	const warm = 100
	for i := range warm + n {
		t0 := time.Now()
		if err := c.ask(request, reply); err != nil {
			return err
		}
		if i >= warm {
			*times = append(*times, time.Since(t0))
		}
	}
	if !bytes.HasPrefix(c.buf[:], []byte("$8\r\nvalue:42")) {
		return fmt.Errorf("redis answered %q", c.buf[:reply])
	}
	return nil
}

func populated(ctx context.Context, path string) (*conn, error) {
	c, err := dialPath(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := c.populate(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// corsa runs a command of the program that we are, even when the run is being given up.
func (r *run) corsa(root string, args ...string) error {
	cmd := exec.Command(r.Corsa, append([]string{"--root", root}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("corsa %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return nil
}
