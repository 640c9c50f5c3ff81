package spec_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"corsa.dev/corsa/spec"
)

func TestDefaults(t *testing.T) {
	s, declared, err := spec.FromAnnotations(map[string]string{spec.KeySocket: "/run/r.sock"})
	if err != nil || !declared {
		t.Fatal(declared, err)
	}
	want := spec.Default()
	want.Endpoints = []spec.Endpoint{{Network: "unix", Address: "/run/r.sock"}}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v, want %+v", s, want)
	}
}

func TestNoService(t *testing.T) {
	for _, a := range []map[string]string{nil, {"org.example.dev.corsa.engine": "x", "dev.corsage": "y"}} {
		if s, declared, err := spec.FromAnnotations(a); s != nil || declared || err != nil {
			t.Errorf("%v: %v, %v, %v", a, s, declared, err)
		}
	}
}

// Each bad declaration gives an error that names the key, the value and what is legal.
func TestBadAnnotations(t *testing.T) {
	for _, test := range []struct {
		set  string // KEY=VALUE, several separated by "; "
		want string // in the error, several separated by "; "
	}{
		{"chekpoint=every", `dev.corsa.chekpoint; did you mean dev.corsa.checkpoint?`},
		{"app_key=uid", `did you mean dev.corsa.app-key?`},
		{"zzzzzzzzzzzz=1", `dev.corsa.zzzzzzzzzzzz: there is no such key; dev.corsa.app-key, dev.corsa.binder.devices`},
		{"engine=criu", `dev.corsa.engine="criu"; auto, fork, kmod`},
		{"engine=kmod; concurrency=parallel", `dev.corsa.concurrency="parallel"; contradicts dev.corsa.engine; strict`},
		{"path=fast", `dev.corsa.path="fast"; auto, connect, handover, proxied`},
		{"path=handover; checkpoint=every=5", `dev.corsa.path="handover"; contradicts dev.corsa.checkpoint=every=5`},
		{"path=connect; on-crash=retry=2", `dev.corsa.path="connect"; contradicts dev.corsa.on-crash=retry=2`},
		{"path=handover; crash-reply=x", `dev.corsa.path="handover"; contradicts dev.corsa.crash-reply`},
		{"gate=dbus", `dev.corsa.gate="dbus"; socket, binder`},
		{"gate=binder", `dev.corsa.binder.devices: a Binder service needs devices; dev.corsa.socket="/run/r.sock": contradicts`},
		{"binder.names=a", `dev.corsa.binder.names="a": has no meaning with dev.corsa.gate=socket`},
		{"binder.manager=aidl3", `dev.corsa.binder.manager="aidl3": has no meaning`},
		{"binder.manager=hidl", `no service manager "hidl"; aidl6 (16)`},
		{"binder.devices=a,a", `"a" is listed twice`},
		{"binder.devices=features", `no device can be called "features"`},
		{"binder.devices=a/b", `no device can be called "a/b"`},
		{"binder.publish=dev", `dev.corsa.binder.publish; is not absolute`},
		{"app-key=gid", `dev.corsa.app-key="gid"; uid, pid, cgroup, connection`},
		{"checkpoint=every=0", `dev.corsa.checkpoint="every=0"; less than 1`},
		{"checkpoint=every=", `dev.corsa.checkpoint; empty`},
		{"checkpoint=every=1.5", `dev.corsa.checkpoint; decimal digits`},
		{"checkpoint=interval", `dev.corsa.checkpoint; not a duration`},
		{"checkpoint=interval=5", `dev.corsa.checkpoint; not a duration`},
		{"checkpoint=interval=-1s", `dev.corsa.checkpoint; shorter than 1ms`},
		{"checkpoint=manual=1", `dev.corsa.checkpoint; not a checkpoint policy`},
		{"checkpoint=", `dev.corsa.checkpoint; not a checkpoint policy; interval=DURATION`},
		{"history=0", `dev.corsa.history="0"; at least 1`},
		{"history=99999999999", `dev.corsa.history; at most 2147483647`},
		{"history-bytes=1X", `dev.corsa.history-bytes="1X"`},
		{"history-bytes=-1", `dev.corsa.history-bytes="-1"`},
		{"history-bytes=9999999999T", `63 bits`},
		{"huge-pages=yes", `dev.corsa.huge-pages="yes"; auto, on, off`},
		{"dormant-timers=often", `dev.corsa.dormant-timers="often"; off, on, DURATION`},
		{"dormant-timers=1us", `shorter than 1ms`},
		{"dormant-timers=on; engine=kmod", `dev.corsa.dormant-timers="on"; contradicts dev.corsa.engine=kmod`},
		{"spares=-1", `dev.corsa.spares="-1"; a number, 0 to 64`},
		{"spares=65", `dev.corsa.spares="65"; 0 to 64`},
		{"on-crash=retry", `dev.corsa.on-crash="retry"; needs a number`},
		{"on-crash=retry=-1", `dev.corsa.on-crash`},
		{"on-crash=reboot", `dev.corsa.on-crash="reboot"; restore, retry=N`},
		{"concurrency=2", `dev.corsa.concurrency="2"; strict, parallel`},
		{`crash-reply=a\q`, `dev.corsa.crash-reply; unknown escape at byte 1`},
		{`crash-reply=a\`, `lone backslash`},
		{`crash-reply=\x1`, `unknown escape`},
		{"socket=run/r.sock", `dev.corsa.socket; is not absolute`},
		{"socket=/run/../r.sock", `dev.corsa.socket; which is /r.sock`},
		{"socket=@abstract", `abstract socket`},
		{"socket=/" + strings.Repeat("a", 107), `108 bytes`},
		{"socket=/proc/r.sock", `under /proc`},
		{"socket=/run/a,,/run/b", `dev.corsa.socket; item 2 is empty`},
		{`socket=/run/a\b`, `lone backslash`},
		{"socket=/run/a,/run/a", `dev.corsa.socket="/run/a"; listed twice`},
		{"tcp=6379", `dev.corsa.tcp="6379"; not an address and port`},
		{"tcp=0.0.0.0:6379", `0.0.0.0 is not a loopback address`},
		{"tcp=[::ffff:127.0.0.1]:6379", `not a loopback address`},
		{"tcp=localhost:6379", `dev.corsa.tcp; 127.0.0.1:6379`},
		{"tcp=127.0.0.1:0", `port 0`},
		{"tcp=127.0.0.1:80; app-key=cgroup", `dev.corsa.app-key="cgroup"; contradicts dev.corsa.tcp; uid, connection`},
		{"shared=relative", `dev.corsa.shared="relative"; is not absolute`},
		{"shared=/", `root directory`},
		{"shared=/run/r.sock", `dev.corsa.shared="/run/r.sock"; contradicts dev.corsa.socket`},
		{"shared=/a,/a", `dev.corsa.shared="/a"; listed twice`},
		{"private=data", `dev.corsa.private="data"; is not absolute`},
		{"private=/", `root directory`},
		{"private=/a/../b", `dev.corsa.private="/a/../b"; shortest form, which is /b`},
		{"private=/run", `dev.corsa.private="/run"; contradicts dev.corsa.socket=/run/r.sock`},
		{"private=/a/b; shared=/a", `dev.corsa.private="/a/b"; contradicts dev.corsa.shared=/a`},
		{"private=/a; shared=/a/b", `dev.corsa.private="/a"; contradicts dev.corsa.shared=/a/b`},
		{"private=/a,/a", `dev.corsa.private="/a"; listed twice`},
		{"private=/a/b,/a", `dev.corsa.private="/a"; overlaps with /a/b`},
		{"private=/a; engine=kmod", `dev.corsa.private="/a"; contradicts dev.corsa.engine=kmod`},
	} {
		a := map[string]string{spec.KeySocket: "/run/r.sock"}
		for _, kv := range strings.Split(test.set, "; ") {
			key, value, _ := strings.Cut(kv, "=")
			a[spec.Prefix+key] = value
		}
		s, declared, err := spec.FromAnnotations(a)
		if err == nil || s != nil || !declared || !errors.Is(err, spec.ErrInvalid) {
			t.Errorf("%s: %v, %v, %v", test.set, s, declared, err)
			continue
		}
		for _, part := range strings.Split(test.want, "; ") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error is %q and does not say %q", test.set, err, part)
			}
		}
	}
}

// A Binder service has its own contradictions, and needs no socket.
func TestBinder(t *testing.T) {
	devices := map[string]string{spec.KeyGate: "binder", spec.KeyBinderDevices: "binder,hwbinder"}
	s, declared, err := spec.FromAnnotations(devices)
	if err != nil || !declared || len(s.Binder.Devices) != 2 || s.Binder.Manager != spec.ManagerOwn {
		t.Fatalf("%+v, %v", s, err)
	}
	for set, want := range map[string]string{
		"engine=fork": "", "concurrency=parallel": "", "on-crash=retry=2": "", "crash-reply=x": "driver's own error",
		"app-key=connection": "uid, pid, cgroup", "tcp=127.0.0.1:1": "one kind of clients", "binder.names=a": "dev.corsa.binder.manager=own",
	} {
		key, value, _ := strings.Cut(set, "=")
		a := maps.Clone(devices)
		a[spec.Prefix+key] = value
		if _, _, err := spec.FromAnnotations(a); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want something about %q", set, err, want)
		}
	}
	delete(devices, spec.KeyGate)
	if s, declared, err := spec.FromAnnotations(devices); s != nil || declared || err != nil {
		t.Errorf("devices alone: %v, %v, %v", s, declared, err)
	}
	if _, _, err := spec.FromAnnotations(map[string]string{spec.KeyBinderDevices: "a", spec.BinderPrefix + "device": "b"}); err == nil {
		t.Error("an unknown key goes unnoticed")
	}
}

func TestNoEndpoint(t *testing.T) {
	_, _, err := spec.FromAnnotations(map[string]string{spec.KeyEngine: "fork"})
	if err == nil || !strings.Contains(err.Error(), spec.KeySocket) || !strings.Contains(err.Error(), spec.KeyTCP) {
		t.Errorf("got %v", err)
	}
	// One that is given and wrong is reported as that only.
	_, _, err = spec.FromAnnotations(map[string]string{spec.KeyTCP: "x"})
	if err == nil || strings.Contains(err.Error(), "needs an address") {
		t.Errorf("got %v", err)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	_, _, err := spec.FromAnnotations(map[string]string{
		spec.KeyEngine: "x", spec.KeyGate: "x", spec.KeyHistory: "x", spec.Prefix + "x": "x", spec.KeySocket: "x", spec.KeyShared: "x",
	})
	var problems interface{ Unwrap() []error }
	if !errors.As(err, &problems) {
		t.Fatalf("got %v", err)
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 6 {
		t.Errorf("%d problems in\n%v", n, err)
	}
}

// random makes a valid Service.
func random(r *rand.Rand) *spec.Service {
	s := randomSocket(r)
	if r.IntN(3) > 0 {
		return s
	}
	s.Gate, s.Endpoints, s.CrashReply, s.Concurrency, s.Path = spec.GateBinder, nil, "", spec.Strict, spec.PathAuto
	s.Timers, s.MemoryBudget, s.Instances = spec.TimerPolicy{}, 0, 0
	if s.AppKey == spec.AppKeyConnection {
		s.AppKey = spec.AppKeyUID
	}
	if s.OnCrash.Mode == spec.CrashRetry && s.Engine == "kmod" {
		s.OnCrash = spec.CrashPolicy{Mode: spec.CrashRestore}
	}
	s.Binder.Devices = []string{"binder", "hwbinder", "a b"}[:1+r.IntN(3)]
	if r.IntN(2) > 0 {
		s.Binder.Publish = "/run/x,y"
	}
	if r.IntN(2) > 0 {
		s.Binder.Manager = "aidl3"
		s.Binder.Names = []string{"clipboard", "a,b"}[:r.IntN(3)]
		if len(s.Binder.Names) == 0 {
			s.Binder.Names = nil
		}
	}
	return s
}

func randomSocket(r *rand.Rand) *spec.Service {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	path := func() string {
		return "/" + pick("run", "tmp", "srv/a b") + "/" + pick("x", "y,z", `b\s`, "ü", `,\,`, "'\"") + fmt.Sprint(r.IntN(1000000))
	}
	s := spec.Default()
	s.Engine = pick("auto", "fork", "kmod")
	s.AppKey = spec.AppKey(pick("uid", "pid", "cgroup", "connection"))
	for range 1 + r.IntN(3) {
		s.Endpoints = append(s.Endpoints, spec.Endpoint{Network: "unix", Address: path()})
	}
	if s.AppKey == spec.AppKeyUID || s.AppKey == spec.AppKeyConnection {
		for i := range r.IntN(3) {
			host := pick("127.0.0.1", "127.1.2.3", "[::1]")
			s.Endpoints = append(s.Endpoints, spec.Endpoint{Network: "tcp", Address: fmt.Sprintf("%s:%d", host, 1+i*20000+r.IntN(20000))})
		}
	}
	s.Checkpoint = []spec.CheckpointPolicy{
		{Mode: spec.CheckpointManual},
		{Mode: spec.CheckpointEvery, N: 1 + r.IntN(3)},
		{Mode: spec.CheckpointInterval, Interval: spec.MinInterval + time.Duration(r.Int64N(int64(time.Hour)))},
	}[r.IntN(3)]
	s.OnCrash = []spec.CrashPolicy{{Mode: spec.CrashRestore}, {Mode: spec.CrashStop}, {Mode: spec.CrashRetry, Retries: 1 + r.IntN(9)}}[r.IntN(3)]
	s.History = 1 + r.IntN(1000)
	s.HistoryBytes = r.Int64N(3) * r.Int64()
	s.HugePages = spec.HugePages(pick("auto", "on", "off"))
	s.Spares = r.IntN(3) * r.IntN(spec.MaxSpares/2)
	reply := make([]byte, r.IntN(6))
	for i := range reply {
		reply[i] = byte(r.IntN(256))
	}
	s.CrashReply = string(reply)
	if s.Engine != "kmod" && s.Gate == spec.GateSocket {
		s.Timers = []spec.TimerPolicy{{}, {On: true}, {On: true, AtMost: spec.MinInterval + time.Duration(r.Int64N(int64(time.Hour)))}}[r.IntN(3)]
		s.MemoryBudget, s.Instances = r.Int64N(2)*r.Int64N(1<<40), r.IntN(2)*r.IntN(1000)
	}
	if s.Engine != "kmod" {
		s.Concurrency = spec.Concurrency(pick("strict", "parallel"))
	}
	s.Path = spec.Path(pick("auto", "proxied"))
	if s.NeedsBytes() == "" {
		s.Path = spec.Path(pick("auto", "connect", "handover", "proxied"))
	}
	for range r.IntN(3) {
		s.Shared = append(s.Shared, path()+"s")
	}
	s.Warm = pick("", "redis-cli ping", "a; b # 'c'\n")
	return s
}

func TestAnnotationsRoundTrip(t *testing.T) {
	for seed := range uint64(2000) {
		s := random(rand.New(rand.NewPCG(seed, 1)))
		if s.HistoryBytes < 0 {
			s.HistoryBytes = 0
		}
		a := s.Annotations()
		again, declared, err := spec.FromAnnotations(a)
		if err != nil || !declared || !reflect.DeepEqual(s, again) {
			t.Fatalf("seed %d: %+v\nwrites %v\nwhich reads as %+v, %v", seed, s, a, again, err)
		}
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(again.Annotations(), a) {
			t.Fatalf("seed %d: %v, then %v", seed, a, again.Annotations())
		}
	}
}

func TestDirectPath(t *testing.T) {
	for set, want := range map[string]spec.Path{
		"path=auto": spec.PathProxied, "path=auto; on-crash=stop": spec.PathConnect, "on-crash=stop; checkpoint=every": spec.PathProxied,
		"path=handover": spec.PathHandover, "path=connect": spec.PathConnect, "path=proxied; on-crash=stop": spec.PathProxied,
		"on-crash=stop; crash-reply=x": spec.PathProxied, "path=handover; checkpoint=interval=1s": spec.PathHandover,
	} {
		a := map[string]string{spec.KeySocket: "/run/r.sock"}
		for _, kv := range strings.Split(set, "; ") {
			key, value, _ := strings.Cut(kv, "=")
			a[spec.Prefix+key] = value
		}
		s, _, err := spec.FromAnnotations(a)
		if err != nil {
			t.Fatal(set, err)
		}
		if path, reason := s.DirectPath(); path != want || (reason == "") != (want != spec.PathProxied) {
			t.Errorf("%s: %s, %q; want %s", set, path, reason, want)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, s := range []*spec.Service{{}, spec.Default(), {Engine: "fork"}} {
		if err := s.Validate(); !errors.Is(err, spec.ErrInvalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "17": 17, "17B": 17, "4k": 4 << 10, "64M": 64 << 20, "64MiB": 64 << 20, "64MB": 64 << 20, "2G": 2 << 30, "1T": 1 << 40,
		"9223372036854775807": 1<<63 - 1,
	} {
		if got, err := spec.ParseBytes(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "1.5M", "64 M", "1i", "1KK", "1bi", "-0", "0x10", "9223372036854775808", "8388608T"} {
		if got, err := spec.ParseBytes(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func FuzzAnnotations(f *testing.F) {
	for i, key := range spec.Keys() {
		f.Add(key, "/run/a", "every=2")
		f.Add(spec.KeyCheckpoint, fmt.Sprint("/run/a,/run/", i), "interval=1h")
	}
	f.Add(spec.KeyCrashReply, "/run/a", `-ERR\r\n\x00`)
	f.Fuzz(func(t *testing.T, key, sockets, value string) {
		s, _, err := spec.FromAnnotations(map[string]string{spec.KeySocket: sockets, key: value})
		if err != nil {
			if !errors.Is(err, spec.ErrInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		again, _, err := spec.FromAnnotations(s.Annotations())
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Errorf("%+v reads back as %+v, %v", s, again, err)
		}
	})
}
