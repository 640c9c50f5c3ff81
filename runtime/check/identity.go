package check

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// checkIdentity looks at what the process is as a whole. ended is true when nothing more can be read of it.
func (in *inspection) checkIdentity() (ended bool, err error) {
	object := fmt.Sprintf("process %d (%s)", in.pid, in.status.name)
	kernelThread, err := in.isKernelThread()
	switch {
	case err != nil:
		return false, err
	case kernelThread:
		in.block(object, "it is a kernel thread and has no memory of its own", "name a user process")
		return true, nil
	case in.status.state == 'Z' && in.status.threads > 1:
		in.block(fmt.Sprintf("thread %d", in.pid), "the first thread of the process has exited, the others run on",
			"none: the service must keep its first thread")
		return true, nil
	case in.status.state == 'Z' || in.status.state == 'X':
		in.block(object, "it is a zombie: it has ended and waits for its parent",
			"start the service again, and end its parent if that never waits")
		return true, nil
	}
	if denied, err := in.checkAccess(object); denied || err != nil {
		return denied, err
	}
	if in.status.tracer != 0 && in.status.tracer != in.opts.Tracer {
		in.block(fmt.Sprintf("tracer %d (%s)", in.status.tracer, commOf(in.status.tracer)),
			"another program traces the process and only one can", "detach the debugger or tracer")
	} else if in.status.state == 'T' {
		in.block(object, "it is stopped by a signal", fmt.Sprintf("continue it: kill -CONT %d", in.pid))
	}
	if n := len(in.status.nspid); !in.inPlace() && n > 0 && in.status.nspid[n-1] == 1 {
		in.block(object, "it is pid 1 of its pid namespace: it cannot create siblings, and its end would end all of them",
			"put an init process before it: `corsa serve` and `corsa run` do so by themselves")
	}
	return false, in.checkMachine(object)
}

func (in *inspection) isKernelThread() (bool, error) {
	if in.status.kernelThread {
		return true, nil
	}
	// Kernels before 6.8 tell only by a bit in the ninth field of stat.
	const pfKthread = 0x00200000
	data, err := os.ReadFile(in.dir + "/stat")
	if err != nil {
		return false, err
	}
	// The second field is a name in parentheses that may hold anything, parentheses too.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	const flags = 9 - 3
	if len(fields) <= flags {
		return false, fmt.Errorf("%s/stat: only %d fields after the name", in.dir, len(fields))
	}
	n, err := strconv.ParseUint(fields[flags], 10, 64)
	if err != nil {
		return false, fmt.Errorf("%s/stat: flags: %w", in.dir, err)
	}
	return n&pfKthread != 0, nil
}

// checkAccess asks the kernel whether the caller could attach to the process. pidfd_getfd makes the same decision as
// PTRACE_ATTACH, security modules included, before it looks at the number, so a number that is not in use is enough.
func (in *inspection) checkAccess(object string) (denied bool, err error) {
	_, err = unix.PidfdGetfd(in.pidfd, unusedFD, 0)
	switch {
	case errors.Is(err, unix.EBADF):
		return false, nil
	case errors.Is(err, unix.ENOSYS):
		return false, errors.New("pidfd_getfd is not available; way out: Linux 5.6 or later is needed")
	case !errors.Is(err, unix.EPERM):
		return false, err
	}
	me, err := self()
	if err != nil {
		return false, err
	}
	if me.can(capSysPtrace) {
		in.block(object, "attaching is denied although CAP_SYS_PTRACE is held: it is in another user namespace or a security module forbids it"+yama(),
			"run corsa in the user namespace that started the process, or change the security module's policy")
	} else {
		in.block(object, "attaching is denied: CAP_SYS_PTRACE is missing"+yama(),
			"run corsa as root or with CAP_SYS_PTRACE; as another user, let corsa start the service itself")
	}
	return true, nil
}

const unusedFD = 1<<30 - 1

// yama says what the Yama security module adds to a refusal; empty when it has no say.
func yama() string {
	data, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	scope := strings.TrimSpace(string(data))
	if err != nil || scope == "0" {
		return ""
	}
	return " (kernel.yama.ptrace_scope is " + scope + ")"
}

func (in *inspection) checkMachine(object string) error {
	const nativeMachine, native = elf.EM_X86_64, "amd64"
	if runtime.GOARCH != native {
		in.block(object, "the engine is written for x86-64 and this is "+runtime.GOARCH, "use an x86-64 host")
		return nil
	}
	file, err := os.Open(in.dir + "/exe")
	if errors.Is(err, os.ErrPermission) {
		in.note(object, "its program file cannot be read, so its machine type is unknown")
		return nil
	} else if err != nil {
		return err
	}
	defer file.Close()
	header, err := elf.NewFile(file)
	if err != nil {
		in.note(object, "its program file is no ELF file, so its machine type is unknown")
		return nil
	}
	switch {
	case header.Machine != nativeMachine && header.Machine != elf.EM_386:
		in.block(object, fmt.Sprintf("its program is for another machine (%v)", header.Machine), "use a build for x86-64")
	case header.Class != elf.ELFCLASS64:
		in.block(object, "it is a 32-bit process", "use a 64-bit build of the service")
	}
	if strings.Contains(in.status.threadFeatures, "shstk") {
		in.block(object, "it has shadow stacks (x86_Thread_features: shstk), which a forked copy would not match",
			"start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off")
	}
	return nil
}

// commOf is the name of another process, for messages; "?" if it is gone.
func commOf(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(data))
}
