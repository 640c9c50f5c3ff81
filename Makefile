# make            build bin/corsa
# make test       everything that is tested; as root. VM_KERNELS= leaves out what needs a kernel of its own
# make test-vm    the tests that need a kernel of their own, on all kernels and with all engines
# make test-vm-debug  the same on a kernel that looks for mistakes; the first time it builds that, for 15 to 60 minutes
# make demo       a redis whose every client has its own private instance
# make chaos      100,000 rounds of what make test does for 1,000: hurting a service, its instances and its monitor at random
# make install    to PREFIX, /usr/local if it is not given, below DESTDIR; make install-criu, make install-hooks
# make deb        Debian packages, in build/
# make bench      the costs of it, measured on this machine
# make demo-vm    the same demo in a VM, with the kernel engine, and Waydroid's clipboard behind Binder
# make vm-deps    kernels, modules and QEMU for the tests that need a kernel of their own
# make vm         a shell in such a VM, with corsa, redis, binder and corsa.ko; VM_KERNEL=6.12 for the other kernel

GO     ?= go
PREFIX ?= /usr/local
MANDIR ?= $(PREFIX)/share/man
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions

# seccomp: containers' seccomp profiles, through libseccomp.
TAGS    = seccomp
TIMEOUT ?= 30m

# What corsa --version says. Without git the commit is left out.
VERSION = 0.1.0
COMMIT  = $(shell git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null)
LDFLAGS = -s -w -X corsa.dev/corsa/cli.version=$(VERSION) -X corsa.dev/corsa/cli.commit=$(COMMIT)

# The linter is built from its pinned source: its releases follow Go's.
LINT_VERSION = v2.15.0
LINT         = bin/golangci-lint-$(LINT_VERSION)

.PHONY: all deps build man completions deb install install-criu install-hooks demo test chaos bench lint clean vm-deps vm test-vm test-vm-debug demo-vm

# VM_KERNELS is where make test tests the module, VM_KERNEL what make vm and make demo-vm boot.
VM_KERNELS  ?= 6.1
VM_KERNEL   ?= 6.1
VM_PROGRAMS = bash redis-server redis-cli redis-benchmark jq setpriv python3

all: build

deps:
	.ci/deps

build:
	$(GO) build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o bin/corsa .

# The program, its manual pages, and the completions of bash, zsh and fish.
install: build man completions
	install -D -m 755 bin/corsa $(DESTDIR)$(PREFIX)/sbin/corsa
	install -d $(DESTDIR)$(MANDIR)/man8
	for page in build/man/*.8; do gzip -9nc $$page >$(DESTDIR)$(MANDIR)/man8/$${page##*/}.gz || exit 1; done
	install -D -m 644 build/completions/corsa.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/corsa
	install -D -m 644 build/completions/corsa.zsh $(DESTDIR)$(ZSHDIR)/_corsa
	install -D -m 644 build/completions/corsa.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/corsa.fish

man:
	rm -rf build/man
	$(GO) run -tags $(TAGS) ./docs/man $(VERSION) build/man

completions: build
	mkdir -p build/completions
	for shell in bash zsh fish; do bin/corsa completion $$shell >build/completions/corsa.$$shell || exit 1; done

# Debian packages, in build: corsa, and corsa-criu with the CRIU that it uses.
deb: deps
	packaging/deb $(VERSION) build

# The CRIU that corsa uses, beside it: docs/criu.md.
install-criu:
	.ci/criu build/criu
	install -d $(DESTDIR)$(PREFIX)/lib/corsa/criu
	cp -a build/criu/. $(DESTDIR)$(PREFIX)/lib/corsa/criu

# For runc, crun, podman and LXC: docs/hooks.md.
install-hooks:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/corsa-binderfs-hook ./hooks/corsa-binderfs-hook
	install -D -m 755 bin/corsa-binderfs-hook $(DESTDIR)$(PREFIX)/libexec/corsa-binderfs-hook
	install -d $(DESTDIR)/etc/containers/oci/hooks.d $(DESTDIR)$(PREFIX)/share/corsa
	sed 's#/usr/local#$(PREFIX)#' hooks/oci-hooks.d.json >$(DESTDIR)/etc/containers/oci/hooks.d/corsa-binderfs.json
	sed 's#/usr/local#$(PREFIX)#' hooks/lxc.conf >$(DESTDIR)$(PREFIX)/share/corsa/lxc-binderfs.conf

demo: deps build
	integration/demo/demo.sh

# Without VM_KERNELS the tests of VMs take what there is, which is nothing where nothing was fetched.
test: deps build $(if $(VM_KERNELS),vm-deps)
	CORSA_BIN=$(CURDIR)/bin/corsa CORSA_VM_KERNELS='$(VM_KERNELS)' \
		$(GO) test -tags $(TAGS) -count=1 -timeout $(TIMEOUT) ./...
	@cat docs/conformance-engines.md

# All kernels, but for make test only those that it boots.
test: FETCH = KERNELS='$(VM_KERNELS)'
vm-deps:
	.ci/deps vm
	$(MAKE) --no-print-directory -j2 -C integration/vm/kernels $(FETCH)
	integration/vm/gbinder/fetch $(CURDIR)/build/vm/gbinder.tar

test-vm: vm-deps
	CORSA_VM_KERNELS='6.1 6.12' CORSA_VM_ENGINES='kmod fork' CORSA_VM_LONG=1 \
		$(GO) test -count=1 -timeout 3h -v ./integration/vm/...

# A kernel that checks itself is some thirty times slower.
test-vm-debug:
	.ci/deps vm vm-debug
	nice $(MAKE) --no-print-directory -C integration/vm/kernels debug
	CORSA_VM_KERNELS=6.1-debug $(GO) test -count=1 -timeout 12h -v ./integration/vm

vm: vm-deps build bin/corsa-vm
	bin/corsa-vm shell --kernel $(VM_KERNEL) --memory 1024 --smp 2 --load binder --load corsa \
		$(VM_PROGRAMS:%=--program %) --file bin/corsa:/usr/bin/corsa

demo-vm: deps vm-deps build bin/corsa-vm
	bin/corsa-vm run --kernel $(VM_KERNEL) --memory 1536 --load binder --load corsa --timeout 15m \
		$(VM_PROGRAMS:%=--program %) --program find --file bin/corsa:/root/corsa/bin/corsa \
		--file integration/demo:/root/corsa/integration/demo --file $(CURDIR)/build/vm/gbinder.tar:/var/lib/gbinder.tar \
		--file integration/vm/gbinder/testdata:/root/corsa/integration/vm/gbinder/testdata --env CORSA_DEMO_ENGINE=kmod \
		--dir /root/corsa -- sh -c 'integration/demo/demo.sh && integration/demo/clipboard.sh'

.PHONY: bin/corsa-vm
bin/corsa-vm:
	$(GO) build -trimpath -o $@ ./integration/vm/corsa-vm

ROUNDS ?= 100000
chaos: deps build
	CORSA_BIN=$(CURDIR)/bin/corsa CORSA_CHAOS_ROUNDS=$(ROUNDS) \
		$(GO) test -count=1 -timeout 24h -v -run 'TestChaos$$' ./integration

bench: build
	bin/corsa measure
	bin/corsa measure startup
	bin/corsa measure scale
	bin/corsa measure checkpoint

lint: $(LINT)
	$(GO) vet -tags $(TAGS) ./...
	$(LINT) run

$(LINT):
	GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/golangci-lint $@

# build, which takes a while to get, stays.
clean:
	rm -rf bin
