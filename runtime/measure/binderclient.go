package measure

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// load is a client of a measurement.
type load struct {
	cmd     *exec.Cmd
	orders  *json.Encoder
	answers *json.Decoder
	in      io.Closer
}

// startLoad starts a client of the service at a place. It ends with the run, if not by stop before.
func (r *run) startLoad(at echo, uid int) (*load, error) {
	cmd := exec.CommandContext(r.ctx, r.Corsa, append([]string{"binder", "load", at.device, strconv.Itoa(uid)}, at.names()...)...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &load{cmd, json.NewEncoder(in), json.NewDecoder(out), in}, nil
}

func (l *load) stop() {
	_ = l.in.Close()
	_ = l.cmd.Process.Kill()
	_ = l.cmd.Wait() // killed, or done
}

func (l *load) order(o loadOrder) error { return l.orders.Encode(o) }

func (l *load) answer() (calls []loadCall, err error) {
	if err := l.answers.Decode(&calls); err != nil {
		return nil, fmt.Errorf("a client has failed: %w", err)
	}
	return calls, nil
}

// calls has n calls made and adds their durations to times.
func (l *load) calls(n int, times *[]time.Duration) error {
	if err := l.order(loadOrder{Calls: n}); err != nil {
		return err
	}
	calls, err := l.answer()
	for _, c := range calls {
		*times = append(*times, time.Duration(c[1]-c[0]))
	}
	return err
}
