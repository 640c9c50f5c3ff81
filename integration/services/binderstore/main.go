// Binderstore is a small Binder service, and its client: it keeps a text and a count, calls back, and crashes when asked. It
// has several threads, and is context manager of its device or, with a name, added to the service manager.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"corsa.dev/corsa/binderfs/servicemanager"
)

const usage = `usage: binderstore DEVICE[#NAME] serve
       binderstore DEVICE[#NAME] UID COMMAND [ARG]
  put TEXT         keep a text; prints how often that was done
  get              print the text
  count            print how many transactions there were, oneway ones included
  fill N           call N times with 4 KiB and see that they come back
  oneway N         send N transactions that nobody answers
  callback N       have the service call this client N times, each within a call
  session          get an object of the service and call it twice
  keep             get an object, say so, and call it for each line of the standard input
  crash            have the service die
  hold             call, and have the service answer after 300 ms
`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "binderstore:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[1] == "serve":
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
		defer stop()
		return serve(ctx, parseAddress(args[0]))
	case len(args) < 3:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	uid, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("%q is no uid", args[1])
	}
	if err := errors.Join(unix.Setresgid(uid, uid, uid), unix.Setresuid(uid, uid, uid)); err != nil {
		return err
	}
	return call(parseAddress(args[0]), args[2], args[3:])
}

// address is where the service is: a device, and there a name; "": it is the context manager.
type address struct{ device, name string }

func parseAddress(s string) address {
	device, name, _ := strings.Cut(s, "#")
	return address{device, name}
}

// variant is that of the service manager for names.
const variant = servicemanager.AIDL3

const descriptor = "test.IStore"

// What the service does, by transaction code.
const (
	codePut uint32 = iota + 1
	codeGet
	codeCount
	codeEcho
	codeAdd // oneway
	codeCallback
	codeSession
	codeStep // of a session
	codeCrash
	codeHold
)

const payloadSize = 4096

// payload is what a client sends: it says whose it is.
func payload(n int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%08d%08d", os.Getuid(), n)), payloadSize/16)
}
