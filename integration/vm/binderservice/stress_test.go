package binderservice_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

// While one app crashes, is captured and restored again and again, the others call on, are captured, and see nothing but
// their own.
func TestGuestStress(t *testing.T) {
	s := serve(t, "--checkpoint", "every=25", "--history", "3")
	const apps, rounds = 4, 8
	var all sync.WaitGroup
	for i := range apps {
		all.Add(1)
		go func() {
			defer all.Done()
			for range rounds {
				if got, err := s.call(first+i, "fill", "40"); err != nil || got != "40" {
					t.Error(got, err)
				}
				if got, err := s.call(first+i, "callback", "5"); err != nil || got != "5" {
					t.Error(got, err)
				}
			}
		}()
	}
	const unlucky = 2999
	for i := range rounds {
		text := fmt.Sprint("text ", i)
		if _, err := s.call(unlucky, "put", text); err != nil {
			t.Error(err)
		}
		_, err := s.corsa("checkpoint", "--app", fmt.Sprint(unlucky), "--tag", fmt.Sprint("t", i), s.id)
		if _, crash := s.call(unlucky, "crash"); crash == nil {
			err = errors.Join(err, errors.New("the service does not crash"))
		}
		if got, e := s.call(unlucky, "get"); got != text {
			err = errors.Join(err, fmt.Errorf("round %d: after the crash it has %q, want %q (%w)", i, got, text, e))
		}
		if i%3 == 2 {
			_, e := s.corsa("restore", "--app", fmt.Sprint(unlucky), "--to", fmt.Sprint("t", i-1), s.id)
			got, ge := s.call(unlucky, "get")
			if want := fmt.Sprint("text ", i-1); got != want {
				ge = errors.Join(ge, fmt.Errorf("round %d: after the restore it has %q, want %q", i, got, want))
			}
			err = errors.Join(err, e, ge)
		}
		if err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	for name, a := range s.apps() {
		switch {
		case name == fmt.Sprint("uid:", unlucky):
			if a.Crashes != rounds {
				t.Errorf("%s: %+v", name, a)
			}
		case a.Crashes != 0 || a.Checkpoints == 0 || a.Checkpoints > 3 || a.Transactions != rounds*(40+5):
			t.Errorf("%s: %+v", name, a)
		}
	}
}
