package spec

import (
	"fmt"
	"strconv"
	"strings"
)

// JoinList writes paths or addresses as one annotation value: separated by commas, where a comma or backslash
// that belongs to an item is preceded by a backslash.
func JoinList(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
	}
	return strings.Join(quoted, ",")
}

// SplitList reads what JoinList writes. Blanks around an item are dropped; an empty item, or a backslash before
// anything else than a comma or backslash, is an error.
func SplitList(s string) ([]string, error) {
	const legal = `items separated by commas; a comma or backslash within an item is written \, or \\`
	var (
		items []string
		item  strings.Builder
	)
	end := func() error {
		t := strings.TrimSpace(item.String())
		item.Reset()
		if t == "" {
			return bad(legal, "item %d is empty", len(items)+1)
		}
		items = append(items, t)
		return nil
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ',':
			if err := end(); err != nil {
				return nil, err
			}
		case c == '\\' && i+1 < len(s) && (s[i+1] == ',' || s[i+1] == '\\'):
			i++
			item.WriteByte(s[i])
		case c == '\\':
			return nil, bad(legal, "a lone backslash at byte %d", i)
		default:
			item.WriteByte(c)
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	return items, nil
}

var replyEscapes = map[byte]byte{'r': '\r', 'n': '\n', 't': '\t', '0': 0, '\\': '\\'}

// ParseCrashReply reads the bytes of a crash reply, in which \r \n \t \0 \xHH and \\ stand for what they do in C.
func ParseCrashReply(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			return "", bad(LegalCrashReply, "it ends in a lone backslash")
		}
		if c, ok := replyEscapes[s[i]]; ok {
			b.WriteByte(c)
			continue
		}
		if s[i] == 'x' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		return "", bad(LegalCrashReply, "unknown escape at byte %d", i-1)
	}
	return b.String(), nil
}

// FormatCrashReply writes what ParseCrashReply reads, in printable ASCII.
func FormatCrashReply(reply string) string {
	var b strings.Builder
	for i := 0; i < len(reply); i++ {
		switch c := reply[i]; {
		case c == '\\':
			b.WriteString(`\\`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
