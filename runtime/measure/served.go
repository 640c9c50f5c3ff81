package measure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// served measures a GET through `corsa serve`, with the whole of corsa in between, against a server without it.
func (r *run) served() (err error) {
	defer func() { err = errors.Join(err, r.cpus.self(AnyCPU)) }()
	for _, cpu := range []string{PinnedCPU, AnyCPU} {
		policies := []string{"manual"}
		if !r.Quick {
			policies = append(policies, "every")
		}
		for _, policy := range policies {
			r.Progress(fmt.Sprintf("redis: GET through corsa, %s CPU, checkpoint %s", cpu, policy))
			// Programs begin on the CPUs of the thread that starts them.
			if err := r.cpus.self(cpu); err != nil {
				return err
			}
			if err := r.get(cpu, policy); err != nil {
				return fmt.Errorf("GET through corsa: %w", err)
			}
		}
	}
	return nil
}

func (r *run) get(cpu, policy string) (err error) {
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
	serve := append([]string{"serve", "--detach", "--id", id, "--socket", public, "--checkpoint", policy, "--"},
		redisCommand(public, "/").Args...)
	defer func() { err = errors.Join(err, r.corsa(root, "delete", "--force", id)) }()
	if err := r.corsa(root, serve...); err != nil {
		return err
	}
	direct, err := populated(r.ctx, r.path("get", "direct.sock"))
	if err != nil {
		return err
	}
	defer direct.close()
	proxied, err := populated(r.ctx, public)
	if err != nil {
		return err
	}
	defer proxied.close()
	var times [2][]time.Duration
	request := []byte("*2\r\n$3\r\nGET\r\n$6\r\nkey:42\r\n")
	const reply = len("$8\r\nvalue:42\r\n")
	n, target := 2000, targetGet
	if policy != "manual" {
		n, target = 200, 0 // it waits for the checkpoint after the request before
	}
	err = r.repeat(5, 5, func() error { // in turns, since the machine's mood changes
		for i, c := range []*conn{direct, proxied} {
			if err := c.gets(n, request, reply, &times[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	row := Row{Name: rowGet, Service: "redis", CPU: cpu, Value: describe(times[1]), Note: "checkpoint " + policy}
	r.add(row.ratio("direct GET", describe(times[0]), target))
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
