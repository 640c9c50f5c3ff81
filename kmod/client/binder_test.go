package client_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/kmod/client"
	"corsa.dev/corsa/kmod/client/clienttest"
)

func TestEnableBinder(t *testing.T) {
	s, k := session(t, map[string]clienttest.Reply{
		"BinderEnable": func(arg any) (int, unix.Errno) {
			a := arg.(*clienttest.BinderEnable)
			if a.Key != 1 || a.Flags != 1 || a.WaitNS != 2e9 || a.Reserved != 0 {
				return 0, unix.EINVAL
			}
			a.Devices, a.Hook = 2, 1
			return 0, 0
		},
	})
	devices, hook, err := s.EnableBinder(client.BinderGate{Key: client.KeyEUID, Origin: true, Wait: 2 * time.Second})
	if err != nil || devices != 2 || hook != client.HookKprobe || hook.String() != "kprobe" {
		t.Errorf("%d devices by %v, %v", devices, hook, err)
	}
	for errno, want := range map[unix.Errno]error{
		unix.ENODEV: client.ErrNoBinder, unix.EOPNOTSUPP: client.ErrNoGate, unix.ENOSYS: client.ErrBinderDriver,
		unix.EALREADY: client.ErrBusy, unix.EBUSY: client.ErrBusy, unix.ESRCH: client.ErrOver,
	} {
		k.Replies["BinderEnable"] = func(any) (int, unix.Errno) { return 0, errno }
		if _, _, err := s.EnableBinder(client.BinderGate{Key: client.KeyPID}); !errors.Is(err, want) || !errors.Is(err, errno) {
			t.Errorf("%v is %v, which should be %v", errno, err, want)
		}
	}
}

func TestRoutes(t *testing.T) {
	const many = 100
	s, _ := session(t, map[string]clienttest.Reply{
		"BinderRoute": func(arg any) (int, unix.Errno) {
			if a := arg.(*clienttest.BinderRoute); a.Key != 2001 || a.ID != 3 || a.Flags != 1 || a.Every != 10 {
				return 0, unix.ENOENT
			}
			return 0, 0
		},
		"BinderRoutes": func(arg any) (int, unix.Errno) {
			a := arg.(*clienttest.BinderRoutes)
			a.Count = many
			for i, r := range clienttest.Slice[clienttest.BinderRouteInfo](a.Routes, min(a.Cap, many)) {
				r.Key, r.ID, r.Transactions = uint64(2000+i), uint32(i), uint64(i)
				clienttest.Slice[clienttest.BinderRouteInfo](a.Routes, min(a.Cap, many))[i] = r
			}
			return 0, 0
		},
		"BinderStats": func(arg any) (int, unix.Errno) {
			arg.(*clienttest.BinderStats).LongestWaitNS = 7
			return 0, 0
		},
	})
	if err := s.Route(2001, 3, client.RoutePause, 10); err != nil {
		t.Error(err)
	}
	if err := s.Route(2001, 4, 0, 0); !errors.Is(err, client.ErrNoRecord) {
		t.Errorf("a record that is not there: %v", err)
	}
	routes, err := s.Routes()
	if err != nil || len(routes) != many {
		t.Fatalf("%d routes, %v", len(routes), err)
	}
	for i, r := range routes {
		if r.Key != uint64(2000+i) || r.ID != uint32(i) {
			t.Errorf("route %d: %+v", i, r)
		}
	}
	if st, err := s.BinderStats(); err != nil || st.LongestWait != 7 {
		t.Error(st, err)
	}
	if got := fmt.Sprint(client.EventBinderWanted, " ", client.EventBinderDue); got != "binder-wanted binder-due" {
		t.Error(got)
	}
}
