package check

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// resolvePrivate turns the declared directories into the names that /proc shows for files below them.
func (in *inspection) resolvePrivate() {
	if len(in.opts.Private) == 0 {
		return
	}
	dir, err := unix.Open(in.dir+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		in.block("private directories", "the root directory of the process cannot be entered: "+err.Error(), "run corsa as root")
		return
	}
	defer unix.Close(dir)
	for _, path := range in.opts.Private {
		name, err := resolveBelow(dir, path)
		if err != nil {
			in.block(privateObject(path), "it cannot be found: "+err.Error(), "let the service make it before it is adopted, or correct --private")
			continue
		}
		in.private = append(in.private, name)
		in.checkPrivate(path, name)
	}
	if len(in.private) > 0 {
		in.checkPrivilege()
	}
}

func privateObject(path string) string { return "private directory " + path }

// isPrivate tells whether path, as /proc shows it, is at or below a private directory.
func (in *inspection) isPrivate(path string) bool {
	for _, dir := range in.private {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// checkPrivate looks at one private directory.
func (in *inspection) checkPrivate(path, name string) {
	object := privateObject(path)
	if in.inPlace() {
		in.block(object, "instances are the same process, in the same mount namespace, and so would see the same files",
			"use the fork engine")
		return
	}
	var st unix.Stat_t
	here := in.dir + "/root" + in.inside(name)
	if err := unix.Stat(here, &st); err != nil {
		in.block(object, "it cannot be looked at: "+err.Error(), "run corsa as root")
		return
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		in.block(object, "it is not a directory", "declare the directory that the file is in")
		return
	}
	if root, err := os.Readlink(in.dir + "/root"); err == nil && (name == "/" || in.isBelow(root, name) && root != "/") {
		in.block(object, "the root directory of the process is in it", "declare the directories that the service writes to")
		return
	}
	in.note(object, "each instance has its own; what others write to it after the adoption shows in instances, and no restore undoes that")
	in.checkNested(object, name)
	in.checkNames(object, here)
}

func (in *inspection) isBelow(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// checkNested refuses a directory in which something is mounted: an instance would see the empty mount point.
func (in *inspection) checkNested(object, name string) {
	data, err := os.ReadFile(in.dir + "/mountinfo")
	if err != nil {
		in.block(object, "what is mounted in it cannot be told: "+err.Error(), "run corsa as root")
		return
	}
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) < 5 {
			continue
		}
		// The process' mountinfo leaves its own root directory away, its other names do not.
		if at := unescape(fields[4]); strings.HasPrefix(at, strings.TrimSuffix(in.inside(name), "/")+"/") {
			in.block(object, "something is mounted in it, at "+at+", which an instance's own directory would hide",
				"mount it elsewhere, or declare the directories beside it one by one")
		}
	}
}

// unescape undoes how mountinfo writes blanks and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// checkNames refuses files with several names: writing to one of them would break the link in an instance.
func (in *inspection) checkNames(object, here string) {
	const shown = 3
	found := 0
	err := filepath.WalkDir(here, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Nlink < 2 {
			return err
		}
		if found++; found > shown {
			return fs.SkipAll
		}
		in.block(object, fmt.Sprintf("its file %s has %d names (hard links), which would be different files in an instance that writes to it",
			strings.TrimPrefix(path, here+"/"), st.Nlink),
			"replace it by a copy, or start the service with such links made anew")
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // what goes meanwhile is not in the way
		in.block(object, "it cannot be read: "+err.Error(), "run corsa as root")
	}
}

// checkPrivilege refuses a process that could not have a mount namespace of its own.
func (in *inspection) checkPrivilege() {
	if !in.status.can(capSysAdmin) && !in.inPlace() {
		in.block("private directories", "an instance needs a mount namespace of its own, and the process has no CAP_SYS_ADMIN to enter one",
			"run the service as root, or keep what it writes in memory")
	}
}
