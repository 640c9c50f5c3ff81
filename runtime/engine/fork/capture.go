package fork

import (
	"corsa.dev/corsa/runtime/engine"
	"corsa.dev/corsa/runtime/engine/fdplan"
)

// capturer reads the descriptor table of a process none of whose threads runs.
type capturer struct {
	pid, pidfd int
	listeners  map[uint64]int // inode -> index, of the instance's own listening sockets
	declared   []engine.Address
	conns      engine.Conns
	shared     []string
	private    *fdplan.Private
	binder     *engine.Broker
	binderPID  int        // who has opened the device
	files      *procFiles // nil: none are kept

	open func(fd int) bool // set by run: whether the process has the descriptor, in the plan or not
}

// run makes the plan. Everything that could not be made anew is refused by name.
func (c *capturer) run() (*plan, error) {
	r := fdplan.Capturer{
		PID: c.pid, PIDFD: c.pidfd, Listeners: c.listeners, Declared: c.declared, Conns: c.conns, Shared: c.shared,
		Private: c.private,
	}
	if c.files != nil {
		var err error
		if r.Table, err = c.files.open(procFD); err != nil {
			return nil, gone(c.pid, err)
		}
		defer c.files.done(procFD, r.Table)
		if r.Info, err = c.files.open(procFDInfo); err != nil {
			return nil, gone(c.pid, err)
		}
		defer c.files.done(procFDInfo, r.Info)
	}
	if c.binder != nil {
		r.Binder = c.binder.Device
	}
	p, err := r.Run()
	c.open = r.Open
	if err != nil {
		return nil, err
	}
	if err := c.readBinder(p); err != nil {
		return nil, err
	}
	return &plan{*p}, nil
}

func field(info []byte, name string) string { return fdplan.Field(info, name) }

func linkInode(link string) (uint64, bool) { return fdplan.LinkInode(link) }
