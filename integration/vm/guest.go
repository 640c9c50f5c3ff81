package vm

import (
	_ "embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	//go:embed guest/init
	guestInit string
	//go:embed guest/vm-init
	guestVMInit string
	//go:embed guest/kmemleak
	guestKmemleak string
)

// initrd writes the archive for one run: busybox, the modules that lead to the disk, and all that belongs to the run
// alone. It has no name in the file system.
func (o *Options) initrd(k Kernel, disk *closure) (*os.File, error) {
	fd, err := unix.MemfdCreate("initrd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initrd")
	if err := o.fill(newCPIO(f), k, disk); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("what the VM starts from: %w", err)
	}
	return f, nil
}

func (o *Options) fill(c *cpioWriter, k Kernel, disk *closure) error {
	busybox, err := lookPath("busybox")
	if err != nil {
		return err
	}
	c.bytes("init", 0o755, guestInit)
	c.tree("bin/busybox", busybox)
	c.tree("modules", filepath.Join(k.dir, "modules"))
	c.dir("payload", 0o755)
	c.bytes(payload("/sbin/vm-init"), 0o755, guestVMInit)
	c.bytes("payload/etc/vm/kmemleak", 0o644, guestKmemleak)
	c.bytes("payload/etc/vm/environment", 0o644, o.environment(k))
	if o.interactive {
		c.bytes("payload/etc/vm/shell", 0o644, "")
	} else {
		c.bytes("payload/etc/vm/command", 0o644, quote(o.Command)+"\n")
	}
	if err := o.modules(c, k); err != nil {
		return err
	}
	if err := o.files(c, disk); err != nil {
		return err
	}
	return c.close()
}

// files adds the files of this run, and those libraries of programs among them that the disk does not have.
func (o *Options) files(c *cpioWriter, disk *closure) error {
	libraries := &closure{files: make(map[string]fs.FileInfo), libraries: disk.libraries}
	for _, file := range o.Files {
		if !filepath.IsAbs(file.Guest) {
			return fmt.Errorf("file %s: its path in the VM, %q, is not absolute", file.Host, file.Guest)
		}
		c.tree(payload(file.Guest), file.Host)
		if err := libraries.below(file.Host); err != nil {
			return err
		}
	}
	for path, info := range libraries.files {
		if _, there := disk.files[path]; there || info.IsDir() || merged[path] != "" {
			continue
		}
		c.entry(payload(path), path, info)
	}
	return nil
}

// merged are links on every disk, as on the host; nothing can be copied over them.
var merged = map[string]string{"/bin": "usr/bin", "/sbin": "usr/sbin", "/lib": "usr/lib", "/lib64": "usr/lib64"}

// payload is where the archive holds what is to be at path in the guest.
func payload(path string) string {
	path = filepath.Clean(path)
	first, rest, _ := strings.Cut(path[1:], "/")
	if to := merged["/"+first]; to != "" {
		path = filepath.Join(to, rest)
	}
	return filepath.Join("payload", path)
}

// modules adds every module that was built for the kernel below /lib/vm, and the list of those to be loaded.
func (o *Options) modules(c *cpioWriter, k Kernel) error {
	var list strings.Builder
	for _, name := range ModuleNames {
		path, built := k.Module(name)
		file := name + ".ko"
		if name == "corsa" && o.CorsaModule != "" {
			path, built = o.CorsaModule, true
		}
		if built {
			c.tree(payload("/lib/vm/"+file), path)
		}
		if i := slices.IndexFunc(o.Load, func(m string) bool { m, _, _ = strings.Cut(m, " "); return m == name }); i >= 0 {
			if !built {
				return fmt.Errorf("module %s is not built for kernel %s; run: make vm-deps", name, k.Name)
			}
			_, arguments, _ := strings.Cut(o.Load[i], " ")
			if name != "corsa" {
				// With names there, each new mount would come with devices of these names.
				arguments = strings.TrimSpace("devices= " + arguments)
			}
			fmt.Fprintf(&list, "%s %s\n", file, arguments)
		}
	}
	for _, m := range o.Load {
		if name, _, _ := strings.Cut(m, " "); !slices.Contains(ModuleNames, name) {
			return fmt.Errorf("unknown module %q: these can be loaded: %s", m, strings.Join(ModuleNames, ", "))
		}
	}
	c.bytes("payload/etc/vm/modules", 0o644, list.String())
	return nil
}

// environment is sourced by a shell before the command.
func (o *Options) environment(k Kernel) string {
	var b strings.Builder
	set := func(name, value string) { fmt.Fprintf(&b, "export %s=%s\n", name, quote([]string{value})) }
	set("VM_KERNEL", k.Name)
	set("VM_OUT", "/out")
	dir := o.Dir
	if dir == "" {
		dir = "/root"
	}
	set("VM_DIR", dir)
	for _, e := range o.Env {
		name, value, _ := strings.Cut(e, "=")
		set(name, value)
	}
	return b.String()
}

// quote writes words so that a shell reads them as they are.
func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
