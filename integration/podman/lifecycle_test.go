package podman

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// counting counts into its output, a line ten times a second.
var counting = []string{"sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"}

// lines is how many lines a container has printed.
func lines(t *testing.T, name string) int {
	t.Helper()
	return strings.Count(run(t, "logs", name).out, "\n")
}

func TestPause(t *testing.T) {
	name := start(t, nil, counting...)
	eventually(t, "it counts", func() bool { return lines(t, name) > 0 })
	ok(t, "pause", name)
	prints(t, "paused", "container", "inspect", "--format", "{{.State.Status}}", name)
	before := lines(t, name)
	time.Sleep(500 * time.Millisecond)
	if after := lines(t, name); after > before+1 { // conmon may not have read a line
		t.Errorf("a paused container has printed %d lines", after-before)
	}
	exits(t, 255, "", "exec", name, "true")
	ok(t, "unpause", name)
	before = lines(t, name)
	eventually(t, "it goes on", func() bool { return lines(t, name) > before+1 })
	prints(t, "running", "container", "inspect", "--format", "{{.State.Status}}", name)
}

func TestStatsAndTop(t *testing.T) {
	name := start(t, []string{"--memory", "64m"}, "sh", "-c", "while :; do :; done")
	var stats []map[string]string
	eventually(t, "podman stats shows what it uses", func() bool {
		stats = nil
		if err := json.Unmarshal([]byte(ok(t, "stats", "--no-stream", "--format", "json", name)), &stats); err != nil {
			t.Fatal(err)
		}
		return len(stats) == 1 && stats[0]["cpu_percent"] != "0.00%" && stats[0]["pids"] == "1"
	})
	if !strings.HasSuffix(stats[0]["mem_usage"], " / 67.11MB") {
		t.Errorf("memory %q of 64 MiB", stats[0]["mem_usage"])
	}
	if top := ok(t, "top", name, "pid", "comm"); !strings.Contains(top, "1           sh") {
		t.Errorf("podman top: %s", top)
	}
}

func TestKill(t *testing.T) {
	name := start(t, nil, "sh", "-c", `trap "echo hup" HUP; trap "echo usr; exit 3" USR1; echo ready; while :; do sleep 0.05; done`)
	said := func(want string) {
		t.Helper()
		eventually(t, "it says "+want, func() bool { return strings.HasSuffix(run(t, "logs", name).out, want+"\n") })
	}
	said("ready")
	ok(t, "kill", "--signal", "HUP", name)
	said("hup")
	ok(t, "kill", "--signal", "10", name)
	said("usr")
	prints(t, "3", "wait", name)
	exits(t, 125, "can only kill running containers", "kill", name)
}

func TestStop(t *testing.T) {
	name := start(t, nil, "sh", "-c", `trap "exit 4" TERM; echo ready; while :; do sleep 0.05; done`)
	eventually(t, "it is ready", func() bool { return lines(t, name) == 1 })
	ok(t, "stop", "--time", "30", name)
	if got := inspect(t, name, ".State.ExitCode"); got != "4" {
		t.Errorf("exit code %s, want its own, 4", got)
	}
}

func TestStopKillsWhatDoesNotObey(t *testing.T) {
	name := start(t, nil, "sh", "-c", `trap "" TERM; echo ready; while :; do sleep 0.05; done`)
	eventually(t, "it is ready", func() bool { return lines(t, name) == 1 })
	ok(t, "stop", "--time", "1", name)
	if got := inspect(t, name, ".State.ExitCode"); got != "137" {
		t.Errorf("exit code %s, want 137", got)
	}
}

func TestCreateAndStart(t *testing.T) {
	name, own := container(t)
	ok(t, words("create", own, "--rm", imageBusybox, "sh", "-c", "echo $HOSTNAME; exit 3")...)
	prints(t, "created", "container", "inspect", "--format", "{{.State.Status}}", name)
	if r := run(t, "start", "--attach", name); r.code != 3 || strings.TrimSpace(r.out) == "" {
		t.Errorf("%+v", r)
	}
	eventually(t, "it is removed", func() bool { return run(t, "container", "exists", name).code == 1 })
}

func TestRestart(t *testing.T) {
	name := start(t, nil, "sh", "-c", "echo begun; exec sleep 1000")
	before := inspect(t, name, ".State.Pid")
	ok(t, "restart", "--time", "0", name)
	if after := inspect(t, name, ".State.Pid"); after == before {
		t.Errorf("pid %s as before", after)
	}
	eventually(t, "its program has begun twice", func() bool { return lines(t, name) == 2 })
}

// Whoever kills the first process, podman sees it end and its exit code.
func TestKilledFromOutside(t *testing.T) {
	name := start(t, nil, "sleep", "1000")
	ok(t, "exec", "--detach", name, "sleep", "2000")
	pid := inspect(t, name, ".State.Pid")
	kill(t, pid)
	prints(t, "137", "wait", name)
	prints(t, "exited", "container", "inspect", "--format", "{{.State.Status}}", name)
	if status := ok(t, "ps", "--all", "--filter", "name="+name, "--format", "{{.Status}}"); !strings.HasPrefix(status, "Exited (137)") {
		t.Errorf("podman ps: %q", status)
	}
	ok(t, "start", name)
	prints(t, "running", "container", "inspect", "--format", "{{.State.Status}}", name)
}

func TestRemoveOfARunningContainer(t *testing.T) {
	name := start(t, nil, "sleep", "1000")
	exits(t, 2, "", "rm", name)
	pid := inspect(t, name, ".State.Pid")
	ok(t, "rm", "--force", "--time", "0", name)
	exits(t, 1, "", "container", "exists", name)
	if _, err := os.Stat("/proc/" + pid); err == nil {
		t.Errorf("process %s runs on", pid)
	}
}

func TestCopyLogsAndAttach(t *testing.T) {
	name := start(t, nil, "sh", "-c", "while :; do [ -e /end ] && { cat /end; exit 8; }; sleep 0.05; done")
	if r := feed(t, "copied\n", "cp", "-", name+":/"); r.code == 0 {
		t.Error("podman cp takes what is no archive")
	}
	file := t.TempDir() + "/end"
	if err := os.WriteFile(file, []byte("copied\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	attached := podman("attach", "--no-stdin", name)
	var out strings.Builder
	attached.Stdout = &out
	if err := attached.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // podman does not say when it is attached
	ok(t, "cp", file, name+":/end")
	if err := attached.Wait(); err != nil || strings.TrimSpace(out.String()) != "copied" {
		t.Errorf("podman attach: %q, %v", out.String(), err)
	}
	prints(t, "8", "wait", name)
	back := t.TempDir() + "/back"
	ok(t, "cp", name+":/etc/passwd", back)
	if data, err := os.ReadFile(back); err != nil || !strings.Contains(string(data), "app:x:2001") {
		t.Errorf("copied out: %q, %v", data, err)
	}
}

func TestEvents(t *testing.T) {
	name := start(t, nil, "sleep", "1000")
	ok(t, "pause", name)
	ok(t, "unpause", name)
	ok(t, "kill", name)
	ok(t, "wait", name)
	var got []string
	eventually(t, "podman events shows its death", func() bool {
		got = strings.Fields(ok(t, "events", "--stream=false", "--filter", "container="+name, "--format", "{{.Status}}"))
		return strings.Contains(strings.Join(got, " "), "died")
	})
	have := strings.Join(got, " ")
	for _, want := range []string{"create", "start", "pause", "unpause", "kill", "died"} {
		if !strings.Contains(have, want) {
			t.Errorf("no event %q: %s", want, have)
		}
	}
}

func TestHealthcheck(t *testing.T) {
	name := start(t, []string{"--health-cmd", "test -e /healthy", "--health-interval", "disable", "--health-retries", "1"}, "sleep", "1000")
	exits(t, 1, "", "healthcheck", "run", name)
	if got := inspect(t, name, ".State.Health.Status"); got != "unhealthy" {
		t.Errorf("health %q", got)
	}
	ok(t, "exec", name, "touch", "/healthy")
	exits(t, 0, "", "healthcheck", "run", name)
	if got := inspect(t, name, ".State.Health.Status"); got != "healthy" {
		t.Errorf("health %q", got)
	}
}
