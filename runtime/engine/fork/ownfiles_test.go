package fork

import (
	"strings"
	"testing"
)

// opened is Python that holds files of the directory in all the ways there are, and tells how.
const opened = `
import struct
def at(name): return os.path.join(D, name)
os.mkdir(at('sub')); os.chdir(at('sub'))
for n in 'rw', 'ap', 'ro', 'wo', 'lk', 'mm', 'sub/deep', 'x' * 200 + 'y': open(at(n), 'wb').write(n.encode() * 3000)
rw = os.open(at('rw'), os.O_RDWR); twin = os.dup(rw); apart = os.open(at('rw'), os.O_RDWR | os.O_CLOEXEC)
ap = os.open(at('ap'), os.O_WRONLY | os.O_APPEND); ro = os.open(at('ro'), os.O_RDONLY); wo = os.open(at('wo'), os.O_WRONLY)
path = os.open(at('ro'), os.O_PATH); folder = os.open(at('sub'), os.O_RDONLY | os.O_DIRECTORY); far = os.open(at('x' * 200 + 'y'), os.O_RDWR)
lk = os.open(at('lk'), os.O_RDWR); fl = os.open(at('lk'), os.O_RDWR); ofd = os.open(at('lk'), os.O_RDWR)
fcntl.lockf(lk, fcntl.LOCK_EX, 10, 100); fcntl.lockf(lk, fcntl.LOCK_SH, 5, 300); fcntl.flock(fl, fcntl.LOCK_SH)
arg = lambda kind, start, n: struct.pack('hhqqi4x', kind, 0, start, n, 0)
fcntl.fcntl(ofd, 37, arg(fcntl.F_WRLCK, 500, 0))
m = os.open(at('mm'), os.O_RDWR); mm = mmap.mmap(m, 6000); os.close(m)
m2 = mmap.mmap(rw, 1900, offset=4096)

gone = os.open(at('gone'), os.O_RDWR | os.O_CREAT, 0o640); os.write(gone, b'gone' * 3000); gone2 = os.open(at('gone'), os.O_RDONLY); os.unlink(at('gone'))
mg = mmap.mmap(gone, 8000); anonymous = os.open(D, os.O_TMPFILE | os.O_RDWR)
probe = os.open(at('lk'), os.O_RDWR)
def taken(kind, start):
    try: fcntl.fcntl(probe, 37, arg(kind, start, 1)); fcntl.fcntl(probe, 37, arg(fcntl.F_UNLCK, start, 1)); return False
    except BlockingIOError: return True

def flocked(how):
    try: fcntl.flock(probe, how | fcntl.LOCK_NB); fcntl.flock(probe, fcntl.LOCK_UN); return False
    except BlockingIOError: return True

def uses():
    assert os.lseek(rw, 0, 1) == os.lseek(twin, 0, 1)
    for f, n in (rw, 'rw'), (apart, 'rw'), (ap, 'ap'), (ro, 'ro'), (wo, 'wo'), (path, 'ro'), (folder, 'sub'), (far, 'x' * 200 + 'y'):
        a, b = os.fstat(f), os.stat(at(n))
        assert (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino), n
        assert os.readlink('/proc/self/fd/%d' % f) == at(n), n
    assert os.getcwd() == at('sub') and open('deep', 'rb').read(4) == b'sub/'
    assert mm[:] == open(at('mm'), 'rb').read() and m2[:1000] == os.pread(rw, 1000, 4096)
    assert [taken(fcntl.F_RDLCK, 105), taken(fcntl.F_WRLCK, 302), taken(fcntl.F_RDLCK, 302), taken(fcntl.F_RDLCK, 510), taken(fcntl.F_WRLCK, 50)] == [True, True, False, True, False], 'locks'
    assert [flocked(fcntl.LOCK_EX), flocked(fcntl.LOCK_SH)] == [True, False], 'flock'
    a, b = os.fstat(gone), os.fstat(gone2)
    assert (a.st_ino, a.st_nlink, a.st_mode & 0o777, b.st_ino) == (b.st_ino, 0, 0o640, a.st_ino), 'gone'
    assert os.pread(gone2, 8000, 0) == mg[:]
    return [[f, os.lseek(f, 0, 1) if f != path else 0, fcntl.fcntl(f, fcntl.F_GETFL), fcntl.fcntl(f, fcntl.F_GETFD)]
        for f in (rw, twin, apart, ap, ro, wo, path, folder, far, gone, gone2, anonymous)], os.pread(gone2, 20000, 0), os.pread(anonymous, 100, 0), hashlib.sha256(mm[:] + m2[:]).hexdigest(), tree()

def use(n):
    os.lseek(twin, n, 0); os.lseek(apart, 2 * n, 0); os.lseek(ro, 3 * n, 0)
    os.write(rw, b'<%d>' % n); os.write(ap, b'[%d]' % n); os.write(wo, b'{%d}' % n); os.pwrite(far, b'(%d)' % n, n)
    os.write(gone, b'/%d/' % n); os.write(anonymous, b'%d' % n); mg[n % 8000] = n % 256
    mm[n % 5000] = n % 256; m2[n % 1900] = n % 256; os.rename(at('ap'), at('ap')); open('deep', 'ab').write(b'%d' % n)
    return uses()
`

// Whatever way a service holds files of its private directory, a restored instance holds its own like that.
func TestPrivateFilesInUse(t *testing.T) {
	s, _ := startPrivate(t, opened)
	e := branchEvaluator(t, s, s.Base())
	if got := e.eval("uses()"); !strings.HasPrefix(got, "([[") {
		t.Fatal(got)
	}
	other := branchEvaluator(t, s, s.Base())
	alone := other.eval("use(3)")
	for round := range 4 {
		want := e.eval("use(%d)", 100+round)
		if !strings.HasPrefix(want, "([[") {
			t.Fatal(want)
		}
		img := e.checkpointImage()
		e.must(want, "uses()")
		e.eval("use(%d)", 900+round)
		e.end()
		e = branchEvaluator(t, s, img)
		e.must(want, "uses()")
		if err := img.Discard(); err != nil {
			t.Error(err)
		}
	}
	other.must(alone, "uses()")
	e.end()
	other.end()
}

// Pages of a file that is mapped privately are in an image as they were, though the instance goes on writing to the file.
func TestPrivatePages(t *testing.T) {
	s, _ := startPrivate(t, `
name = os.path.join(D, 'pages')
def begin():
    global m, ro
    f = open(name, 'w+b'); f.write(b'old' * 9000); f.flush()
    m = mmap.mmap(f.fileno(), 27000, access=mmap.ACCESS_COPY); ro = mmap.mmap(f.fileno(), 27000, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    m[0:4] = b'mine'
def seen(): return [hashlib.sha256(m[:]).hexdigest(), hashlib.sha256(ro[:]).hexdigest()]
def write(): f = open(name, 'r+b'); f.seek(5000); f.write(b'new' * 5000)
`)
	e := branchEvaluator(t, s, s.Base())
	e.must("None", "begin()")
	want := e.eval("seen()")
	img := e.checkpointImage()
	e.must(want, "seen()")
	e.must("None", "write()")
	if now := e.eval("seen()"); now == want {
		t.Fatal("what is written to the file does not show in the mapping: this test proves nothing")
	}
	for range 2 {
		back := branchEvaluator(t, s, img)
		back.must(want, "seen()")
		img = back.checkpointImage()
		back.end()
	}
	e.end()
}
