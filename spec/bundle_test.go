package spec_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"corsa.dev/corsa/spec"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, spec.ConfigName), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLoadBundle(t *testing.T) {
	for name, test := range map[string]struct{ config, want string }{
		"empty":         {"", "the file is empty"},
		"syntax":        {"{\n  \"root\": {\n    \"path\": x\n  }\n}", "line 3, column 13"},
		"cut off":       {"{\n  \"root\": {", "line 2"},
		"wrong type":    {"{\n  \"process\": {\"args\": \"sh\"}\n}", "line 2"},
		"null":          {"null", "line 1"},
		"list":          {"[]", "line 1"},
		"two":           {"{}\n{}", "line 2, column 1"},
		"annotation":    {`{"annotations": {"dev.corsa.engine": "x"}}`, "dev.corsa.engine"},
		"no process":    {`{"annotations": {"dev.corsa.socket": "/run/x"}}`, "no process"},
		"ordinary":      {`{"annotations": {"x": "y"}}`, ""},
		"more at end":   {"{} \n\n", ""},
		"unknown field": {`{"ociVersion": "1.9.0", "new": {"a": 1}}`, ""},
	} {
		dir := writeConfig(t, test.config)
		config, service, err := spec.LoadBundle(dir)
		if test.want == "" {
			if err != nil || service != nil || config == nil {
				t.Errorf("%s: %v, %v", name, service, err)
			}
			continue
		}
		if !errors.Is(err, spec.ErrInvalid) || !strings.Contains(err.Error(), test.want) ||
			!strings.Contains(err.Error(), filepath.Join(dir, spec.ConfigName)) {
			t.Errorf("%s: the error is %q, and should name the file and %q", name, err, test.want)
		}
	}
	if _, _, err := spec.LoadBundle(t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), spec.ConfigName) {
		t.Errorf("no file: %v", err)
	}
}

func TestWriteBundleLeavesNothingHalfDone(t *testing.T) {
	o := spec.HostBundleOptions{Args: []string{"true"}, UID: uint32(os.Geteuid())}
	list := func(dir string) []string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}

	dir := t.TempDir()
	bad := o
	bad.Writable = []string{"/does/not/exist"}
	if err := spec.WriteBundle(dir, bad); err == nil || len(list(dir)) != 0 {
		t.Errorf("a bad option: %v, leaves %v", err, list(dir))
	}
	dir = writeConfig(t, "mine")
	if err := spec.WriteBundle(dir, o); !errors.Is(err, fs.ErrExist) || len(list(dir)) != 1 {
		t.Errorf("a configuration that is there: %v, leaves %v", err, list(dir))
	}
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := spec.WriteBundle(dir, o); !errors.Is(err, fs.ErrExist) || len(list(dir)) != 1 {
		t.Errorf("a root that is there: %v, leaves %v", err, list(dir))
	}
	if err := spec.WriteBundle(filepath.Join(dir, "none"), o); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	dir = t.TempDir()
	if err := spec.WriteBundle(dir, o); err != nil || !slices.Equal(list(dir), []string{spec.ConfigName, "rootfs"}) {
		t.Errorf("%v, makes %v", err, list(dir))
	}
}

func TestHostBundleRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		o    spec.HostBundleOptions
		want string
	}{
		"no program":         {spec.HostBundleOptions{}, "no program"},
		"empty program":      {spec.HostBundleOptions{Args: []string{""}}, "no program"},
		"NUL":                {spec.HostBundleOptions{Args: []string{"a\x00b"}}, "NUL"},
		"environment":        {spec.HostBundleOptions{Env: []string{"A"}}, "NAME=VALUE"},
		"directory":          {spec.HostBundleOptions{Cwd: "x"}, `"x" is not absolute`},
		"relative writable":  {spec.HostBundleOptions{Writable: []string{"x"}}, `"x" is not absolute`},
		"missing writable":   {spec.HostBundleOptions{Writable: []string{"/does/not/exist"}}, "/does/not/exist"},
		"all writable":       {spec.HostBundleOptions{Writable: []string{"/"}}, "root directory"},
		"proc writable":      {spec.HostBundleOptions{Writable: []string{"/proc/self"}}, "/proc"},
		"bad service":        {spec.HostBundleOptions{Service: spec.Default()}, spec.KeySocket},
		"socket in etc":      {spec.HostBundleOptions{Service: service(t, "/etc/x.sock")}, "all of /etc"},
		"socket nowhere":     {spec.HostBundleOptions{Service: service(t, "/usr/does/not/x.sock")}, "/usr/does/not"},
		"socket in the root": {spec.HostBundleOptions{Service: service(t, "/x.sock")}, "all of /"},
	} {
		if test.o.Args == nil && name != "no program" {
			test.o.Args = []string{"true"}
		}
		test.o.UID = uint32(os.Geteuid())
		if _, _, err := spec.HostBundle(test.o); !errors.Is(err, spec.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error is %v and should say %q", name, err, test.want)
		}
	}
}

// A mount whose place lies in one that comes later would be hidden by it.
func TestNoMountIsHidden(t *testing.T) {
	home := t.TempDir()
	for _, o := range []spec.HostBundleOptions{
		{Service: service(t, "/run/a/b/x.sock", "/run/a/y.sock", home+"/x.sock", "/var/run/c/z.sock")},
		{Writable: []string{home}, Service: service(t, home+"/x.sock")},
		{Writable: []string{"/tmp", home, "/var"}},
	} {
		o.Args = []string{"true"}
		o.UID = uint32(os.Geteuid())
		config, _, err := spec.HostBundle(o)
		if err != nil {
			t.Fatal(err)
		}
		at := map[string]specs.Mount{}
		for _, m := range config.Mounts {
			for earlier := range at {
				if earlier == m.Destination || strings.HasPrefix(earlier, m.Destination+"/") && !slices.Contains(o.Writable, m.Destination) {
					t.Errorf("%s is hidden by the later %s", earlier, m.Destination)
				}
			}
			at[m.Destination] = m
		}
		for _, e := range endpoints(o.Service) {
			dir := filepath.Dir(strings.Replace(e.Address, "/var/run/", "/run/", 1))
			if _, ok := at[dir]; !ok {
				t.Errorf("there is no place for %s", e.Address)
			}
		}
	}
}

func endpoints(s *spec.Service) []spec.Endpoint {
	if s == nil {
		return nil
	}
	return s.Endpoints
}
