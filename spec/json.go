package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Unmarshal is json.Unmarshal with errors that say where: the line and column of what cannot be read.
func Unmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(v); err != nil {
		return jsonProblem(data, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: there is text after the end of the JSON document", position(data, d.InputOffset()))
	}
	return nil
}

// jsonProblem adds the line and column to an error of encoding/json.
func jsonProblem(data []byte, err error) error {
	var (
		syntax *json.SyntaxError
		typing *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%s: %w", position(data, syntax.Offset), err)
	case errors.As(err, &typing):
		field := typing.Field
		if field == "" {
			field = "the document"
		}
		return fmt.Errorf("%s: %s must be a %s, not a %s", position(data, typing.Offset), field, typing.Type, typing.Value)
	case errors.Is(err, io.EOF):
		return errors.New("the file is empty")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: the file ends in the middle of the JSON document", position(data, int64(len(data))))
	}
	return err
}

// position is that of the last of the first offset bytes, counted from 1 as editors do.
func position(data []byte, offset int64) string {
	before := data[:min(max(offset-1, 0), int64(len(data)))]
	line := 1 + bytes.Count(before, []byte{'\n'})
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return fmt.Sprintf("line %d, column %d", line, column)
}
