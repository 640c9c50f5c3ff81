package route

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ListenerName is how long the name of a listener in a Site may be, in bytes.
const ListenerName = 24

// Site is a directory beside a public socket, on the same file system, in which instances' listeners stand. A process gets
// through to it as far as to the public socket itself, and into it if the public socket would let it in: the directory may be
// searched by whom that may be written by. Nobody but root can list it. Each listener has a name that cannot be guessed, is
// root's in the beginning, and belongs to the app that Grant gives it to, whom alone it lets in.
//
// What a public socket permits cannot always be put so. Then, and for some users, there are no routes: see Admits.
type Site struct {
	Dir string

	public   string
	mode     fs.FileMode // of the public socket
	uid, gid uint32
	problem  string // why nobody is let in
	all      bool   // everybody is let in, by the directories above, too
}

// OpenSite makes the directory for a service's public socket, which need not exist yet, or finds the one that is there. Nobody
// can enter it before Mirror. id is the service's, as in Config.
func OpenSite(id, public string) (*Site, error) {
	s := &Site{Dir: siteDir(id, public), public: public}
	if n := len(s.Dir) + 1 + ListenerName; n >= nameSize {
		return nil, fmt.Errorf("%w: listeners beside %s would have names of %d bytes; way out: a shorter path", ErrUnsupported, public, n)
	}
	if err := os.Mkdir(s.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: directory for listeners: %w; way out: a public socket in a directory that can be written", ErrUnsupported, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(s.Dir, &st); err != nil {
		return nil, fmt.Errorf("directory for listeners: %s: %w", s.Dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("%w: %s is not a directory of this user alone; way out: remove it", ErrUnsupported, s.Dir)
	}
	return s, nil
}

func siteDir(id, public string) string {
	sum := sha256.Sum256([]byte(id + "\x00" + public))
	return filepath.Join(filepath.Dir(public), ".corsa-"+hex.EncodeToString(sum[:4]))
}

// RemoveSite removes the directory and the sockets in it. It is no error if there is none, and one if there is anything else in it.
func RemoveSite(id, public string) error {
	dir := siteDir(id, public)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSocket == 0 {
			return fmt.Errorf("%s: %s is not a socket; way out: remove it", dir, e.Name())
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(dir)
}

// Mirror lets into the directory whom the public socket lets in now. ErrUnsupported: its permissions cannot be put so; nobody
// but root is let in. changed says that this, or what Admits says, is not what it was.
func (s *Site) Mirror() (changed bool, err error) {
	var st unix.Stat_t
	if err := unix.Stat(s.public, &st); err != nil {
		return s.refuse(fmt.Errorf("%s: %w", s.public, err))
	}
	mode := fs.FileMode(st.Mode) & 0o222
	if _, err := unix.Getxattr(s.public, "system.posix_acl_access", nil); err == nil {
		return s.refuse(fmt.Errorf("%w: %s has an access control list; way out: remove that", ErrUnsupported, s.public))
	}
	var perm fs.FileMode
	gid := 0
	switch mode {
	case 0o222, 0o200: // in the latter case listeners let in nobody but the owner of the public socket
		perm = 0o711
	case 0o220:
		perm, gid = 0o710, int(st.Gid)
	default:
		return s.refuse(fmt.Errorf("%w: %s has the mode %#o; way out: 0666, 0660 or 0600", ErrUnsupported, s.public, st.Mode&0o777))
	}
	all := mode == 0o222 && searchable(filepath.Dir(s.public))
	if mode == s.mode && st.Uid == s.uid && st.Gid == s.gid && all == s.all {
		return false, nil
	}
	s.problem = ""
	// In this order the directory lets in whom the old permissions or the new ones do, at every moment.
	if err := errors.Join(os.Lchown(s.Dir, 0, gid), os.Chmod(s.Dir, perm)); err != nil {
		return s.refuse(err)
	}
	s.mode, s.uid, s.gid, s.all = mode, st.Uid, st.Gid, all
	return true, nil
}

// refuse lets nobody in, for the reason err.
func (s *Site) refuse(err error) (changed bool, _ error) {
	if s.problem == err.Error() {
		return false, err
	}
	s.problem = err.Error()
	return true, errors.Join(err, s.shut())
}

// shut lets nobody but root in.
func (s *Site) shut() error {
	s.mode, s.all = 0, false
	return os.Chmod(s.Dir, 0o700)
}

// searchable reports whether everybody may search the directory and those above it.
func searchable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		fi, err := os.Stat(dir)
		if err != nil || fi.Mode()&0o111 != 0o111 {
			return false
		}
		if _, err := unix.Getxattr(dir, "system.posix_acl_access", nil); err == nil {
			return false
		}
		if dir == "/" {
			return true
		}
	}
}

// Admits reports whether an app that has been let in by the public socket is let in here, too.
func (s *Site) Admits(uid uint32) bool {
	switch s.mode {
	case 0o222:
		return true
	case 0o220: // the owner need not be in the group
		return uid != s.uid || uid == 0
	case 0o200:
		return uid == s.uid || uid == 0
	}
	return false
}

// AdmitsAll reports whether the public socket lets everybody in, and so do the directories above it: then apps that nobody has
// seen yet may claim spares.
func (s *Site) AdmitsAll() bool { return s.all }

// Name gives a listener in the directory another name, for apps to be led to: a connect() that is on its way when the instance's
// own name vanishes with it still arrives. It is the caller's to remove.
func (s *Site) Name(listener string) (string, error) {
	if filepath.Dir(listener) != s.Dir {
		return "", fmt.Errorf("%w: the listener %s is not in %s", ErrUnsupported, listener, s.Dir)
	}
	name := filepath.Join(s.Dir, rand.Text()[:ListenerName])
	return name, os.Link(listener, name)
}

// Grant gives a listener in the directory to the app of that uid, and to nobody else.
func (s *Site) Grant(listener string, uid uint32) error {
	return s.give(listener, uid, 0o600)
}

// Expose lets everybody who gets into the directory use the listener, for a spare. Only who is led there knows its name.
func (s *Site) Expose(listener string) error { return s.give(listener, 0, 0o666) }

func (s *Site) give(listener string, uid uint32, mode fs.FileMode) error {
	if filepath.Dir(listener) != s.Dir {
		return fmt.Errorf("%w: the listener %s is not in %s", ErrUnsupported, listener, s.Dir)
	}
	if err := os.Lchown(listener, int(uid), 0); err != nil {
		return err
	}
	return os.Chmod(listener, mode)
}
