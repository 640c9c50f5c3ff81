package containerd

import (
	"bufio"
	"strings"
	"sync"
	"testing"
)

// events are the lines that ctr prints of what happens.
type events struct {
	mu    sync.Mutex
	lines []string
}

// watch collects events until the test ends.
func watch(t *testing.T) *events {
	t.Helper()
	if world.skip != "" {
		t.Skip(world.skip)
	}
	cmd := ctr("events")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	e := &events{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			e.mu.Lock()
			e.lines = append(e.lines, lines.Text())
			e.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it does not end by itself
		<-done
		_ = cmd.Wait()
	})
	return e
}

// has reports whether there was an event of that topic about the container.
func (e *events) has(topic, id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, line := range e.lines {
		if strings.Contains(line, " "+topic+" ") && strings.Contains(line, `"`+id+`"`) {
			return true
		}
	}
	return false
}

func TestEvents(t *testing.T) {
	told := watch(t)
	id, _ := start(t, nil, "sleep", "1000")
	ok(t, "task", "pause", id)
	ok(t, "task", "resume", id)
	execute(t, id, nil, "true")
	ok(t, "task", "kill", "--signal", "KILL", id)
	for _, topic := range []string{"create", "start", "paused", "resumed", "exec-added", "exec-started", "exit"} {
		eventually(t, "containerd tells of "+topic, func() bool { return told.has("/tasks/"+topic, id) })
	}
}

// Of what takes more memory than it may containerd is told.
func TestOutOfMemory(t *testing.T) {
	told := watch(t)
	id, _ := start(t, []string{"--memory-limit", "33554432"}, "sh", "-c", "while :; do x=$(yes | head -c 200000000); done")
	eventually(t, "containerd tells", func() bool { return told.has("/tasks/oom", id) })
}
