package servicemanager_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"corsa.dev/corsa/binderfs/binder"
	"corsa.dev/corsa/binderfs/internal/roletest"
	"corsa.dev/corsa/binderfs/servicemanager"
)

var background = context.Background()

// The roles are "manager-VARIANT" and "service-VARIANT", which adds the services one, two and three.
func TestMain(m *testing.M) {
	roles := roletest.Roles{}
	for _, v := range servicemanager.Variants {
		roles["manager-"+v.String()] = func(device string) (func() error, error) {
			m, err := servicemanager.New(device, servicemanager.Options{Variant: v})
			if err != nil {
				return nil, err
			}
			return m.Close, nil
		}
		roles["service-"+v.String()] = func(device string) (func() error, error) { return startServices(device, v) }
	}
	roletest.Main(m, roles)
}

func startServices(device string, v servicemanager.Variant) (func() error, error) {
	conn, err := binder.Open(device, binder.Options{Threads: 2, Protocol: v.Protocol()})
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"one", "two", "three"} {
		o, err := conn.NewObject("test."+name, binder.HandlerFunc(func(_ *binder.Transaction, reply *binder.Parcel) error {
			reply.WriteString16(name)
			return nil
		}))
		if err == nil {
			err = servicemanager.NewClient(conn, v).Add(background, name, o)
		}
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn.Close, nil
}

// client returns a client of the device in a variant.
func client(t *testing.T, device string, v servicemanager.Variant) (*servicemanager.Client, *binder.Conn) {
	t.Helper()
	conn, err := binder.Open(device, binder.Options{Threads: 2, Protocol: v.Protocol()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(conn.Close(), conn.Err()); err != nil {
			t.Error(err)
		}
	})
	return servicemanager.NewClient(conn, v), conn
}

func each(t *testing.T, f func(t *testing.T, device string, v servicemanager.Variant)) {
	t.Helper()
	for _, v := range servicemanager.Variants {
		t.Run(v.String(), func(t *testing.T) {
			device := roletest.Device(t)
			roletest.Start(t, "manager-"+v.String(), device)
			f(t, device, v)
		})
	}
}

func ask(ref *binder.Ref) (string, error) {
	var reply binder.Reply
	defer reply.Release()
	if err := ref.Transact(background, 1, &binder.Parcel{}, &reply); err != nil {
		return "", err
	}
	return reply.String16(), reply.Err()
}

func TestServices(t *testing.T) {
	each(t, func(t *testing.T, device string, v servicemanager.Variant) {
		c, _ := client(t, device, v)
		if err := c.Ping(background); err != nil {
			t.Fatal(err)
		}
		if names, err := c.List(background); err != nil || len(names) != 0 {
			t.Fatalf("list of nothing: %q, %v", names, err)
		}
		if _, err := c.Get(background, "one"); !errors.Is(err, servicemanager.ErrNotFound) {
			t.Fatalf("get what is not there: %v", err)
		}
		peer := roletest.Start(t, "service-"+v.String(), device)
		if names, err := c.List(background); err != nil || !slices.Equal(names, []string{"one", "three", "two"}) {
			t.Fatalf("list: %q, %v", names, err)
		}
		for _, name := range []string{"one", "two", "three"} {
			ref, err := c.Get(background, name)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := ask(ref); err != nil || text != name {
				t.Errorf("%s answers %q, %v", name, text, err)
			}
			if text, err := ref.Interface(background); err != nil || text != "test."+name {
				t.Errorf("%s has the interface %q, %v", name, text, err)
			}
			ref.Release()
		}
		peer.Kill(t)
		roletest.Eventually(t, "the names of a dead process are removed", func() bool {
			names, err := c.List(background)
			if err != nil {
				t.Fatal(err)
			}
			return len(names) == 0
		})
	})
}

func TestReplaced(t *testing.T) {
	each(t, func(t *testing.T, device string, v servicemanager.Variant) {
		first := roletest.Start(t, "service-"+v.String(), device)
		roletest.Start(t, "service-"+v.String(), device)
		first.Kill(t)
		c, _ := client(t, device, v)
		time.Sleep(50 * time.Millisecond) // the news of the first one's death must not hit the second
		ref, err := c.Get(background, "two")
		if err != nil {
			t.Fatal(err)
		}
		defer ref.Release()
		if text, err := ask(ref); err != nil || text != "two" {
			t.Errorf("%q, %v", text, err)
		}
	})
}

func TestRefusedNames(t *testing.T) {
	each(t, func(t *testing.T, device string, v servicemanager.Variant) {
		c, conn := client(t, device, v)
		o, err := conn.NewObject("test", binder.HandlerFunc(func(*binder.Transaction, *binder.Parcel) error { return nil }))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"", "with space", "ü", strings.Repeat("x", servicemanager.MaxName+1)} {
			if err := c.Add(background, name, o); err == nil {
				t.Errorf("%q is accepted", name)
			}
		}
		if err := c.Add(background, "a.B-c_d/e0", o); err != nil {
			t.Error(err)
		}
	})
}

func TestWait(t *testing.T) {
	each(t, func(t *testing.T, device string, v servicemanager.Variant) {
		c, _ := client(t, device, v)
		ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
		defer cancel()
		if _, err := c.Wait(ctx, "two"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("wait for what does not come: %v", err)
		}
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				ref, err := c.Wait(background, "two")
				if err != nil {
					t.Error(err)
					return
				}
				if text, err := ask(ref); err != nil || text != "two" {
					t.Errorf("%q, %v", text, err)
				}
				ref.Release()
			})
		}
		time.Sleep(20 * time.Millisecond)
		roletest.Start(t, "service-"+v.String(), device)
		group.Wait()
	})
}

// A request that makes no sense is refused, and the manager goes on.
func TestMalformedRequests(t *testing.T) {
	each(t, func(t *testing.T, device string, v servicemanager.Variant) {
		c, conn := client(t, device, v)
		manager := conn.ContextManager()
		var reply binder.Reply
		defer reply.Release()
		for code := uint32(0); code < 12; code++ {
			for _, fill := range []func(*binder.Parcel){
				func(*binder.Parcel) {},
				func(p *binder.Parcel) { p.WriteInterfaceToken("some.other.IInterface") },
				func(p *binder.Parcel) { p.WriteInterfaceToken(servicemanager.Interface) },
				func(p *binder.Parcel) {
					p.WriteInterfaceToken(servicemanager.Interface)
					p.WriteInt32(1 << 30)
				},
				func(p *binder.Parcel) {
					p.WriteInterfaceToken(servicemanager.Interface)
					p.WriteString16("name")
					p.WriteRaw(make([]byte, 64))
				},
				func(p *binder.Parcel) {
					p.WriteInterfaceToken(servicemanager.Interface)
					p.WriteString16("name")
					p.WriteBinder(nil)
				},
				func(p *binder.Parcel) {
					p.WriteInterfaceToken(servicemanager.Interface)
					p.WriteString16("name")
					p.WriteFD(int(os.Stderr.Fd()))
				},
			} {
				p := conn.NewParcel()
				fill(p)
				var status binder.Status
				if err := manager.Transact(background, code, p, &reply); err != nil && !errors.As(err, &status) {
					t.Fatalf("code %d: %v", code, err)
				}
			}
		}
		if names, err := c.List(background); err != nil || len(names) != 0 {
			t.Errorf("services after that: %q, %v", names, err)
		}
	})
}

// While services come and die at any moment, who asks gets the right one, or none.
func TestChurn(t *testing.T) {
	device := roletest.Device(t)
	roletest.Start(t, "manager-aidl3", device)
	c, _ := client(t, device, servicemanager.AIDL3)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := []string{"one", "two", "three"}[i%3]
				ref, err := c.Get(background, name)
				if errors.Is(err, servicemanager.ErrNotFound) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if text, err := ask(ref); err != nil && !errors.Is(err, binder.ErrDead) || err == nil && text != name {
					t.Error(fmt.Errorf("%s: %q, %w", name, text, err))
				}
				ref.Release()
			}
		})
	}
	for range 15 {
		roletest.Start(t, "service-aidl3", device).Kill(t)
	}
	close(stop)
	group.Wait()
	roletest.Eventually(t, "all names are removed", func() bool {
		names, err := c.List(background)
		return err == nil && len(names) == 0
	})
}

func TestVariantNames(t *testing.T) {
	for _, v := range servicemanager.Variants {
		if got, err := servicemanager.ParseVariant(v.String()); err != nil || got != v {
			t.Errorf("%v became %v, %v", v, got, err)
		}
	}
	if _, err := servicemanager.ParseVariant("hidl"); err == nil {
		t.Error("hidl is accepted")
	}
}
