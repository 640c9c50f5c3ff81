package podman

import (
	"strings"
	"testing"

	"corsa.dev/corsa/integration/containertest"
)

func TestExec(t *testing.T) {
	name := start(t, []string{"--env", "A=1"}, "sleep", "1000")
	t.Run("exit codes", func(t *testing.T) {
		exits(t, 0, "", "exec", name, "true")
		exits(t, 1, "", "exec", name, "false")
		exits(t, 42, "", "exec", name, "sh", "-c", "exit 42")
		exits(t, 126, "is a directory: permission denied", "exec", name, "/etc")
		exits(t, 127, "executable file not found", "exec", name, "nosuch")
		exits(t, 127, "no such file or directory", "exec", name, "/no/such")
		exits(t, 137, "", "exec", name, "sh", "-c", "kill -KILL $$")
	})
	t.Run("user, environment and directory", func(t *testing.T) {
		prints(t, "2001 2002 1 2 /tmp", "exec", "--user", "app", "--env", "B=2", "--workdir", "/tmp", name,
			"sh", "-c", `echo $(id -u) $(id -g) $A $B $(pwd)`)
		prints(t, "7 8", "exec", "--user", "7:8", name, "sh", "-c", "echo $(id -u) $(id -g)")
	})
	t.Run("standard input", func(t *testing.T) {
		if r := feed(t, "a\nb\nc\n", "exec", "--interactive", name, "wc", "-l"); strings.TrimSpace(r.out) != "3" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		cmd := podman("exec", "--interactive", "--tty", name, "sh", "-c", "tty; "+sized+"stty size; read x; echo got-$x; exit 5")
		shown, err := containertest.InTerminal(cmd, 22, 99, "that\n", deadline)
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if !strings.Contains(shown, "/dev/pts/") || !strings.Contains(shown, "22 99") || !strings.Contains(shown, "got-that") || cmd.ProcessState.ExitCode() != 5 {
			t.Errorf("exit code %d, %q", cmd.ProcessState.ExitCode(), shown)
		}
	})
	t.Run("detached", func(t *testing.T) {
		ok(t, "exec", "--detach", name, "sh", "-c", "echo there >/detached; exec sleep 1000")
		eventually(t, "the program runs", func() bool { return run(t, "exec", name, "cat", "/detached").out == "there\n" })
	})
	t.Run("privileged", func(t *testing.T) {
		const effective = "grep CapEff /proc/self/status"
		if few, all := ok(t, "exec", name, "sh", "-c", effective), ok(t, "exec", "--privileged", name, "sh", "-c", effective); all <= few {
			t.Errorf("%q, privileged %q", few, all)
		}
	})
}

func TestExecInAContainerThatHasEnded(t *testing.T) {
	name := start(t, nil, "true")
	ok(t, "wait", name)
	exits(t, 255, "", "exec", name, "true")
}
