// Command httpcounter is a stateful HTTP server on a unix socket, as people write them with net/http.
//
//	usage: httpcounter SOCKET
//
// POST /count adds one and replies with the new number, GET /count replies with the number, POST /crash makes the
// process die of a bad pointer, which the Go runtime turns into exit status 2. The state is in the server's memory only.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintf(os.Stderr, "usage: %s SOCKET\n", os.Args[0])
		os.Exit(2)
	}
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	var count atomic.Uint64
	mux := http.NewServeMux()
	mux.HandleFunc("POST /count", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, count.Add(1)) // a client that has gone needs no reply
	})
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, count.Load())
	})
	mux.HandleFunc("POST /crash", func(http.ResponseWriter, *http.Request) {
		// Outside of the handler, whose panics net/http catches.
		go func() {
			var nothing *atomic.Uint64
			nothing.Add(1)
		}()
		select {}
	})
	return http.Serve(l, mux)
}
