# make            build bin/corsa
# make test       everything that is tested; as root
# make demo       a redis whose every client has its own private instance
# make bench      the costs of it, measured on this machine
# make vm-deps    kernels, modules and QEMU for the tests that need a kernel of their own
# make vm         a shell in such a VM, with corsa, redis, binder and corsa.ko; VM_KERNEL=6.12 for the other kernel

GO     ?= go
PREFIX ?= /usr/local

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

.PHONY: all deps build install demo test bench lint clean vm-deps vm

VM_KERNEL ?= 6.1
VM_PROGRAMS = bash redis-server redis-cli redis-benchmark jq setpriv python3

all: build

deps:
	.ci/deps

build:
	$(GO) build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o bin/corsa .

install: build
	install -D -m 755 bin/corsa $(DESTDIR)$(PREFIX)/sbin/corsa

demo: deps build
	integration/demo/demo.sh

test: deps build
	CORSA_BIN=$(CURDIR)/bin/corsa $(GO) test -tags $(TAGS) -count=1 -timeout $(TIMEOUT) ./...

vm-deps:
	.ci/deps vm
	$(MAKE) -C integration/vm/kernels

vm: vm-deps build bin/corsa-vm
	bin/corsa-vm shell --kernel $(VM_KERNEL) --memory 1024 --smp 2 --load binder --load corsa \
		$(VM_PROGRAMS:%=--program %) --file bin/corsa:/usr/bin/corsa

.PHONY: bin/corsa-vm
bin/corsa-vm:
	$(GO) build -trimpath -o $@ ./integration/vm/corsa-vm

bench: build
	bin/corsa measure

lint: $(LINT)
	$(GO) vet -tags $(TAGS) ./...
	$(LINT) run

$(LINT):
	GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv bin/golangci-lint $@

clean:
	rm -rf bin
