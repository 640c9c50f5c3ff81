package route

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSitePermits compares, for each kind of public socket and user, connect() to the public socket with the one that
// is led to a listener of the user's: whom Admits names gets through to both or to neither.
func TestSitePermits(t *testing.T) {
	need(t)
	bpf := pins(t)
	const owner, member, group = 3001, 3002, 3002 // who becomes uid N here becomes gid N, too
	for _, kind := range []struct {
		mode fs.FileMode
		dir  fs.FileMode
		all  bool
		may  []int // of the users who the public socket lets in, those that are led
	}{
		{0o777, 0o755, true, []int{0, owner, member, 3003}},
		{0o666, 0o755, true, []int{0, owner, member, 3003}},
		{0o666, 0o700, false, []int{0}},
		{0o660, 0o755, false, []int{0, member}},
		{0o600, 0o755, false, []int{0, owner}},
		{0o755, 0o755, false, []int{0, owner}},
		{0o606, 0o755, false, nil},
		{0o000, 0o755, false, nil},
	} {
		t.Run(fmt.Sprintf("%o in %o", kind.mode, kind.dir), func(t *testing.T) {
			dir := workDir(t)
			public := dir + "/public"
			serve(t, "unix", public, "public")
			if err := errors.Join(os.Chown(public, owner, group), os.Chmod(public, kind.mode), os.Chmod(dir, kind.dir)); err != nil {
				t.Fatal(err)
			}
			s := site(t, public)
			changed, err := s.Mirror()
			if errors.Is(err, ErrUnsupported) != (kind.may == nil) || err != nil && kind.may != nil || !changed {
				t.Fatalf("mirror: %v, %v", changed, err)
			}
			if s.AdmitsAll() != kind.all {
				t.Errorf("admits all: %v, want %v", s.AdmitsAll(), kind.all)
			}
			r := open(t, Config{ID: t.Name(), Public: []string{public}, Pins: bpf})
			keepBeating(t, r)
			for _, uid := range []int{0, owner, member, 3003} {
				listener := fmt.Sprint(s.Dir, "/", uid)
				serve(t, "unix", listener, "own")
				if err := s.Grant(listener, uint32(uid)); err != nil {
					t.Fatal(err)
				}
				before := client{UID: uid, Names: []string{public}}.start(t)()[0]
				if !s.Admits(uint32(uid)) { // nobody makes a route for it
					if slices.Contains(kind.may, uid) {
						t.Errorf("uid %d is not admitted", uid)
					}
					continue
				}
				set(t, r, uint32(uid), listener)
				after := client{UID: uid, Names: []string{public}}.start(t)()[0]
				if (before.From == "public") != (after.From == "own") || (after.From == "own") != slices.Contains(kind.may, uid) {
					t.Errorf("uid %d: before %q (%s), led %q (%s)", uid, before.From, before.Err, after.From, after.Err)
				}
				if kind.mode == 0o660 && uid != 0 { // the same user without the group
					client{UID: uid, GID: 3999, Names: []string{public}}.reaches(t, "")
				}
				for other := range 4 { // nobody else gets in, not even with the name
					if other := []int{owner, member, 3003, 3004}[other]; other != uid {
						client{UID: other, Names: []string{listener}}.reaches(t, "")
					}
				}
			}
		})
	}
}

func site(t *testing.T, public string) *Site {
	t.Helper()
	s, err := OpenSite(t.Name(), public)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveSite(t.Name(), public); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(s.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left behind: %v", err)
		}
	})
	return s
}

// TestSiteFollows: what the owner does to the public socket later holds for the listeners, too.
func TestSiteFollows(t *testing.T) {
	need(t)
	public := workDir(t) + "/public"
	serve(t, "unix", public, "public")
	s := site(t, public)
	for _, step := range []struct {
		mode fs.FileMode
		want fs.FileMode
	}{{0o666, 0o711}, {0o660, 0o710}, {0o606, 0o700}, {0o666, 0o711}} {
		if err := os.Chmod(public, step.mode); err != nil {
			t.Fatal(err)
		}
		if changed, err := s.Mirror(); !changed || errors.Is(err, ErrUnsupported) != (step.mode == 0o606) {
			t.Errorf("mirror of %o: %v, %v", step.mode, changed, err)
		}
		fi, err := os.Stat(s.Dir)
		if err != nil || fi.Mode().Perm() != step.want {
			t.Errorf("mode %v, %v; want %o", fi.Mode(), err, step.want)
		}
	}
	if changed, err := s.Mirror(); changed || err != nil {
		t.Errorf("mirror of the same: %v, %v", changed, err)
	}
	if err := os.Remove(public); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mirror(); err == nil || s.Admits(1) || s.Admits(0) {
		t.Errorf("without a public socket: %v", err)
	}
}

// TestSiteTaken: a directory that somebody else has put there is not used.
func TestSiteTaken(t *testing.T) {
	need(t)
	dir := workDir(t)
	public := dir + "/public"
	for i, put := range []func(string) error{
		func(s string) error { return errors.Join(os.Mkdir(s, 0o755), os.Chown(s, 3001, 0)) },
		func(s string) error { return errors.Join(os.Mkdir(s, 0o755), os.Chmod(s, 0o777)) },
		func(s string) error { return os.Symlink("/tmp", s) },
		func(s string) error { return os.WriteFile(s, nil, 0o600) },
	} {
		path := siteDir("x", public)
		if err := put(path); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSite("x", public); !errors.Is(err, ErrUnsupported) {
			t.Errorf("case %d: %v", i, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenSite("x", "/"+string(make([]byte, 100))+"/p"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a long path: %v", err)
	}
}

// TestExpose: a spare lets in who is led there.
func TestExpose(t *testing.T) {
	r, public, _ := one(t)
	s := site(t, public)
	if _, err := s.Mirror(); err != nil {
		t.Fatal(err)
	}
	listener := s.Dir + "/spare"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: listener})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.AcceptUnix(); err == nil; c, err = l.AcceptUnix() {
			go greet(c, "spare")
		}
	}()
	if err := s.Expose(listener); err != nil {
		t.Fatal(err)
	}
	r.AllowClaims(s.AdmitsAll())
	if _, err := r.Offer([]string{listener}); err != nil {
		t.Fatal(err)
	}
	client{UID: 1005, Names: []string{public}}.reaches(t, "spare")
	if err := s.Grant(listener, 1005); err != nil {
		t.Fatal(err)
	}
	name, err := s.Name(listener)
	if err == nil {
		err = os.Remove(listener)
	}
	if err != nil {
		t.Fatal(err)
	}
	set(t, r, 1005, name)
	client{UID: 1005, Names: []string{public}}.reaches(t, "spare")
	for _, a := range (client{UID: 1006, Names: []string{name}}).reaches(t, "") {
		if a.Err != unix.EACCES.Error() {
			t.Errorf("error %q", a.Err)
		}
	}
	if _, err := s.Name("/tmp/x"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("name elsewhere: %v", err)
	}
	if err := s.Grant("/tmp/x", 1); !errors.Is(err, ErrUnsupported) {
		t.Errorf("grant elsewhere: %v", err)
	}
}
