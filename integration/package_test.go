package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// inNewRoot runs a script in a copy of the host's root on which what it changes is gone afterwards. The script finds dir as
// /corsa-test, and the upper layer of the copy as /corsa-test-upper.
func inNewRoot(t *testing.T, dir, script string) string {
	t.Helper()
	setUp := `set -e
mount -t tmpfs corsa-test "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay corsa-test -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
for d in proc dev sys; do mount --rbind /$d "$1/root/$d"; done
mkdir "$1/root/corsa-test" "$1/root/corsa-test-upper"
mount --bind "$2" "$1/root/corsa-test"
mount --bind "$1/upper" "$1/root/corsa-test-upper"
exec chroot "$1/root" bash -c "$3"
`
	// The mounts end with the namespace.
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--fork", "--kill-child", "sh", "-c", setUp, "sh", t.TempDir(), dir, script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, &stderr)
	}
	return string(out)
}

// The packages install what works, and take it all away again.
func TestDebianPackages(t *testing.T) {
	for _, program := range []string{"dpkg", "dpkg-deb", "dpkg-shlibdeps", "make", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("Debian packages are made and tried on Debian, with dpkg-dev: %v", err)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: to install packages")
	}
	top, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"bin/corsa", "build/criu/INSTALLED"} {
		if _, err := os.Stat(filepath.Join(top, file)); err != nil {
			t.Skipf("make deps build has not been run: %v", err)
		}
	}
	dir := t.TempDir()
	// Other tests are using the program.
	pack := exec.Command(filepath.Join(top, "packaging/deb"), "0.0.1", dir)
	pack.Env = append(os.Environ(), "CORSA_PREBUILT=yes", "DPKG_DEB_COMPRESSOR_TYPE=none")
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out := inNewRoot(t, dir, `set -e
# Images of systems leave manual pages out.
dpkg --no-triggers --path-include='/usr/share/*' -i /corsa-test/corsa_*.deb /corsa-test/corsa-criu_*.deb >&2
dpkg --verify corsa corsa-criu
corsa --version | sed -n 's/^corsa version.*/version: yes/p'
corsa --root /run/corsa-test check --json | grep -o '"/usr/lib/corsa/criu/bin/criu (corsa.s own), version [^"]*"' | sed 's/^/criu: /'
/usr/lib/corsa/criu/bin/criu --version >/dev/null
if command -v man >/dev/null; then
	man --warnings=w -l /usr/share/man/man8/corsa-run.8.gz 2>&1 | grep -q -- '--bundle' && echo 'man: yes'
else
	zcat /usr/share/man/man8/corsa-run.8.gz | grep -q bundle && echo 'man: yes'
fi
# From bash-completion, which need not be there.
_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=("${COMP_WORDS[@]}") cword=$COMP_CWORD; }
compopt() { :; } # works while readline completes only
. /usr/share/bash-completion/completions/corsa
complete -p corsa >/dev/null
COMP_WORDS=(corsa stat) COMP_CWORD=1 COMP_LINE='corsa stat' COMP_POINT=10 COMP_TYPE=9
__start_corsa corsa stat corsa || true
echo "completion: ${COMPREPLY[*]}"
grep -q 'compdef' /usr/share/zsh/vendor-completions/_corsa
grep -q 'complete -c corsa' /usr/share/fish/vendor_completions.d/corsa.fish
dpkg --no-triggers --purge corsa corsa-criu >&2
# What the layer hides is a device; the mount points are this test's.
cd /corsa-test-upper
find . -path '*corsa*' ! -type c ! -path './corsa-test*' | sed 's/^/left: /'
`)
	for _, want := range []string{"version: yes", "criu: ", "man: yes", "completion: state"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %q", want, out)
		}
	}
	if strings.Contains(out, "left: ") || strings.Contains(out, "missing") {
		t.Errorf("wrong or left over:\n%s", out)
	}
}
