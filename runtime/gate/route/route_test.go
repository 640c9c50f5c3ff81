package route

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestRoutes leads apps by uid: stream and seqpacket, from and to paths and abstract names.
func TestRoutes(t *testing.T) {
	need(t)
	bpf := pins(t)
	for _, kind := range []struct {
		network string
		typ     int
	}{{"unix", unix.SOCK_STREAM}, {"unixpacket", unix.SOCK_SEQPACKET}} {
		for _, abstract := range []string{"public", "target", "both", "none"} {
			t.Run(kind.network+" abstract "+abstract, func(t *testing.T) {
				dir := workDir(t)
				name := func(s string, at bool) string {
					if at {
						return "@" + dir + s
					}
					return dir + s
				}
				public := name("/public", abstract == "public" || abstract == "both")
				at := abstract == "target" || abstract == "both"
				for _, s := range []string{"/a", "/b"} {
					serve(t, kind.network, name(s, at), s)
				}
				serve(t, kind.network, public, "public")
				r := open(t, Config{ID: t.Name(), Public: []string{public}, Pins: bpf})
				set(t, r, 0, name("/a", at))
				set(t, r, 1001, name("/b", at))
				keepBeating(t, r)
				app := func(uid int) client { return client{UID: uid, Type: kind.typ, Names: []string{public}} }
				app(0).reaches(t, "/a")
				for _, a := range app(1001).reaches(t, "/b") {
					if a.UID != 1001 {
						t.Errorf("the listener saw uid %d, want 1001", a.UID)
					}
				}
				app(1002).reaches(t, "public")
				set(t, r, 1001, name("/a", at))
				app(1001).reaches(t, "/a")
				if err := r.Block(1001); err != nil {
					t.Fatal(err)
				}
				app(1001).reaches(t, "public")
				if c, err := r.Counts(); err != nil || c.Routed != 3 || c.Without != 2 {
					t.Errorf("counts %+v, %v", c, err)
				}
			})
		}
	}
}

func set(t *testing.T, r *Router, uid uint32, to ...string) {
	t.Helper()
	if err := r.Set(uid, to); err != nil {
		t.Fatal(err)
	}
}

// one is a service with one public name, a listener there and another one to which uid 1001 is led.
func one(t *testing.T) (r *Router, public string, dir string) {
	t.Helper()
	need(t)
	dir = workDir(t)
	public = dir + "/public"
	serve(t, "unix", public, "public")
	serve(t, "unix", dir+"/own", "own")
	r = open(t, Config{ID: t.Name(), Public: []string{public}, Pins: pins(t)})
	set(t, r, 1001, dir+"/own")
	keepBeating(t, r)
	return r, public, dir
}

// TestSpellings: only the public name as it is spelled is recognised; everything else means what it always did.
func TestSpellings(t *testing.T) {
	r, public, dir := one(t)
	if err := os.Symlink(public, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	client{UID: 1001, Dir: dir, Names: []string{"public", "./public", dir + "//public", dir + "/link", dir + "/../" + filepath.Base(dir) + "/public"}}.reaches(t, "public")
	if n, err := r.Used(1001); n != 0 || err != nil {
		t.Errorf("used %d times, %v", n, err)
	}
	client{UID: 1001, Padded: true, Names: []string{public}}.reaches(t, "own")
	if n, err := r.Used(1001); n != 1 || err != nil {
		t.Errorf("used %d times, %v", n, err)
	}
	long := dir + "/" + strings.Repeat("x", 107-len(dir)-1)
	serve(t, "unix", long, "long")
	client{UID: 1001, Names: []string{long}}.reaches(t, "long")
}

// TestLongestName: 107 bytes are the most that a name may have.
func TestLongestName(t *testing.T) {
	need(t)
	dir, bpf := workDir(t), pins(t)
	for _, at := range []string{"", "@"} {
		public := at + dir + "/" + strings.Repeat("x", 107-len(at+dir)-1)
		own := at + dir + "/" + strings.Repeat("y", 107-len(at+dir)-1)
		serve(t, "unix", public, "public")
		serve(t, "unix", own, "own")
		r := open(t, Config{ID: t.Name() + at, Public: []string{public}, Pins: bpf})
		set(t, r, 1001, own)
		keepBeating(t, r)
		client{UID: 1001, Names: []string{public}}.reaches(t, "own")
	}
}

// TestEffectiveUID: the app is who SO_PEERCRED says it is.
func TestEffectiveUID(t *testing.T) {
	_, public, _ := one(t)
	client{UID: 1001, Real: 1002, Names: []string{public}}.reaches(t, "own")
	client{UID: 1002, Real: 1001, Names: []string{public}}.reaches(t, "public")
}

// TestDatagram: a datagram socket is not led, and fails as it would.
func TestDatagram(t *testing.T) {
	r, public, _ := one(t)
	for _, a := range (client{UID: 1001, Type: unix.SOCK_DGRAM, Names: []string{public}}).reaches(t, "") {
		if a.Err != unix.EPROTOTYPE.Error() {
			t.Errorf("error %q", a.Err)
		}
	}
	if c, err := r.Counts(); err != nil || c.Routed != 0 {
		t.Errorf("counts %+v, %v", c, err)
	}
}

// TestContainers: an app to which the public name may mean something else is left alone.
func TestContainers(t *testing.T) {
	_, public, dir := one(t)
	app := client{UID: 1001, Names: []string{public}}
	app.reaches(t, "own")
	app.Net = true // a path means the same in every network namespace
	app.reaches(t, "own")
	app.Net = false
	app.attr = syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	app.reaches(t, "public")
	app.attr = syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER, // the files are the same ones, and the uid is that of the initial namespace
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1001, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1001, Size: 1}},
		Credential: &syscall.Credential{NoSetGroups: true},
	}
	app.UID = 0
	app.reaches(t, "own")
	app.UID, app.attr = 1001, syscall.SysProcAttr{}
	root := dir + "/root"
	if err := os.MkdirAll(root+dir, 0o755); err != nil {
		t.Fatal(err)
	}
	serve(t, "unix", root+public, "another service")
	app.Root = root
	app.reaches(t, "another service")
}

// TestAbstractTargetElsewhere: an abstract name means something only in its own network namespace.
func TestAbstractTargetElsewhere(t *testing.T) {
	r, public, dir := one(t)
	serve(t, "unix", "@"+dir, "abstract")
	set(t, r, 1001, "@"+dir)
	client{UID: 1001, Names: []string{public}}.reaches(t, "abstract")
	client{UID: 1001, Names: []string{public}, Net: true}.reaches(t, "public")
	if c, err := r.Counts(); err != nil || c.Elsewhere != 1 {
		t.Errorf("counts %+v, %v", c, err)
	}
}

// TestHeartbeat: without one nobody is led, and with one again.
func TestHeartbeat(t *testing.T) {
	need(t)
	dir := workDir(t)
	serve(t, "unix", dir+"/public", "public")
	serve(t, "unix", dir+"/own", "own")
	r := open(t, Config{ID: t.Name(), Public: []string{dir + "/public"}, Pins: pins(t)})
	set(t, r, 1001, dir+"/own")
	app := client{UID: 1001, Names: []string{dir + "/public"}}
	app.reaches(t, "public")
	beat := func() {
		t.Helper()
		connect := app.start(t)
		r.Beat()
		app.arrived(t, connect(), "own")
	}
	beat()
	connect := app.start(t)
	r.Beat()
	r.Pause()
	app.arrived(t, connect(), "public")
	beat()
	time.Sleep(Validity + 100*time.Millisecond)
	app.reaches(t, "public")
	beat()
}

// TestRefusal: a redirected connect() is subject to the permissions of the target.
func TestRefusal(t *testing.T) {
	_, public, dir := one(t)
	if err := os.Chmod(dir+"/own", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, a := range (client{UID: 1001, Names: []string{public}}).reaches(t, "") {
		if a.Err != unix.EACCES.Error() {
			t.Errorf("error %q", a.Err)
		}
	}
}

// TestTwoServices: each is led by its own program, and one can go while the other stays.
func TestTwoServices(t *testing.T) {
	need(t)
	dir, bpf := workDir(t), pins(t)
	var routers [2]*Router
	for i := range routers {
		public := fmt.Sprintf("%s/public%d", dir, i)
		serve(t, "unix", public, "public")
		serve(t, "unix", fmt.Sprintf("%s/own%d", dir, i), fmt.Sprint("own", i))
		routers[i] = open(t, Config{ID: fmt.Sprint(t.Name(), i), Public: []string{public}, Pins: bpf})
		set(t, routers[i], 1001, fmt.Sprintf("%s/own%d", dir, i))
		keepBeating(t, routers[i])
	}
	app := func(i int) client { return client{UID: 1001, Names: []string{fmt.Sprintf("%s/public%d", dir, i)}} }
	app(0).reaches(t, "own0")
	app(1).reaches(t, "own1")
	if err := errors.Join(routers[0].Close(), Remove(fmt.Sprint(t.Name(), 0), bpf)); err != nil {
		t.Fatal(err)
	}
	app(0).reaches(t, "public")
	app(1).reaches(t, "own1")
}

// TestTwoNames: a service with two public names; one of an app's listeners may be missing.
func TestTwoNames(t *testing.T) {
	need(t)
	dir := workDir(t)
	public := []string{dir + "/public0", "@" + dir + "/public1"}
	for _, s := range public {
		serve(t, "unix", s, "public")
	}
	serve(t, "unix", dir+"/own0", "own0")
	serve(t, "unix", dir+"/own1", "own1")
	r := open(t, Config{ID: t.Name(), Public: public, Pins: pins(t)})
	set(t, r, 1001, dir+"/own0", dir+"/own1")
	set(t, r, 1002, "", dir+"/own1")
	keepBeating(t, r)
	for uid, want := range map[int][2]string{1001: {"own0", "own1"}, 1002: {"public", "own1"}, 1003: {"public", "public"}} {
		for i := range public {
			client{UID: uid, Names: public[i : i+1]}.reaches(t, want[i])
		}
	}
	ways, err := r.Ways()
	if want := []string{"", dir + "/own1"}; err != nil || len(ways) != 2 || !slices.Equal(ways[1002], want) {
		t.Errorf("ways %v, %v", ways, err)
	}
}

// TestSurvives: what a dead monitor has left leads on for a while, is adopted by the next one, and can be removed without any.
func TestSurvives(t *testing.T) {
	r, public, dir := one(t)
	cfg := Config{ID: t.Name(), Public: []string{public}, Pins: filepath.Dir(filepath.Dir(r.dir)), Cgroup: testCgroup}
	app := client{UID: 1001, Names: []string{public}}
	r.AllowClaims(true)
	serve(t, "unix", dir+"/spare", "spare")
	if _, err := r.Offer([]string{dir + "/spare"}); err != nil {
		t.Fatal(err)
	}
	newcomer := client{UID: 1009, Names: []string{public}}
	old, young := app.start(t), newcomer.start(t)
	r.Beat()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	app.arrived(t, old(), "own")
	newcomer.arrived(t, young(), "spare")
	time.Sleep(Validity + 100*time.Millisecond)
	app.reaches(t, "public")
	next, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop := keepBeating(t, next)
	app.reaches(t, "own")
	newcomer.reaches(t, "spare")
	stop()
	select {
	case c := <-next.Claims():
		if c.UID != 1009 || !slices.Equal(c.To, []string{dir + "/spare"}) {
			t.Errorf("claim %+v", c)
		}
	case <-time.After(5 * time.Second):
		t.Error("the claim that was made without a monitor is not reported")
	}
	last := app.start(t)
	next.Beat()
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Remove(cfg.ID, cfg.Pins); err != nil {
		t.Fatal(err)
	}
	app.arrived(t, last(), "public")
	if left, err := os.ReadDir(cfg.Pins); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := Remove(cfg.ID, cfg.Pins); err != nil {
		t.Errorf("remove nothing: %v", err)
	}
}

// TestOtherNames: a service that was declared anew begins without routes.
func TestOtherNames(t *testing.T) {
	r, public, dir := one(t)
	cfg := Config{ID: t.Name(), Public: []string{dir + "/another", public}, Pins: filepath.Dir(filepath.Dir(r.dir)), Cgroup: testCgroup}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	next := open(t, cfg)
	keepBeating(t, next)
	client{UID: 1001, Names: []string{public}}.reaches(t, "public")
	if ways, err := next.Ways(); err != nil || len(ways) != 0 {
		t.Errorf("ways %v, %v", ways, err)
	}
}

func TestBadConfig(t *testing.T) {
	need(t)
	bpf := pins(t)
	for _, cfg := range []Config{
		{ID: "x"},
		{Public: []string{"/a"}},
		{ID: "x", Public: make([]string, 5)},
		{ID: "x", Public: []string{"@"}},
		{ID: "x", Public: []string{"/" + strings.Repeat("x", 107)}},
		{ID: "x", Public: []string{"/a"}, Cgroup: "/proc"},
	} {
		cfg.Pins = bpf
		if r, err := Open(cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
			_ = r.Close()
		}
	}
	if left, err := os.ReadDir(bpf); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// A cgroup in which this process is not.
	if testCgroup != "" {
		sub := testCgroup + "/sub"
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(sub)
		if _, err := Open(Config{ID: "x", Public: []string{"/a"}, Pins: bpf, Cgroup: sub}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("error %v", err)
		}
	}
}

func TestClosed(t *testing.T) {
	r, _, _ := one(t)
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	r.Beat()
	r.Pause()
	r.AllowClaims(true)
	if _, err := r.Offer([]string{"/x"}); !errors.Is(err, ErrClosed) {
		t.Errorf("offer: %v", err)
	}
	if r.Set(1, []string{"/x"}) == nil {
		t.Error("set: no error")
	}
	if _, ok := <-r.Claims(); ok {
		t.Error("a claim")
	}
}
