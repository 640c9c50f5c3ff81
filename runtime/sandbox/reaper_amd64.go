package sandbox

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"unsafe"
)

// The image's address space; reaper_amd64.s uses these, too.
const (
	reaperBase    = 0x400000
	reaperEntry   = reaperBase + 0x0b0 // after the headers
	reaperForward = reaperBase + 0x300 // the signal handler
	reaperParams  = reaperBase + 0x340 // the parameter block
)

// Offsets in the parameter block. The program's path and the message follow it.
const (
	paramFD         = 0  // uint32: the descriptor that the image is executed through
	paramMessageLen = 4  // uint32
	paramPath       = 8  // uint64: address of the program's path
	paramMessage    = 16 // uint64: address of what to write if the program cannot be executed
	paramName       = 24 // [16]byte
	paramSize       = 40
)

// reaperEndMark follows the machine code of each part.
const reaperEndMark = 0x5ca1ab1e0ddba11

// reaperFailed is the reaper's exit code if the kernel refuses it a process.
const reaperFailed = 125 //nolint:unused // the assembly uses it

// reaperText returns where the linker has put the two parts of the machine code.
func reaperText() (main, forward *byte)

// reaperImage is a static ELF executable: headers, the machine code, the parameters.
func reaperImage(fd int, program string) ([]byte, error) {
	message := fmt.Sprintf("corsa: cannot execute %q in the container\n", program)
	main, forward := reaperText()
	img := make([]byte, reaperParams-reaperBase+paramSize)
	for _, part := range []struct {
		text    *byte
		at, end int
	}{
		{main, reaperEntry - reaperBase, reaperForward - reaperBase},
		{forward, reaperForward - reaperBase, reaperParams - reaperBase},
	} {
		code, err := machineCode(part.text, part.end-part.at)
		if err != nil {
			return nil, err
		}
		copy(img[part.at:], code)
	}
	p := img[reaperParams-reaperBase:]
	end := uint64(reaperBase + len(img))
	le := binary.LittleEndian
	le.PutUint32(p[paramFD:], uint32(fd))
	le.PutUint32(p[paramMessageLen:], uint32(len(message)))
	le.PutUint64(p[paramPath:], end)
	le.PutUint64(p[paramMessage:], end+uint64(len(program))+1)
	copy(p[paramName:], reaperName)
	img = append(img, program...)
	img = append(img, 0)
	img = append(img, message...)
	copy(img, elfHeader(len(img)))
	return img, nil
}

// machineCode is a copy of the function at text without its end mark; limit is in bytes.
func machineCode(text *byte, limit int) ([]byte, error) {
	var mark [8]byte
	binary.LittleEndian.PutUint64(mark[:], reaperEndMark)
	code, _, ok := bytes.Cut(unsafe.Slice(text, limit), mark[:])
	if !ok {
		return nil, fmt.Errorf("reaper: the machine code is longer than the %d bytes that the image has for it", limit-len(mark))
	}
	return code, nil
}

// elfHeader describes a file of size bytes that is mapped as a whole, read-only and executable.
func elfHeader(size int) []byte {
	const headerSize, progSize = 64, 56
	h := elf.Header64{
		Type:      uint16(elf.ET_EXEC),
		Machine:   uint16(elf.EM_X86_64),
		Version:   uint32(elf.EV_CURRENT),
		Entry:     reaperEntry,
		Phoff:     headerSize,
		Ehsize:    headerSize,
		Phentsize: progSize,
		Phnum:     2,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	load := elf.Prog64{
		Type:   uint32(elf.PT_LOAD),
		Flags:  uint32(elf.PF_R | elf.PF_X),
		Vaddr:  reaperBase,
		Paddr:  reaperBase,
		Filesz: uint64(size),
		Memsz:  uint64(size),
		Align:  4096,
	}
	// Without it the kernel makes the stack executable.
	stack := elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16}
	var b bytes.Buffer
	for _, v := range []any{h, load, stack} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err) // fixed-size structs into memory
		}
	}
	return b.Bytes()
}
