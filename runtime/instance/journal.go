package instance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

// JournalVersion is that of the lines that AppendRecord writes. A reader refuses any other.
const JournalVersion = 1

// maxLine bounds one line, so that a damaged journal cannot take all memory.
const maxLine = 64 << 20

var (
	// ErrCorrupt says that a line of a journal, other than a torn last one, is damaged or does not fit.
	ErrCorrupt = errors.New("damaged journal")
	// ErrVersion says that a journal was written by another version of corsa.
	ErrVersion = errors.New("journal of another version")
)

// line is one line of a journal: JSON, ended by a newline. The sum is of the bytes of the record as they stand.
type line struct {
	Version int             `json:"v"`
	Sum     string          `json:"crc32c"`
	Record  json.RawMessage `json:"record"`
}

// Made when it is needed: most runs of corsa read no journal, and all would wait for it.
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

func sum(data []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(data, castagnoli())) }

// AppendRecord appends r to buf as one line of a journal.
func AppendRecord(buf []byte, r Record) ([]byte, error) {
	record, err := r.encode()
	if err != nil {
		return buf, fmt.Errorf("encode record %q: %w", r.Kind, err)
	}
	// As encoding/json writes a line. An app may be waiting, and that would read the whole record two times more.
	buf = fmt.Appendf(buf, `{"v":%d,"crc32c":"%s","record":`, JournalVersion, sum(record))
	return append(append(buf, record...), '}', '\n'), nil
}

// encode is json.Marshal, except that what is JSON already is copied.
func (r Record) encode() ([]byte, error) {
	handle, model := r.Handle, r.Model
	if !compactJSON(handle) || !compactJSON(model) {
		return json.Marshal(r)
	}
	r.Handle, r.Model = nil, nil
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	out := append(make([]byte, 0, len(text)+len(handle)+len(model)+32), text[:len(text)-1]...)
	if len(handle) > 0 {
		out = append(append(out, `,"handle":`...), handle...)
	}
	if len(model) > 0 {
		out = append(append(out, `,"model":`...), model...)
	}
	return append(out, '}'), nil
}

// compactJSON reports whether a valid text can stand in a line as it is: json.Marshal would not change it.
func compactJSON(text []byte) bool {
	const firstOfSeparators = 0xe2 // U+2028 and U+2029, and others
	return !bytes.ContainsAny(text, " \t\r\n<>&") && bytes.IndexByte(text, firstOfSeparators) < 0
}

// WriteRecords writes records to a journal in a single call of w.Write, so that one crash tears at most one of
// the lines that follow each other. The caller makes them durable.
func WriteRecords(w io.Writer, records ...Record) error {
	var (
		buf []byte
		err error
	)
	for _, r := range records {
		if buf, err = AppendRecord(buf, r); err != nil {
			return err
		}
	}
	if _, err := w.Write(buf); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// Replayed says how far a journal could be read.
type Replayed struct {
	Records int
	Size    int64 // bytes of whole, sound lines; cut the file here before appending to it
	Torn    int64 // bytes after them: a last line that was being written when the writer died
}

// ReadJournal calls apply for each record of a journal, in order. A last line that is not whole, or whose sum is
// wrong, was never acknowledged: reading ends before it without an error and Replayed.Torn says so. A damaged
// line before the last, or an error of apply, ends in an ErrCorrupt that names the line.
func ReadJournal(r io.Reader, apply func(Record) error) (Replayed, error) {
	var done Replayed
	in := bufio.NewReader(r)
	for number := 1; ; number++ {
		text, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return done, fmt.Errorf("journal, line %d: %w", number, err)
		}
		if len(text) == 0 {
			return done, nil
		}
		record, bad := parseLine(text)
		if bad != nil {
			last, err := atEnd(in, err)
			if err != nil {
				return done, fmt.Errorf("journal, line %d: %w", number, err)
			}
			if last && !errors.Is(bad, ErrVersion) {
				done.Torn = int64(len(text))
				return done, nil
			}
			return done, fmt.Errorf("journal, line %d: %w", number, bad)
		}
		if err := apply(record); err != nil {
			return done, fmt.Errorf("journal, line %d: %w: %w", number, ErrCorrupt, err)
		}
		done.Records++
		done.Size += int64(len(text))
	}
}

// readLine returns a line with its newline, if it has one; io.EOF if the input ends in it.
func readLine(in *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		part, err := in.ReadSlice('\n')
		text = append(text, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return text, err
		}
		if len(text) > maxLine {
			return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrCorrupt, maxLine)
		}
	}
}

// atEnd tells whether nothing follows; read is the error that reading the line gave.
func atEnd(in *bufio.Reader, read error) (bool, error) {
	if errors.Is(read, io.EOF) {
		return true, nil
	}
	_, err := in.Peek(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

func parseLine(text []byte) (Record, error) {
	var (
		l line
		r Record
	)
	if !bytes.HasSuffix(text, []byte{'\n'}) {
		return r, fmt.Errorf("%w: the line does not end", ErrCorrupt)
	}
	if err := json.Unmarshal(text, &l); err != nil {
		return r, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if l.Version != JournalVersion {
		return r, fmt.Errorf("%w: %d; this corsa reads %d", ErrVersion, l.Version, JournalVersion)
	}
	if want := sum(l.Record); l.Sum != want {
		return r, fmt.Errorf("%w: the sum is %q and should be %q", ErrCorrupt, l.Sum, want)
	}
	if err := json.Unmarshal(l.Record, &r); err != nil {
		return r, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return r, nil
}

// Replay builds the model that a journal describes. See ReadJournal for its errors.
func Replay(r io.Reader, limits Limits) (*Model, Replayed, error) {
	m := Blank(limits)
	done, err := ReadJournal(r, m.Apply)
	return m, done, err
}
