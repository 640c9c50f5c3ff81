package fork

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// What a control page is called in /proc.
const (
	ctlLink  = "/memfd:corsa (deleted)"
	zeroLink = "/dev/zero (deleted)"
)

// releaseAbandoned wakes a process that an engine had parked when it died, before anyone took note of it.
func releaseAbandoned(pid int) error {
	maps, err := readMaps(pid)
	if err != nil {
		return err
	}
	for _, m := range maps {
		if m.Path != ctlLink {
			continue
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.Start, m.End), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("control page of process %d: %w", pid, gone(pid, err))
		}
		c, err := mapCtl(fd)
		unix.Close(fd)
		if err != nil {
			return err
		}
		c.setRun(runGo)
		if err := c.close(); err != nil {
			return err
		}
	}
	return nil
}

// Sweep implements engine.Sweeper.
func (s *service) Sweep() error { return errors.Join(s.sweepProcesses(), s.sweepSockets()) }

// sweepProcesses ends forks of this service that a dead engine had made and nobody knows of.
func (s *service) sweepProcesses() error {
	known := map[int]bool{os.Getpid(): true, s.process.PID: true, s.base.a.PID: true}
	s.liveMu.Lock()
	for e := range s.live {
		switch e := e.(type) {
		case *instance:
			known[e.a.PID], known[e.leader.PID], known[e.initp.PID] = true, true, true
		case *image:
			known[e.a.PID] = true
		}
	}
	s.liveMu.Unlock()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	var errs error
	for _, dir := range procs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || known[pid] || !s.related(dir) {
			continue
		}
		id, err := identify(pid)
		if err != nil {
			continue // it has ended meanwhile
		}
		if p, err := id.reopen(); err == nil {
			s.target.Log.WithField("pid", pid).Info("ending a fork that the last monitor had left unfinished")
			errs = errors.Join(errs, p.end())
			p.close()
		}
	}
	return errors.Join(errs, s.files.sweep())
}

// sweepSockets removes the listening sockets in the directories for them but those of instances that are known.
func (s *service) sweepSockets() error {
	known := map[string]bool{}
	s.liveMu.Lock()
	for e := range s.live {
		if in, ok := e.(*instance); ok {
			for _, l := range in.listeners {
				known[l.Address] = true
			}
		}
	}
	s.liveMu.Unlock()
	var errs error
	for _, dir := range append([]string{s.target.Dir}, s.target.Dirs...) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // it has been removed, or there is none
			errs = errors.Join(errs, err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if e.Type()&os.ModeSocket == 0 || known[path] {
				continue
			}
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = errors.Join(errs, err)
			}
		}
	}
	return errs
}

// related reports whether the process is a fork of this service: it has the same program and the same arena.
func (s *service) related(dir string) bool {
	exe, err := os.Readlink(dir + "/exe")
	if err != nil {
		return false
	}
	mine, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.process.PID))
	if err != nil || exe != mine {
		return false
	}
	for side := range 2 {
		at := s.base.a.arena.ctl(side)
		link, err := os.Readlink(fmt.Sprintf("%s/map_files/%x-%x", dir, at, at+pageSize))
		if err == nil && (link == ctlLink || link == zeroLink) {
			return true
		}
	}
	return false
}
