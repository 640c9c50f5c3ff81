package route

import (
	"fmt"
	"strings"
)

// parseName reads a socket's name: a path, or with "@" in front an abstract name. "" is no name.
func parseName(s string) (programName, error) {
	var n programName
	switch {
	case s == "":
		return n, nil
	case len(s) >= nameSize:
		return n, fmt.Errorf("socket name %q: %d bytes; at most %d are possible", s, len(s), nameSize-1)
	case s == "@":
		return n, fmt.Errorf("socket name %q is empty", s)
	case s[0] != '@' && strings.ContainsRune(s, 0):
		return n, fmt.Errorf("socket path %q contains a NUL byte", s)
	}
	n.Len = uint32(len(s))
	copy(n.Text[:], s)
	if s[0] == '@' {
		n.Text[0] = 0
	}
	return n, nil
}

func (n *programName) String() string {
	if n.Len == 0 || n.Len > nameSize {
		return ""
	}
	s := string(n.Text[:n.Len])
	if s[0] == 0 {
		return "@" + s[1:]
	}
	return s
}

func parseNames(list []string) (to [MaxPublic]programName, err error) {
	if len(list) > MaxPublic {
		return to, fmt.Errorf("%d socket names; at most %d are routed", len(list), MaxPublic)
	}
	for i, s := range list {
		if to[i], err = parseName(s); err != nil {
			return to, err
		}
	}
	return to, nil
}

// texts are the names for the first n public ones.
func texts(to *[MaxPublic]programName, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = to[i].String()
	}
	return list
}
