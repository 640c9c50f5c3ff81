package podman

import (
	"strings"
	"testing"
)

// pod makes a pod, which is removed with all that is in it at the end of the test.
func pod(t *testing.T, flags ...string) string {
	t.Helper()
	name, _ := container(t)
	t.Cleanup(func() {
		if r := run(t, "pod", "rm", "--force", "--ignore", "--time", "0", name); r.code != 0 {
			t.Errorf("podman pod rm %s: %s", name, r.err)
		}
	})
	ok(t, words("pod", "create", "--name", name, "--cgroup-parent", "/"+world.cgroup, flags)...)
	return name
}

// The containers of a pod have the namespaces of its first one.
func TestPod(t *testing.T) {
	// Sleeping is all that podman's own image for this does, which it would have to build.
	p := pod(t, "--infra-image", imageBusybox, "--infra-command", "sleep 1000", "--share", "ipc,uts,net,pid", "--hostname", "inpod", "--network", "none")
	in := func(name string, command ...string) {
		t.Helper()
		ok(t, words("run", "--detach", "--cgroup-parent", "/"+world.cgroup, "--pod", p, "--name", p+"-"+name, imageBusybox, command)...)
	}
	in("one", "sh", "-c", "echo from-one | nc -l -p 7000")
	in("two", "sleep", "1000")
	two := p + "-two"
	prints(t, "inpod", "exec", two, "hostname")
	eventually(t, "a container reaches the other by the loopback", func() bool {
		return run(t, "exec", two, "sh", "-c", "nc 127.0.0.1 7000 </dev/null").out == "from-one\n"
	})
	if all := ok(t, "exec", two, "ps"); strings.Count(all, "sleep 1000") < 2 {
		t.Errorf("the processes of the pod are not seen: %s", all)
	}
	ok(t, "pod", "stop", "--time", "0", p)
	prints(t, "exited", "container", "inspect", "--format", "{{.State.Status}}", two)
	ok(t, "pod", "start", p)
	prints(t, "running", "container", "inspect", "--format", "{{.State.Status}}", two)
}

func TestPodWithoutInfra(t *testing.T) {
	p := pod(t, "--infra=false")
	ok(t, "run", "--detach", "--cgroup-parent", "/"+world.cgroup, "--pod", p, "--name", p+"-one", imageBusybox, "sleep", "1000")
	prints(t, "Running", "pod", "inspect", "--format", "{{.State}}", p)
}
