package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

const restoreLog = "restore.log"

// Restore describes what is to become of an image. It is opened by Open.
type Restore struct {
	Options
	// Root is the container's root on the host: a mount point in the mount namespace of the calling thread, which CRIU
	// and the container inherit.
	Root string
	// Mounts are sources of those that are not the container's own, by the name that the dump gave them.
	Mounts map[string]string
	// JoinNS are namespaces that exist, as type -> path.
	JoinNS map[string]string
	// Inherit are files that take the place of external objects of the image, by their key.
	Inherit map[string]*os.File
	// Stdio replaces the pipes that the first process had as standard streams. nil is /dev/null.
	Stdio [3]*os.File

	LSMProfile      string // TYPE:NAME
	LSMMountContext string

	// Spawned is called with CRIU's pid before it begins. It returns the container's cgroups by controller.
	Spawned func(pid int) (cgroups map[string]string, err error)
	// Prepared is called when the namespaces of the container, whose first process is pid, have been made.
	Prepared func(pid int) error
	// Restored is called when everything is there and nothing runs yet. An error undoes it all.
	Restored func(pid int) error
	// Console is called with the master of the container's terminal. It closes the file.
	Console func(master *os.File) error
}

// Run restores the container. Its first process is then a child of ours. After an error there may be processes left in
// the cgroups that Spawned returned: the caller ends them.
func (r *Restore) Run(ctx context.Context) error {
	ctx, cancel := r.limited(ctx)
	defer cancel()
	opts, closeAll, err := r.rpc(restoreLog)
	if err != nil {
		return err
	}
	defer closeAll()
	var files []*os.File
	for key, f := range r.Inherit {
		opts.InheritFd = append(opts.InheritFd, &rpc.InheritFd{Key: proto.String(key), Fd: proto.Int32(int32(4 + len(files)))})
		files = append(files, f)
	}
	if err := r.request(opts); err != nil {
		return err
	}
	c := call{
		program: r.Program.Path, typ: rpc.CriuReqType_RESTORE, opts: opts, stdio: r.Stdio, files: files, foreground: r.ShellJob,
		notify: r.notify,
		spawned: func(pid int) error {
			cgroups, err := r.Spawned(pid)
			for controller, path := range cgroups {
				opts.CgRoot = append(opts.CgRoot, &rpc.CgroupRoot{Ctrl: proto.String(controller), Path: proto.String(path)})
			}
			return err
		},
	}
	if _, err := c.do(ctx); err != nil {
		return explain(err, r.log(restoreLog))
	}
	return nil
}

// request completes opts.
func (r *Restore) request(opts *rpc.CriuOpts) error {
	opts.Root = proto.String(r.Root)
	opts.RstSibling = proto.Bool(true)
	opts.EvasiveDevices = proto.Bool(true)
	if r.LSMProfile != "" {
		opts.LsmProfile = proto.String(r.LSMProfile)
	}
	if r.LSMMountContext != "" {
		opts.LsmMountContext = proto.String(r.LSMMountContext)
	}
	for name, source := range r.Mounts {
		opts.ExtMnt = append(opts.ExtMnt, &rpc.ExtMountMap{Key: proto.String(name), Val: proto.String(source)})
	}
	for typ, path := range r.JoinNS {
		opts.JoinNs = append(opts.JoinNs, &rpc.JoinNamespace{Ns: proto.String(typ), NsFile: proto.String(path)})
	}
	descriptors, err := readDescriptors(r.ImageDir)
	if err != nil {
		return err
	}
	for i, d := range descriptors {
		if strings.HasPrefix(d, "pipe:") && i < len(r.Stdio) {
			opts.InheritFd = append(opts.InheritFd, &rpc.InheritFd{Key: proto.String(d), Fd: proto.Int32(int32(i))})
		}
	}
	return nil
}

func (r *Restore) notify(script string, pid int, files []*os.File) error {
	if script == "orphan-pts-master" && len(files) == 1 {
		return r.Console(files[0])
	}
	closeFiles(files)
	switch script {
	case "setup-namespaces":
		return r.Prepared(pid)
	case "post-restore":
		return r.Restored(pid)
	case "orphan-pts-master":
		return errors.New("CRIU sent no terminal")
	}
	return nil
}

// CheckLSM refuses what is not TYPE:NAME.
func CheckLSM(profile string) error {
	typ, name, ok := strings.Cut(profile, ":")
	if profile != "" && (!ok || typ == "" || name == "") {
		return fmt.Errorf("%w: LSM profile %q: must be TYPE:NAME, such as apparmor:docker-default", ErrOptions, profile)
	}
	return nil
}
