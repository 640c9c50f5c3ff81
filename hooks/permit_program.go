package hooks

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// In cgroups of the second version programs decide about devices, and all of them have to agree. A rule can be added only by
// putting another program in the place of each: one that decides about the new devices itself, and goes on as the old one.

// allowByProgram is for cgroups of the second version.
func allowByProgram(dir string, devices []number) error {
	cgroup, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = cgroup.Close() }()
	attached, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: ebpf.AttachCGroupDevice})
	if err != nil {
		return fmt.Errorf("programs of %s: %w", dir, err)
	}
	for _, p := range attached.Programs {
		if err := replace(cgroup, p.ID, devices); err != nil {
			return fmt.Errorf("program %d of %s: %w", p.ID, dir, err)
		}
	}
	return nil
}

func replace(cgroup *os.File, id ebpf.ProgramID, devices []number) (err error) {
	old, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	info, err := old.Info()
	if err != nil {
		return err
	}
	rest, err := info.Instructions()
	if err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupDevice, Instructions: append(allowing(devices), rest...), License: "Apache-2.0",
	})
	if err != nil {
		return fmt.Errorf("load what replaces it: %w", err)
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	if err := exchange(cgroup, old, program); err != nil {
		return fmt.Errorf("replace it: %w", err)
	}
	return nil
}

// exchange attaches a program and detaches the old one. Between the two nothing is permitted that was not.
func exchange(cgroup *os.File, old, program *ebpf.Program) error {
	attach := link.RawAttachProgramOptions{
		Target: int(cgroup.Fd()), Program: program, Attach: ebpf.AttachCGroupDevice, Flags: unix.BPF_F_ALLOW_MULTI,
	}
	err := link.RawAttachProgram(attach)
	if err == nil {
		return link.RawDetachProgram(link.RawDetachProgramOptions{
			Target: int(cgroup.Fd()), Program: old, Attach: ebpf.AttachCGroupDevice,
		})
	}
	// One that was attached to be the only one gives way to what is attached in the same manner.
	for _, flags := range []uint32{0, unix.BPF_F_ALLOW_OVERRIDE} {
		if !errors.Is(err, unix.EPERM) {
			break
		}
		attach.Flags = flags
		err = link.RawAttachProgram(attach)
	}
	return err
}

// Fields of struct bpf_cgroup_dev_ctx, and what they hold.
const (
	fieldAccess = 0 // the kind of device in the lower half, what is to be done with it in the upper
	fieldMajor  = 4
	fieldMinor  = 8

	character = unix.BPF_DEVCG_DEV_CHAR
	makeNode  = unix.BPF_DEVCG_ACC_MKNOD << 16
)

// allowing are instructions that end with "yes" for the devices, and else go on behind them. Register 1 is left as it is.
func allowing(devices []number) asm.Instructions {
	const next = "next"
	var list asm.Instructions
	for i, d := range devices {
		end := fmt.Sprint(next, i)
		list = append(list,
			asm.LoadMem(asm.R2, asm.R1, fieldAccess, asm.Word),
			asm.And.Imm32(asm.R2, 0xffff|makeNode),
			asm.JNE.Imm32(asm.R2, character, end),
			asm.LoadMem(asm.R2, asm.R1, fieldMajor, asm.Word),
			asm.JNE.Imm32(asm.R2, int32(d.major), end),
			asm.LoadMem(asm.R2, asm.R1, fieldMinor, asm.Word),
			asm.JNE.Imm32(asm.R2, int32(d.minor), end),
			asm.Mov.Imm32(asm.R0, 1),
			asm.Return(),
			asm.Mov.Reg32(asm.R2, asm.R2).WithSymbol(end),
		)
	}
	return list
}
