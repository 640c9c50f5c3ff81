package integration

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConnectStorm: apps connect, ask and hang up all the time while the instances of two of them crash and are restored. Nobody's
// connect() is refused, and the others miss and repeat nothing.
func TestConnectStorm(t *testing.T) {
	needsRouting(t)
	for _, concurrency := range []string{"strict", "parallel"} {
		t.Run(concurrency, func(t *testing.T) {
			s := serveRedis(t, "--path", "connect", "--concurrency", concurrency)
			const calm1, calm2, crashes, restores = 3001, 3002, 3003, 3004
			for _, uid := range []int{calm1, calm2, crashes, restores} {
				s.app(uid).expect("+OK", "set", "n", "0")
				s.led(uid)
			}
			id := s.checkpoint(restores)
			s.checkpoint(crashes)
			end := time.Now().Add(4 * time.Second)
			var wg sync.WaitGroup
			for _, uid := range []int{calm1, calm2, crashes, restores} {
				wg.Go(func() {
					straight := 0
					for n := 1; time.Now().Before(end); n++ {
						conn, err := dialAs(uid, s.socket)
						if err != nil {
							t.Errorf("uid %d, connection %d: %v", uid, n, err)
							return
						}
						c := newClient(t, conn)
						if strings.Contains(c.peer(), "/.corsa-") {
							straight++
						}
						got, err := c.ask("incr", "n")
						if uid == calm1 || uid == calm2 {
							if err != nil || got != fmt.Sprintf(":%d", n) {
								t.Errorf("uid %d: got %q, %v, want :%d", uid, got, err, n)
								return
							}
						}
						if uid == crashes && n%20 == 0 {
							_, _ = c.ask("debug", "segfault") // it ends with the connection
						}
						_ = conn.Close()
						if uid == crashes && n%20 == 0 {
							time.Sleep(100 * time.Millisecond) // or it is quarantined
						}
					}
					t.Logf("uid %d: %d connections went straight", uid, straight)
				})
			}
			wg.Go(func() {
				for time.Now().Before(end) {
					s.ok("restore", "--app", fmt.Sprint(restores), "--to", id, s.id)
					time.Sleep(50 * time.Millisecond)
				}
			})
			wg.Wait()
			// Names of listeners go with their instances: two for each app and offer, one for each spare.
			most, names := 2*(4+2)+2+4, 0
			for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				list, err := os.ReadDir(s.site())
				if names = len(list); err != nil || names <= most {
					break
				}
			}
			if names > most {
				t.Errorf("%d names of listeners, want %d at most", names, most)
			}
		})
	}
}

// TestConnectStreams: apps that were led number what they send, and check what comes back, through turns and deaths of the monitor.
func TestConnectStreams(t *testing.T) {
	needsRouting(t)
	for _, concurrency := range []string{"strict", "parallel"} {
		t.Run(concurrency, func(t *testing.T) {
			s := serveRedis(t, "--path", "connect", "--concurrency", concurrency)
			for uid := 3001; uid <= 3004; uid++ {
				s.app(uid).expect("+OK", "set", "n", "0")
				s.led(uid)
			}
			end := time.Now().Add(4 * time.Second)
			var wg sync.WaitGroup
			for uid := 3001; uid <= 3004; uid++ {
				c := s.app(uid)
				s.straight(c, true)
				wg.Go(func() {
					n := 0
					for time.Now().Before(end) {
						const burst = 16
						var b strings.Builder
						for range burst {
							b.WriteString("INCR n\r\n")
						}
						err := c.conn.SetDeadline(time.Now().Add(deadline))
						if err == nil {
							_, err = c.conn.Write([]byte(b.String()))
						}
						for range burst {
							var got string
							if err == nil {
								got, err = c.reply()
							}
							if n++; err != nil || got != fmt.Sprintf(":%d", n) {
								t.Errorf("uid %d: got %q, %v, want :%d", uid, got, err, n)
								return
							}
						}
					}
				})
			}
			for range 2 {
				time.Sleep(time.Second)
				if err := unix.Kill(s.monitor(), unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
					t.Error(err)
				}
				s.ok("apps", s.id)
			}
			wg.Wait()
		})
	}
}
