// Package services knows how real, unmodified programs are started as services, and how an app changes and reads the
// state that each of them keeps for it. It is for tests only.
package services

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"
)

//go:embed files
var files embed.FS

// Counter is one app's connection to a service. What every service here can do in its own words is to count: each app
// that has an instance of its own sees a count of its own. A Counter is not safe for concurrent use.
type Counter interface {
	// Add has the service count one more and returns the new count. Apps see consecutive numbers.
	Add() (uint64, error)
	Close() error
}

// Service is a program that can be served.
type Service struct {
	Name string
	// Needs are the programs that have to be installed, with the Debian package that has them.
	Needs map[string]string
	// Command writes what the program needs to dir and returns the command line that serves on socket. The program
	// itself writes to scratch only, which has to exist for it.
	Command func(dir, scratch, socket string) ([]string, error)
	// Dial connects an app to the service at a unix socket.
	Dial func(socket string) (Counter, error)
	// Crash asks the instance to die of a bad pointer; nil: the program offers no such request, kill it from outside.
	Crash func(socket string) error
	// CrashCode is the exit status of such a death; 0: it dies by SIGSEGV.
	CrashCode int
	// Concurrent says whether one instance serves several connections at a time.
	Concurrent bool
}

// All returns the services in the order in which a report should show them.
func All() []Service {
	return []Service{Redis(), Python("threading"), Python("single"), HTTP(), Nginx(), Memcached()}
}

// Missing names the first program that is not installed, and how to get it; "" if all are there.
func (s Service) Missing() string {
	for program, pkg := range s.Needs {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Sprintf("%s is not installed: apt-get install %s", program, pkg)
		}
	}
	return ""
}

// Redis is redis-server without persistence: a file that it writes would be shared by all instances.
func Redis() Service {
	return Service{
		Name:  "redis",
		Needs: map[string]string{"redis-server": "redis-server"},
		Command: func(_, scratch, socket string) ([]string, error) {
			return []string{
				"redis-server", "--port", "0", "--unixsocket", socket, "--unixsocketperm", "777", "--save", "",
				"--appendonly", "no", "--daemonize", "no", "--dir", scratch, "--enable-debug-command", "yes",
			}, nil
		},
		Dial:       lineCounter("INCR corsa-count", ":"),
		Crash:      lineCrash("DEBUG SEGFAULT"),
		Concurrent: true,
	}
}

// Python is a socketserver of the standard library; kind is "threading" or "single".
func Python(kind string) Service {
	return Service{
		Name:  "python-" + kind,
		Needs: map[string]string{"python3": "python3"},
		Command: func(dir, _, socket string) ([]string, error) {
			script, err := copyFile(dir, "kv.py")
			return []string{"python3", "-B", script, kind, socket}, err
		},
		Dial:       lineCounter("incr corsa-count", ""),
		Crash:      lineCrash("crash"),
		Concurrent: kind == "threading",
	}
}

// Memcached is memcached with one worker thread, besides those that it always has.
func Memcached() Service {
	return Service{
		Name:  "memcached",
		Needs: map[string]string{"memcached": "memcached"},
		Command: func(_, _, socket string) ([]string, error) {
			return []string{"memcached", "-s", socket, "-a", "0777", "-t", "1", "-m", "16", "-u", "root"}, nil
		},
		Dial:       dialMemcached,
		Concurrent: true,
	}
}

// Nginx is nginx as a single process that counts requests.
func Nginx() Service {
	return Service{
		Name:  "nginx",
		Needs: map[string]string{"nginx": "nginx-light"},
		Command: func(dir, scratch, socket string) ([]string, error) {
			text, err := template.ParseFS(files, "files/nginx.conf")
			if err != nil {
				return nil, err
			}
			var conf bytes.Buffer
			if err := text.Execute(&conf, struct{ Dir, Socket string }{scratch, socket}); err != nil {
				return nil, err
			}
			path := filepath.Join(dir, "nginx.conf")
			if err := os.WriteFile(path, conf.Bytes(), 0o644); err != nil {
				return nil, err
			}
			return []string{"nginx", "-e", "stderr", "-p", scratch, "-c", path}, nil
		},
		Dial:       dialHTTP("GET", "/status", nginxRequests),
		Concurrent: true,
	}
}

// HTTP is a Go net/http server, compiled from httpcounter beside this file.
func HTTP() Service {
	return Service{
		Name:  "go-http",
		Needs: map[string]string{"go": "golang-go"},
		Command: func(dir, _, socket string) ([]string, error) {
			binary := filepath.Join(dir, "httpcounter")
			build := exec.Command("go", "build", "-o", binary, "corsa.dev/corsa/integration/services/httpcounter")
			if out, err := build.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("build httpcounter: %w\n%s", err, out)
			}
			return []string{binary, socket}, nil
		},
		Dial:       dialHTTP("POST", "/count", plainNumber),
		Crash:      httpCrash("/crash"),
		CrashCode:  2,
		Concurrent: true,
	}
}

func copyFile(dir, name string) (string, error) {
	text, err := files.ReadFile("files/" + name)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, text, 0o644)
}
