package cli

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"corsa.dev/corsa/spec"
)

// serviceFlags declare a service. Each is an annotation of the same name; see package spec.
type serviceFlags struct {
	values map[string]*string
	lists  map[string]*[]string

	writable []string
	user     string
	cwd      string
	env      []string
}

func (f *serviceFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	f.values, f.lists = map[string]*string{}, map[string]*[]string{}
	value := func(key, usage string) {
		f.values[key] = fs.String(flagName(key), "", usage)
	}
	list := func(key, usage string) {
		f.lists[key] = fs.StringArray(flagName(key), nil, usage+"; may be repeated")
	}
	list(spec.KeySocket, "path of a unix socket on which the program listens and apps connect")
	list(spec.KeyTCP, "loopback ADDRESS:PORT of the same kind")
	value(spec.KeyAppKey, "what makes an app: "+spec.LegalAppKey+" (default uid)")
	value(spec.KeyEngine, spec.LegalEngine+" (default auto)")
	value(spec.KeyGate, spec.LegalGate+" (default socket): how apps call the service")
	value(spec.KeyBinderDevices, spec.LegalBinderDevices+": made for the program; with --gate binder apps call through them")
	value(spec.KeyBinderPublish, "directory of the host on which the program's Binder devices are to be seen")
	value(spec.KeyBinderManager, "who is context manager of the first device: "+spec.LegalBinderManager+" (default own: the program)")
	list(spec.KeyBinderNames, "name that the program gives the service manager before it is adopted (default: any)")
	value(spec.KeyCheckpoint, "when to take checkpoints: "+spec.LegalCheckpoint+" (default manual)")
	value(spec.KeyHistory, "checkpoints to keep for each app: "+spec.LegalHistory+" (default 16)")
	value(spec.KeyHistoryBytes, "memory to keep for each app's checkpoints: "+spec.LegalHistoryBytes)
	value(spec.KeyHugePages, "whether to make huge pages of the service's memory: "+spec.LegalHugePages+" (default auto: where they cost hardly any memory)")
	value(spec.KeySpares, "instances to keep ready for new apps, and one for each checkpoint that an app is at: "+spec.LegalSpares+" (default 1; 0: none)")
	value(spec.KeyMemory, "memory that the service may hold with all instances and checkpoints; beyond it the app that was idle longest is reduced to a checkpoint: "+spec.LegalHistoryBytes)
	value(spec.KeyInstances, "how many apps may have an instance; beyond that the one that was idle longest is reduced to a checkpoint: "+spec.LegalInstances)
	value(spec.KeyOnCrash, "what to do when an instance dies: "+spec.LegalCrash+" (default restore)")
	value(spec.KeyCrashReply, "what to answer to a request that died with its instance: "+spec.LegalCrashReply+" (default: reset the connection)")
	value(spec.KeyConcurrency, spec.LegalConcurrency+" (default strict: one instance runs at a time)")
	value(spec.KeyTimers, "whether an instance that is not running is activated when its timeouts and timers are due: "+spec.LegalTimers+" (default off)")
	value(spec.KeyPath, "how an app's bytes get to its instance: "+spec.LegalPath+" (default auto)")
	list(spec.KeyShared, "path whose files all instances share on purpose")
	list(spec.KeyPrivate, "directory of which every instance has its own, rolled back with its memory; it must exist")
	value(spec.KeyWarm, "shell command to run in the sandbox before the service is adopted")
	fs.StringArrayVar(&f.writable, "writable", nil, "directory or file of the host that the program may change; may be repeated")
	fs.StringVar(&f.user, "user", "", "UID[:GID] or name to run the program as (default: the caller)")
	fs.StringVar(&f.cwd, "cwd", "/", "the program's working directory")
	fs.StringArrayVar(&f.env, "env", nil, "NAME=VALUE for the program, besides PATH; may be repeated")
}

// flagName is that of the flag for an annotation.
func flagName(key string) string {
	return strings.ReplaceAll(strings.TrimPrefix(key, spec.Prefix), ".", "-")
}

// options turns the flags and the program into a bundle's content. What is wrong with them is a usage error.
func (f *serviceFlags) options(args []string) (spec.HostBundleOptions, error) {
	svc, err := f.service()
	if err != nil {
		return spec.HostBundleOptions{}, &usageError{&declaredByFlag{err}}
	}
	o := spec.HostBundleOptions{
		Args: args, Cwd: f.cwd, Env: f.environment(), Service: svc, Writable: f.writable,
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
	}
	if f.user != "" {
		if o.UID, o.GID, err = parseUser(f.user); err != nil {
			return spec.HostBundleOptions{}, err
		}
	}
	// A path is the caller's, not the sandbox's.
	if strings.Contains(args[0], "/") && !filepath.IsAbs(args[0]) {
		path, err := filepath.Abs(args[0])
		if err != nil {
			return spec.HostBundleOptions{}, err
		}
		o.Args = append([]string{path}, args[1:]...)
	}
	for _, e := range svc.Endpoints {
		o.PrivateNetwork = o.PrivateNetwork || e.Network == "tcp"
	}
	return o, nil
}

func (f *serviceFlags) service() (*spec.Service, error) {
	annotations := map[string]string{}
	for key, v := range f.values {
		if *v != "" {
			annotations[key] = *v
		}
	}
	for key, items := range f.lists {
		if len(*items) > 0 {
			annotations[key] = spec.JoinList(*items)
		}
	}
	if len(*f.lists[spec.KeySocket])+len(*f.lists[spec.KeyTCP]) == 0 && *f.values[spec.KeyGate] != spec.GateBinder {
		return nil, errors.New("give --socket or --tcp: where the service listens; or --gate binder")
	}
	svc, _, err := spec.FromAnnotations(annotations)
	return svc, err
}

// environment is the default PATH, unless one is given, and what is given.
func (f *serviceFlags) environment() []string {
	for _, e := range f.env {
		if strings.HasPrefix(e, "PATH=") {
			return f.env
		}
	}
	return append([]string{spec.DefaultPath}, f.env...)
}

// parseUser reads UID, UID:GID or a name. Without a group it is the user's own.
func parseUser(s string) (uid, gid uint32, err error) {
	name, group, hasGroup := strings.Cut(s, ":")
	id, err := strconv.ParseUint(name, 10, 32)
	u, uerr := user.LookupId(name)
	if err != nil {
		if u, uerr = user.Lookup(name); uerr != nil {
			return 0, 0, usagef("--user %q: no such user", s)
		}
		if id, err = strconv.ParseUint(u.Uid, 10, 32); err != nil {
			return 0, 0, fmt.Errorf("--user %q: %w", s, err)
		}
	}
	g := id
	switch {
	case hasGroup:
		if g, err = strconv.ParseUint(group, 10, 32); err != nil {
			return 0, 0, usagef("--user %q: the group must be a number", s)
		}
	case uerr == nil:
		if g, err = strconv.ParseUint(u.Gid, 10, 32); err != nil {
			return 0, 0, fmt.Errorf("--user %q: %w", s, err)
		}
	}
	return uint32(id), uint32(g), nil
}
