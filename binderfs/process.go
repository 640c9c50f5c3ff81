package binderfs

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrNoLogs says that a mount shows nothing of its devices' users: it was made without Options.Stats.
var ErrNoLogs = errors.New("binderfs is mounted without stats=global")

// Process is what the driver keeps for one open of a device, as binder_logs tells it.
type Process struct {
	PID     int    // in the initial pid namespace, like all pids here
	Context string // name of the device
	Threads []Thread
	Nodes   []Node // its own objects
	Refs    []Ref  // to objects of others
	// Buffers is the number of incoming parcels whose memory the process has not given back.
	Buffers int
	// Pending lists what the driver has not told any thread of the process yet, in its own words.
	Pending []string
}

// Thread is a thread that has been in the driver. It stays listed when it has ended without saying so.
type Thread struct {
	TID    int
	Looper LooperState
	// Transactions and Pending describe, in the driver's words, the calls that the thread is in, innermost first, and what the
	// driver has not told it yet.
	Transactions []string
	Pending      []string
}

// LooperState is what a thread has told the driver about itself.
type LooperState uint8

// The bits that matter to others than the driver.
const (
	LooperRegistered LooperState = 1 << 0 // the driver has asked for it
	LooperEntered    LooperState = 1 << 1
	LooperExited     LooperState = 1 << 2
	LooperPoll       LooperState = 1 << 5 // it has polled the device
)

// Waits tells whether the thread takes the process' transactions.
func (l LooperState) Waits() bool {
	return l&(LooperRegistered|LooperEntered) != 0 && l&LooperExited == 0
}

// Node is an object of the process.
type Node struct {
	ID          uint64 // that the driver has given it
	Ptr, Cookie uint64 // that the process has given it
	Strong      bool   // somebody holds a strong reference
	Holders     []int  // processes that have references, strong or weak
	Pending     []string
}

// Ref is a reference that the process has.
type Ref struct {
	Handle uint32
	Node   uint64 // Node.ID
	Dead   bool
	Strong bool
	// Death says that the process waits to be told of the object's death. The driver hides it (it is false) where
	// kernel.kptr_restrict is 2.
	Death bool
}

// Processes returns what the driver keeps for the opens of the device by the process pid, one for each. None is no error.
func (f *FS) Processes(pid int, device string) ([]Process, error) {
	return ReadProcesses(f.path, pid, device)
}

// ReadProcesses is FS.Processes for the binderfs that is mounted on dir. The error is ErrNoLogs if it tells nothing.
func ReadProcesses(dir string, pid int, device string) ([]Process, error) {
	file, err := os.Open(filepath.Join(dir, logs, "proc", strconv.Itoa(pid)))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, logs)); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", dir, ErrNoLogs)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p := processParser{}
	for s := bufio.NewScanner(file); s.Scan() || s.Err() != nil; {
		if s.Err() != nil {
			return nil, fmt.Errorf("%s: %w", file.Name(), s.Err())
		}
		if err := p.line(s.Text()); err != nil {
			return nil, fmt.Errorf("%s: line %q: %w", file.Name(), s.Text(), err)
		}
	}
	found := p.all[:0]
	for _, q := range p.all {
		if q.Context == device && q.PID == pid {
			found = append(found, q)
		}
	}
	return found, nil
}

// processParser reads the text line by line. What is indented by four belongs to the thread or node before it.
type processParser struct {
	all  []Process
	into *[]string // where the last thread or node keeps what is pending
	call *[]string // where the last thread keeps its transactions
}

func (p *processParser) line(text string) error {
	words := strings.Fields(text)
	if len(words) < 2 {
		return nil
	}
	switch {
	case words[0] == "proc" && text[0] == 'p':
		pid, err := strconv.Atoi(words[1])
		p.all = append(p.all, Process{PID: pid})
		return err
	case len(p.all) == 0: // the title
		return nil
	case words[0] == "context" && text[0] == 'c':
		p.all[len(p.all)-1].Context = words[1]
		return nil
	case strings.HasPrefix(text, "    "):
		return p.detail(strings.TrimSpace(text), words)
	}
	now := &p.all[len(p.all)-1]
	switch words[0] {
	case "thread":
		return p.thread(now, words)
	case "node":
		if len(words) > 2 && words[1] == "work" {
			break
		}
		return p.node(now, words)
	case "ref":
		return p.ref(now, words)
	case "buffer":
		now.Buffers++
		return nil
	}
	now.Pending = append(now.Pending, strings.TrimSpace(text))
	return nil
}

func (p *processParser) detail(text string, words []string) error {
	if p.into == nil {
		return errors.New("belongs to nothing")
	}
	if words[0] == "outgoing" || words[0] == "incoming" || words[0] == "bad" {
		if p.call == nil {
			return errors.New("belongs to no thread")
		}
		*p.call = append(*p.call, text)
		return nil
	}
	*p.into = append(*p.into, text)
	return nil
}

var errWords = errors.New("not what the driver is known to say")

// thread reads "thread 123: l 12 need_return 0 tr 0".
func (p *processParser) thread(now *Process, words []string) error {
	if len(words) < 4 || words[2] != "l" {
		return errWords
	}
	tid, err := strconv.Atoi(strings.TrimSuffix(words[1], ":"))
	state, stateErr := strconv.ParseUint(words[3], 16, 8)
	now.Threads = append(now.Threads, Thread{TID: tid, Looper: LooperState(state)})
	t := &now.Threads[len(now.Threads)-1]
	p.into, p.call = &t.Pending, &t.Transactions
	return errors.Join(err, stateErr)
}

// node reads "node 5: u00007f c00007f hs 1 hw 1 ls 0 lw 0 is 1 iw 1 tr 1 proc 77".
func (p *processParser) node(now *Process, words []string) error {
	if len(words) < 18 || words[12] != "is" || words[2][0] != 'u' || words[3][0] != 'c' {
		return errWords
	}
	var n Node
	var errs [3]error
	n.ID, errs[0] = strconv.ParseUint(strings.TrimSuffix(words[1], ":"), 10, 64)
	n.Ptr, errs[1] = strconv.ParseUint(words[2][1:], 16, 64)
	n.Cookie, errs[2] = strconv.ParseUint(words[3][1:], 16, 64)
	n.Strong = words[13] != "0"
	if len(words) > 19 && words[18] == "proc" {
		for _, w := range words[19:] {
			pid, err := strconv.Atoi(w)
			if err != nil {
				return err
			}
			n.Holders = append(n.Holders, pid)
		}
	}
	now.Nodes = append(now.Nodes, n)
	p.into, p.call = &now.Nodes[len(now.Nodes)-1].Pending, nil
	return errors.Join(errs[:]...)
}

// ref reads "ref 3: desc 0 node 1 s 1 w 1 d 0000000000000000", where "dead" may stand before "node".
func (p *processParser) ref(now *Process, words []string) error {
	var r Ref
	rest := words
	if len(words) > 4 && words[4] == "dead" {
		r.Dead, rest = true, append(words[:4:4], words[5:]...)
	}
	if len(rest) < 12 || rest[2] != "desc" || rest[6] != "s" || rest[10] != "d" {
		return errWords
	}
	handle, err := strconv.ParseUint(rest[3], 10, 32)
	node, nodeErr := strconv.ParseUint(rest[5], 10, 64)
	r.Handle, r.Node, r.Strong = uint32(handle), node, rest[7] != "0"
	r.Death = strings.Trim(rest[11], "0") != ""
	now.Refs = append(now.Refs, r)
	return errors.Join(err, nodeErr)
}

// Pool is the size of a process' pool of threads for a device.
type Pool struct {
	Max     int // that the driver may ask for
	Started int // that have come
	Asked   int // that it has asked for and that have not come
}

// ReadPool returns the thread pool of the process pid for the device of the binderfs that is mounted on dir. If it has the
// device open more than once, it is any of these.
func ReadPool(dir string, pid int, device string) (Pool, error) {
	name := filepath.Join(dir, logs, "stats")
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Pool{}, fmt.Errorf("%s: %w", dir, ErrNoLogs)
	}
	if err != nil {
		return Pool{}, err
	}
	here, context := false, ""
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[0] == "proc":
			here = words[1] == strconv.Itoa(pid)
		case len(words) == 2 && words[0] == "context":
			context = words[1]
		case here && context == device && len(words) == 3 && words[0] == "requested" && words[1] == "threads:":
			var p Pool
			if _, err := fmt.Sscanf(words[2], "%d+%d/%d", &p.Asked, &p.Started, &p.Max); err != nil {
				return p, fmt.Errorf("%s: line %q: %w", name, line, err)
			}
			return p, nil
		}
	}
	return Pool{}, fmt.Errorf("%s: process %d does not have binder device %q open", name, pid, device)
}
