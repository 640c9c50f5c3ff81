package criu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

const dumpLog = "dump.log"

// Dump describes a container to dump.
type Dump struct {
	Options
	PID  int    // of the container's first process
	Root string // of the container, on the host
	// Mounts are those that are not the container's own: the names that a restore will know them by, by their place in it.
	Mounts map[string]string
	// External are further objects that exist without the container, as CRIU's --external wants them.
	External []string
	// FreezeCgroup is the container's freezer, if it is frozen already. Where it is not CRIU stops the processes one by
	// one, which is quicker: it polls a freezer every 100 ms.
	FreezeCgroup string
	// Descriptors is what the standard streams of the first process were when it was started.
	Descriptors []string
	// Parent is another image of the container, relative to ImageDir, whose pages need not be written again.
	Parent string

	PreDump         bool // memory only; the container runs on
	LeaveRunning    bool
	TCPSkipInFlight bool
	LinkRemap       bool
	PageServer      *PageServer
	StatusFile      *os.File // receives a zero byte when pages can be fetched. The caller closes it

	// Manifest goes with the image. Not used by a pre-dump.
	Manifest Manifest

	takeOut bool // pages of Parent, when CRIU is done
}

// Run dumps the container into ImageDir. The container runs on after an error, whatever it is. If its processes are to
// end they do so only after the image is complete: the manifest, which is what makes a directory an image, is written
// while they are stopped.
func (d *Dump) Run(ctx context.Context) error {
	ctx, cancel := d.limited(ctx)
	defer cancel()
	if err := os.MkdirAll(d.ImageDir, 0o700); err != nil {
		return fmt.Errorf("image directory: %w", err)
	}
	if err := d.discardOld(); err != nil {
		return err
	}
	opts, closeAll, err := d.rpc(dumpLog)
	if err != nil {
		return err
	}
	defer closeAll()
	if err := d.request(ctx, opts); err != nil {
		return err
	}
	c := call{program: d.Program.Path, typ: rpc.CriuReqType_DUMP, opts: opts, foreground: d.ShellJob, notify: d.notify}
	if d.PreDump {
		c.typ = rpc.CriuReqType_PRE_DUMP
	}
	if _, err := c.do(ctx); err != nil {
		return errors.Join(explain(err, d.log(dumpLog)), d.discardOld())
	}
	return nil
}

// discardOld makes sure that what is in the directory is not taken for an image before it is one.
func (d *Dump) discardOld() error {
	err := os.Remove(filepath.Join(d.ImageDir, manifestFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the manifest of an earlier image: %w", err)
	}
	return nil
}

// request completes opts.
func (d *Dump) request(ctx context.Context, opts *rpc.CriuOpts) error {
	opts.Pid = proto.Int32(int32(d.PID))
	opts.Root = proto.String(d.Root)
	opts.LeaveRunning = proto.Bool(d.LeaveRunning)
	opts.TcpSkipInFlight = proto.Bool(d.TCPSkipInFlight)
	opts.LinkRemap = proto.Bool(d.LinkRemap)
	opts.External = d.External
	if d.FreezeCgroup != "" {
		opts.FreezeCgroup = proto.String(d.FreezeCgroup)
	}
	if d.PageServer != nil {
		opts.Ps = &rpc.CriuPageServerInfo{Address: proto.String(d.PageServer.Address), Port: proto.Int32(int32(d.PageServer.Port))}
	}
	if err := d.chooseParent(ctx, opts); err != nil || d.PreDump {
		return err
	}
	for place, name := range d.Mounts {
		opts.ExtMnt = append(opts.ExtMnt, &rpc.ExtMountMap{Key: proto.String(place), Val: proto.String(name)})
	}
	return writeJSON(d.ImageDir, descriptorsFile, d.Descriptors)
}

func (d *Dump) notify(script string, _ int, files []*os.File) error {
	closeFiles(files)
	switch script {
	case "status-ready":
		// The pages are fetched from now on, into what is restored from the rest.
		if err := d.commit(); err != nil {
			return err
		}
		if d.StatusFile != nil {
			if _, err := d.StatusFile.Write([]byte{0}); err != nil {
				return fmt.Errorf("status descriptor: %w", err)
			}
		}
	case "post-dump":
		return d.commit()
	}
	return nil
}

// commit makes an image of what has been written. The processes are stopped and still there.
func (d *Dump) commit() (err error) {
	if d.PreDump {
		return nil
	}
	if d.takeOut {
		if err := takeOutParent(d.ImageDir, d.Parent); err != nil {
			return err
		}
	}
	if err := adaptExternalFiles(d.ImageDir); err != nil {
		return err
	}
	if d.Manifest.Mapped, err = sumMapped(d.ImageDir, fmt.Sprintf("/proc/%d/root", d.PID)); err != nil {
		return err
	}
	return d.Manifest.write(d.ImageDir)
}

// chooseParent has CRIU leave out what is in the parent image if the kernel can tell what was written since. If it cannot
// that is done afterwards, by content.
func (d *Dump) chooseParent(ctx context.Context, opts *rpc.CriuOpts) error {
	if d.Parent == "" && !d.PreDump {
		return nil
	}
	if d.Parent != "" {
		fi, err := os.Stat(filepath.Join(d.ImageDir, d.Parent))
		if err == nil && !fi.IsDir() {
			err = unix.ENOTDIR
		}
		if err != nil {
			return fmt.Errorf("parent image: %w; it is looked for from the image directory, %s", err, d.ImageDir)
		}
	}
	err := d.Program.Feature(ctx, FeatureMemoryTracking)
	switch {
	case errors.Is(err, ErrLacks) && d.PreDump:
		return fmt.Errorf("pre-dump: %w: this kernel has no CONFIG_MEM_SOFT_DIRTY: it cannot tell which pages are written to afterwards; "+
			"take a whole checkpoint that leaves the container running, and name it as the parent of the next one", ErrLacks)
	case errors.Is(err, ErrLacks):
		d.takeOut = true
		return nil
	case err != nil:
		return err
	}
	opts.TrackMem = proto.Bool(true)
	if d.Parent != "" {
		opts.ParentImg = proto.String(d.Parent)
	}
	return nil
}

// adaptExternalFiles removes from the image what does not hold for the files that a restore brings along in place of others.
func adaptExternalFiles(dir string) error {
	path := filepath.Join(dir, "files.img")
	f, err := readImg(path)
	if err != nil {
		return err
	}
	changed := false
	for i, data := range f.messages {
		e := new(fdinfo.FileEntry)
		if err := proto.Unmarshal(data, e); err != nil {
			return fmt.Errorf("files.img: %w", err)
		}
		if !e.GetReg().GetExt() {
			continue
		}
		e.Reg.Size, e.Reg.Mode, changed = nil, nil, true
		if e.Reg.GetFlags()&unix.O_ACCMODE != unix.O_RDONLY {
			// Where one file ended is the middle of nowhere in another.
			e.Reg.Flags, e.Reg.Pos = proto.Uint32(e.Reg.GetFlags()|unix.O_APPEND), proto.Uint64(0)
		}
		if f.messages[i], err = proto.Marshal(e); err != nil {
			return fmt.Errorf("files.img: %w", err)
		}
	}
	if !changed {
		return nil
	}
	return f.write(path)
}

// writeJSON replaces dir/name in one step. Like CRIU's own files it is not synced: an image has to outlive the processes,
// not the machine.
func writeJSON(dir, name string, v any) (err error) {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	tmp, err := os.CreateTemp(dir, "."+name+"-")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", name, err), os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), filepath.Join(dir, name))
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // descriptors that were sent to us
	}
}
