package enginetest

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

//go:embed programs
var sources embed.FS

// program is one test service in C with what its "//:" lines say about it.
type program struct {
	name     string
	path     string // below programs/
	doc      string
	listen   []string // "unix" or "tcp"
	declared int      // how many of them are declared to the engine
	parkAny  bool
	optional bool   // machines may rightly lack what it needs
	private  string // its private directory, in the one that it starts in; "": it has none

	object    string                 // its row in the report
	otherwise expectation            // of engines that engines does not name
	engines   map[string]expectation // by name
}

// programDirs are the directories below programs/: of what engines carry, and of what they refuse.
var programDirs = []string{"state", "refuse"}

// parkLimit is how long the harness lets the engine look for a transaction boundary.
func (p program) parkLimit() time.Duration {
	if p.parkAny {
		return 0
	}
	return patience
}

// programs returns those in programs/dir in order of name.
func programs(dir string) ([]program, error) {
	files, err := fs.Glob(sources, "programs/"+dir+"/*.c")
	if err != nil {
		return nil, err
	}
	all := make([]program, 0, len(files))
	for _, file := range files {
		text, err := sources.ReadFile(file)
		if err != nil {
			return nil, err
		}
		p := program{
			name:   strings.TrimSuffix(filepath.Base(file), ".c"),
			path:   strings.TrimPrefix(file, "programs/"),
			listen: []string{"unix"},
		}
		p.declared = -1
		if dir == "state" {
			p.otherwise.fate = private
		}
		if err := p.directives(string(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if p.declared < 0 {
			p.declared = len(p.listen)
		}
		all = append(all, p)
	}
	return all, nil
}

func mustPrograms(t *testing.T, dir string) []program {
	t.Helper()
	all, err := programs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func mustProgram(t *testing.T, dir, name string) program {
	t.Helper()
	for _, p := range mustPrograms(t, dir) {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("there is no program %s/%s.c", dir, name)
	return program{}
}

func (p *program) directives(text string) error {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "//: ")
		if !ok {
			continue
		}
		key, value, _ := strings.Cut(rest, " ")
		switch {
		case key == "doc" && value != "":
			p.doc = value
		case key == "park" && value == "any":
			p.parkAny = true
		case key == "optional" && value == "":
			p.optional = true
		case key == "object" && value != "":
			p.object = value
		case key == "refuse":
			var err error
			if p.otherwise, err = parseExpectation("refused " + value); err != nil {
				return err
			}
		case key == "engine":
			if err := p.engine(value); err != nil {
				return err
			}
		case key == "private" && value != "":
			p.private = value
		case key == "declare":
			n, err := strconv.Atoi(value)
			if err != nil {
				return fmt.Errorf("%q: %w", line, err)
			}
			p.declared = n
		case key == "listen":
			p.listen = strings.Split(value, ",")
			for _, kind := range p.listen {
				if kind != "unix" && kind != "tcp" {
					return fmt.Errorf("%q: a listener is unix or tcp", line)
				}
			}
		default:
			return fmt.Errorf("unknown directive %q", line)
		}
	}
	if p.doc == "" || p.object == "" || p.otherwise.fate == "" {
		return fmt.Errorf("no //: doc, //: object or //: refuse line")
	}
	return nil
}

// builder compiles programs, each once.
type builder struct {
	dir  string
	mu   sync.Mutex
	made map[string]string
}

func newBuilder(t *testing.T) *builder {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil && os.Getenv(ProgramsVariable) == "" {
		t.Fatal("the suite compiles its test services: install gcc")
	}
	b := &builder{dir: t.TempDir(), made: make(map[string]string)}
	if err := os.CopyFS(b.dir, sources); err != nil {
		t.Fatal(err)
	}
	return b
}

// mkdir makes a directory below the suite's own: the reaper knows it, and its path is short enough for a socket's.
func (b *builder) mkdir(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp(b.dir, name+"-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// binary returns the path of p's executable.
func (b *builder) binary(t *testing.T, p program) string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if out, ok := b.made[p.path]; ok {
		return out
	}
	out := filepath.Join(b.dir, p.name)
	if err := b.provide(p, out); err != nil {
		t.Fatal(err)
	}
	b.made[p.path] = out
	return out
}
