package fork

import (
	"bytes"
	"unsafe"
)

func stub() //nolint:unused // declared for vet: the assembler reaches it by its address alone
func stubText() *byte
func pause()
func cpuid(leaf, sub uint32) (a, b, c, d uint32)

// stubCode is the text of ·stub as it is copied into a service.
var stubCode = func() []byte {
	text := unsafe.Slice(stubText(), pageSize)
	end := bytes.Index(text, []byte("STUB-END"))
	if end < 0 {
		panic("fork: stub has no end marker")
	}
	return bytes.Clone(text[:end])
}()
