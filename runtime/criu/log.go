package criu

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sync"
)

// errorLine is a line of CRIU's log, "(00.012345) 12: Error (criu/tty.c:42): text": what follows is the reason.
var errorLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`Error \([^)]*\): (.*)`) })

// explain makes an error out of what CRIU answered and wrote to its log.
func explain(err error, verb, log string) error {
	var f *failure
	if !errors.As(err, &f) {
		return fmt.Errorf("%s: %w; the log is %s", verb, err, log)
	}
	lines, lerr := errorLines(log)
	if lerr != nil || len(lines) == 0 {
		return errors.Join(fmt.Errorf("%s: %w; the log is %s", verb, err, log), lerr)
	}
	return fmt.Errorf("%s: %s; the log is %s", verb, lines[len(lines)-1], log)
}

func errorLines(log string) ([]string, error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if m := errorLine().FindStringSubmatch(s.Text()); m != nil {
			lines = append(lines, m[1])
		}
	}
	return lines, s.Err()
}
