package podman

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"corsa.dev/corsa/integration/containertest"
)

func TestRun(t *testing.T) {
	r := once(t, nil, "sh", "-c", "echo out; echo err >&2; exit 7")
	if r.out != "out\n" || r.err != "err\n" || r.code != 7 {
		t.Errorf("%+v; want out, err, 7", r)
	}
}

func TestRunExitCodes(t *testing.T) {
	for _, c := range []struct {
		command []string
		code    int
		want    string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"/etc"}, 126, "permission denied"},
		{[]string{"/etc/passwd.not"}, 127, "no such file or directory"},
		{[]string{"nosuch"}, 127, "executable file not found"},
	} {
		if r := once(t, nil, c.command...); r.code != c.code || !strings.Contains(r.err, c.want) {
			t.Errorf("%q: exit code %d, want %d; %q should contain %q", c.command, r.code, c.code, r.err, c.want)
		}
	}
}

func TestStandardInput(t *testing.T) {
	_, own := container(t)
	if r := feed(t, "a\nb\n", words("run", "--rm", "--interactive", own, imageBusybox, "wc", "-l")...); strings.TrimSpace(r.out) != "2" {
		t.Errorf("%+v", r)
	}
}

func TestDetachAndWait(t *testing.T) {
	name := start(t, nil, "sh", "-c", "echo begun; while [ ! -e /end ]; do sleep 0.05; done; exit 9")
	if got := inspect(t, name, ".State.Status"); got != "running" {
		t.Errorf("status %q", got)
	}
	if got := inspect(t, name, ".OCIRuntime"); got != "corsa" {
		t.Errorf("OCI runtime %q", got)
	}
	ok(t, "exec", name, "touch", "/end")
	prints(t, "9", "wait", name)
	prints(t, "exited 9", "container", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name)
	prints(t, "begun", "logs", name)
}

func TestEnvironmentUserAndDirectory(t *testing.T) {
	r := once(t, []string{"--env", "X=a b", "--user", "app", "--group-add", "77", "--workdir", "/tmp", "--hostname", "box"},
		"sh", "-c", `echo "$X"; id -u; id -G; pwd; hostname`)
	if want := "a b\n2001\n2002 77\n/tmp\nbox\n"; r.out != want {
		t.Errorf("%q, want %q; %s", r.out, want, r.err)
	}
}

func TestVolumesTmpfsAndReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("from outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := once(t, []string{"--read-only", "--volume", dir + ":/data", "--volume", dir + ":/fixed:ro", "--tmpfs", "/scratch:size=1m"}, "sh", "-c",
		`cat /data/in; echo inside >/data/out; (echo x >/fixed/no) 2>&1; (echo x >/no) 2>&1; echo y >/scratch/z && df -k /scratch | tail -n 1 | awk '{print " "$2}'`)
	if strings.Count(r.out, "Read-only file system") != 2 || !strings.HasPrefix(r.out, "from outside") || !strings.HasSuffix(r.out, " 1024\n") {
		t.Errorf("%+v", r)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(data) != "inside\n" {
		t.Errorf("what the container has written: %q, %v", data, err)
	}
}

func TestCapabilities(t *testing.T) {
	const effective = "grep CapEff /proc/self/status"
	few := once(t, []string{"--cap-drop", "all", "--cap-add", "net_admin"}, "sh", "-c", effective)
	if want := fmt.Sprintf("CapEff:\t%016x\n", 1<<12); few.out != want {
		t.Errorf("%q, want %q; %s", few.out, want, few.err)
	}
	all := once(t, []string{"--privileged"}, "sh", "-c", effective)
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(own), strings.TrimSpace(strings.Replace(all.out, "CapEff", "CapBnd", 1))) {
		t.Errorf("privileged: %q, and this process:\n%s", all.out, own)
	}
}

// The profile that podman gives by default forbids keyctl, but lets unshare do what a user may.
func TestSeccompProfile(t *testing.T) {
	const mode = "grep Seccomp: /proc/self/status; unshare -m true 2>&1"
	r := once(t, nil, "sh", "-c", mode)
	if !strings.Contains(r.out, "Seccomp:\t2") || !strings.Contains(r.out, "Operation not permitted") {
		t.Errorf("%+v", r)
	}
	r = once(t, []string{"--security-opt", "seccomp=unconfined", "--cap-add", "sys_admin"}, "sh", "-c", mode)
	if !strings.Contains(r.out, "Seccomp:\t0") || r.code != 0 {
		t.Errorf("unconfined: %+v", r)
	}
}

// sized waits until the terminal has a size, which podman gives it after the program has begun.
const sized = `until [ "$(stty size 2>/dev/null)" ]; do sleep 0.02; done; `

func TestTerminal(t *testing.T) {
	_, own := container(t)
	cmd := podman(words("run", "--rm", "--interactive", "--tty", own, imageBusybox, "sh", "-c", "tty; "+sized+"stty size; read x; echo got-$x; exit 6")...)
	shown, err := containertest.InTerminal(cmd, 33, 77, "this\n", deadline)
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/dev/pts/0", "33 77", "got-this"} {
		if !strings.Contains(shown, want) {
			t.Errorf("the terminal does not show %q: %q, %v", want, shown, err)
		}
	}
	if code := cmd.ProcessState.ExitCode(); code != 6 {
		t.Errorf("exit code %d, want 6", code)
	}
}

func TestInit(t *testing.T) {
	if _, err := os.Stat("/usr/libexec/podman/catatonit"); err != nil {
		t.Skipf("--init needs catatonit: %v: make deps", err)
	}
	// Its child has ended before; the init has reaped it, which sh as pid 1 would not have.
	name := start(t, []string{"--init"}, "sh", "-c", "(sleep 0.01 &) ; exec sleep 1000")
	if got := ok(t, "exec", name, "cat", "/proc/1/comm"); got != "podman-init" {
		t.Errorf("pid 1 is %q", got)
	}
	eventually(t, "no zombie is left", func() bool {
		return !strings.Contains(ok(t, "exec", name, "sh", "-c", "cat /proc/[0-9]*/stat"), ") Z ")
	})
}

func TestUserNamespace(t *testing.T) {
	r := once(t, []string{"--uidmap", "0:200000:5000", "--gidmap", "0:300000:5000"}, "sh", "-c",
		"id -u; awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g /etc/passwd")
	if want := "0\n0 200000 5000\n0 300000 5000\n0:0\n"; r.out != want {
		t.Errorf("%q, want %q; %s", r.out, want, r.err)
	}
}
