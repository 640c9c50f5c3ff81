package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"
)

// imgFile is one of CRIU's files of protobuf messages: what identifies it, and then each message behind its length.
type imgFile struct {
	magic    []byte
	messages [][]byte
}

// commonMagics precede the magic of the file itself in all but the oldest kinds.
var commonMagics = map[uint32]bool{0x54564319: true, 0x55105940: true}

// readImg reads such a file. A file that ends within a message is ErrNoImage.
func readImg(path string) (*imgFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	truncated := fmt.Errorf("%w: %s is truncated", ErrNoImage, filepath.Base(path))
	if len(data) < 4 {
		return nil, truncated
	}
	n := 4
	if commonMagics[binary.LittleEndian.Uint32(data)] {
		n = 8
	}
	if len(data) < n {
		return nil, truncated
	}
	f := &imgFile{magic: data[:n]}
	for rest := data[n:]; len(rest) > 0; {
		if len(rest) < 4 {
			return nil, truncated
		}
		size := uint64(binary.LittleEndian.Uint32(rest))
		if rest = rest[4:]; uint64(len(rest)) < size {
			return nil, truncated
		}
		f.messages = append(f.messages, rest[:size])
		rest = rest[size:]
	}
	return f, nil
}

// write replaces the file at path in one step.
func (f *imgFile) write(path string) (err error) {
	data := append([]byte(nil), f.magic...)
	for _, m := range f.messages {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(m)))
		data = append(data, m...)
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	return os.Rename(path+".new", path)
}

// decode reads the messages of the files of dir that pattern matches, in order.
func decode[M any, P interface {
	*M
	proto.Message
}](dir, pattern string) ([]P, error) {
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return nil, err
	}
	var list []P
	for _, path := range paths {
		f, err := readImg(path)
		if err != nil {
			return nil, err
		}
		for _, data := range f.messages {
			m := P(new(M))
			if err := proto.Unmarshal(data, m); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", ErrNoImage, filepath.Base(path), err)
			}
			list = append(list, m)
		}
	}
	return list, nil
}
