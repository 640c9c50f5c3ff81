package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelArguments make the boot short under emulation and faults final. No console message below a warning is needed.
const kernelArguments = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off nokaslr tsc=reliable no_timer_check " +
	"random.trust_cpu=on audit=0 apparmor=0 cryptomgr.notests"

// machine is one QEMU process to be.
type machine struct {
	args  []string
	files []*os.File // inherited by QEMU from descriptor 3 on
}

// inherit passes a file on and returns the path at which QEMU finds it.
func (m *machine) inherit(f *os.File) string {
	m.files = append(m.files, f)
	return "/dev/fd/" + strconv.Itoa(2+len(m.files))
}

// newMachine describes a VM without its console and channels.
func (o *Options) newMachine(k Kernel, initrd *os.File, disk string) *machine {
	m := &machine{}
	command, memory := kernelArguments, o.Memory
	if !k.Debug {
		command += " rcupdate.rcu_expedited=1" // a kernel that checks RCU does not get past its own checks with it
	} else {
		command += " rcupdate.rcu_cpu_stall_timeout=120"
		memory = 2*memory + 512 // an eighth of it and more is spent on checking the rest
	}
	for _, a := range o.KernelArgs {
		command += " " + a
	}
	m.args = []string{
		"-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi",
		"-m", strconv.Itoa(memory), "-smp", strconv.Itoa(o.SMP),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", k.dir + "/kernel", "-initrd", m.inherit(initrd), "-append", command,
		"-drive", "if=none,id=disk,format=raw,snapshot=on,cache=unsafe,file=" + strings.ReplaceAll(disk, ",", ",,"),
		"-device", "virtio-blk-pci,drive=disk",
		"-device", "virtio-rng-pci",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
		"-device", "virtio-serial-pci",
	}
	return m
}

// channel gives the guest a port on which it can write to f, which is then closed on this side.
func (m *machine) channel(name string, f *os.File) {
	path := m.inherit(f)
	m.args = append(m.args, "-chardev", "file,id="+name+",path="+path, "-device", "virtserialport,chardev="+name+",name=corsa."+name)
}

// console sends what the kernel says to f.
func (m *machine) console(f *os.File) {
	m.args = append(m.args, "-chardev", "file,id=console,path="+m.inherit(f), "-serial", "chardev:console")
}

// terminal connects the console with this process's own terminal.
func (m *machine) terminal() {
	m.args = append(m.args, "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console")
}

// run runs QEMU until it ends or ctx does. The guest has its own way to say how it went, so that QEMU's exit status
// matters only where it says that QEMU itself could not go on.
func (m *machine) run(ctx context.Context, prepare func(*exec.Cmd)) error {
	// QEMU is sent the signal when the thread that has started it ends, so the thread stays for as long as QEMU does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		m.release()
		return fmt.Errorf("%w; run: make vm-deps", err)
	}
	cmd := exec.CommandContext(ctx, qemu, m.args...)
	cmd.ExtraFiles = m.files
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if prepare != nil {
		prepare(cmd)
	}
	err = cmd.Start()
	m.release()
	if err != nil {
		return err
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() && complaint.Len() == 0 {
		return nil // the guest ends QEMU with a status that is odd, and so not zero
	}
	if err != nil {
		return fmt.Errorf("qemu: %w\n%s", err, complaint.String())
	}
	return nil
}

func (m *machine) release() {
	for _, f := range m.files {
		_ = f.Close() // QEMU has its own
	}
	m.files = nil
}
