package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// checkChildren names every child process: a copy of the service would have none.
func (in *inspection) checkChildren() error {
	children, err := in.children()
	if err != nil {
		return err
	}
	for _, pid := range children {
		st, err := readStatus(fmt.Sprintf("/proc/%d/status", pid))
		switch {
		case err != nil:
			continue // ended and reaped meanwhile
		case st.state == 'Z':
			in.block(fmt.Sprintf("child %d (%s)", pid, st.name), "it has ended and the service has not waited for it yet",
				"try again; if it stays, the service never reaps its children")
		default:
			in.block(fmt.Sprintf("child %d (%s)", pid, st.name), "the service is a tree of processes and only one process is copied",
				"run the service in one process (nginx: `daemon off; master_process off;`), or wait until the child has ended")
		}
	}
	return nil
}

func (in *inspection) children() ([]int, error) {
	files, err := filepath.Glob(in.dir + "/task/*/children")
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return in.childrenByScan()
	}
	var list []int
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread has ended
		} else if err != nil {
			return nil, err
		}
		pids, err := numbers(string(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		list = append(list, pids...)
	}
	return list, nil
}

// childrenByScan is for kernels without CONFIG_PROC_CHILDREN.
func (in *inspection) childrenByScan() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var list []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue // not a process
		}
		data, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue // ended meanwhile
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(in.pid) {
			list = append(list, pid)
		}
	}
	return list, nil
}

// checkTimers looks at the POSIX timers, which fork does not copy: the fork engine makes them anew where it can.
func (in *inspection) checkTimers() error {
	data, err := os.ReadFile(in.dir + "/timers")
	if errors.Is(err, fs.ErrNotExist) {
		in.note("timers", "this kernel (without CONFIG_CHECKPOINT_RESTORE) does not show POSIX timers; an instance starts with none")
		return nil
	} else if err != nil {
		return err
	}
	id := ""
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "ID":
			id = value
		case "ClockID":
			object := fmt.Sprintf("timer %s (POSIX, clock %s)", id, value)
			if in.inPlace() {
				in.block(object, "POSIX timers are not copied to an instance",
					"use the fork engine, or let the service use timerfd or a timeout of its event loop")
			} else if !slices.Contains(carriedClocks, value) {
				in.block(object, "its clock belongs to one thread, or wakes the machine", "let the service use CLOCK_MONOTONIC, or a timerfd")
			}
		}
	}
	return nil
}

// carriedClocks are CLOCK_REALTIME, _MONOTONIC, _PROCESS_CPUTIME_ID (-6 once a timer has it), _BOOTTIME and _TAI.
var carriedClocks = []string{"0", "1", "2", "-6", "7", "11"}
