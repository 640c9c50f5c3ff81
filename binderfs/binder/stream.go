package binder

import (
	"encoding/binary"
	"fmt"
)

var order = binary.NativeEndian

// next splits the first command off what the driver has returned. The payload has the size that the command's number
// tells, whether the command is known or not.
func next(stream []byte) (cmd command, payload, rest []byte, err error) {
	if len(stream) < 4 {
		return 0, nil, nil, fmt.Errorf("%w: %d bytes where a command should be", ErrMalformed, len(stream))
	}
	cmd = command(order.Uint32(stream))
	end := 4 + cmd.size()
	if len(stream) < end {
		return cmd, nil, nil, fmt.Errorf("%w: command %#x needs %d bytes, %d are left", ErrMalformed, uint32(cmd), end-4, len(stream)-4)
	}
	return cmd, stream[4:end:end], stream[end:], nil
}

// transactionData is struct binder_transaction_data.
type transactionData struct {
	target      uint64 // of a command: the handle; of what is returned: the pointer that the owner has given
	cookie      uint64
	code        uint32
	flags       uint32
	pid         int32
	euid        uint32
	dataSize    uint64
	offsetsSize uint64
	buffer      uint64
	offsets     uint64
}

// decodeTransaction reads a payload of at least transactionSize bytes.
func decodeTransaction(b []byte) transactionData {
	_ = b[transactionSize-1]
	return transactionData{
		target: order.Uint64(b), cookie: order.Uint64(b[8:]), code: order.Uint32(b[16:]), flags: order.Uint32(b[20:]),
		pid: int32(order.Uint32(b[24:])), euid: order.Uint32(b[28:]), dataSize: order.Uint64(b[32:]),
		offsetsSize: order.Uint64(b[40:]), buffer: order.Uint64(b[48:]), offsets: order.Uint64(b[56:]),
	}
}

func (t *transactionData) append(b []byte) []byte {
	b = order.AppendUint64(b, t.target)
	b = order.AppendUint64(b, t.cookie)
	b = order.AppendUint32(b, t.code)
	b = order.AppendUint32(b, t.flags)
	b = order.AppendUint32(b, uint32(t.pid))
	b = order.AppendUint32(b, t.euid)
	b = order.AppendUint64(b, t.dataSize)
	b = order.AppendUint64(b, t.offsetsSize)
	b = order.AppendUint64(b, t.buffer)
	return order.AppendUint64(b, t.offsets)
}

func appendHandle(b []byte, cmd command, handle uint32) []byte {
	return order.AppendUint32(order.AppendUint32(b, uint32(cmd)), handle)
}

func appendPointer(b []byte, cmd command, p uint64) []byte {
	return order.AppendUint64(order.AppendUint32(b, uint32(cmd)), p)
}

func appendHandleCookie(b []byte, cmd command, handle uint32, cookie uint64) []byte {
	return order.AppendUint64(appendHandle(b, cmd, handle), cookie)
}

func appendPtrCookie(b []byte, cmd command, ptr, cookie uint64) []byte {
	return order.AppendUint64(appendPointer(b, cmd, ptr), cookie)
}
