#!/bin/bash
# Waydroid's clipboard service behind Binder: three users have each their own, one crashes it, one is rolled back. Every
# value that is shown is also checked; the script fails at the first that is not what it should be. It runs in a VM whose
# kernel has Binder and corsa.ko, through `make demo-vm`.
set -euo pipefail
cd "$(dirname "$0")/../.."

corsa_bin=${CORSA_BIN:-$PWD/bin/corsa}
packages=${CORSA_DEMO_PACKAGES:-/var/lib/gbinder.tar} # integration/vm/gbinder/fetch makes it
programs=$PWD/integration/vm/gbinder/testdata

bold='' dim='' plain=''
if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; fi

step() { printf '%s%s%s\n' "$bold" "$*" "$plain"; }
fail() { echo "demo: $*" >&2; exit 1; }

((EUID == 0)) || fail "run it as root"
[[ -e /dev/corsa ]] || fail "corsa.ko is not loaded; run: make demo-vm"
grep -qw binder /proc/filesystems || fail "the kernel has no binderfs; run: make demo-vm"
[[ -e $packages ]] || fail "$packages is missing; run: make demo-vm"
[[ ! -e /dev/binder ]] || fail "/dev/binder is there already"

dir=$(mktemp -d)
chmod 711 "$dir"
state=$dir/state
id=clipboard-$$
published=$dir/binder

corsa() { "$corsa_bin" --root "$state" "$@"; }

cleanup() {
	local code=$?
	trap - EXIT
	if [[ -e $state/$id ]] && ! corsa delete --force "$id"; then code=1; fi
	rm -f /dev/binder /etc/gbinder.conf
	rm -rf "$dir"
	exit "$code"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# run COMMAND… shows a corsa command and runs it.
run() {
	printf '  %s#%s corsa %-47s ' "$dim" "$plain" "$*"
	corsa "$@"
}

# bundle makes an OCI bundle of the Debian packages with Waydroid's service.
bundle() {
	mkdir -p "$dir/bundle/rootfs"
	tar -x -C "$dir/bundle/rootfs" -f "$packages"
	mkdir -p "$dir/bundle/rootfs"/{opt,sys}
	cp "$programs"/*.py "$dir/bundle/rootfs/opt"
	printf '[General]\nApiLevel=30\n' | tee /etc/gbinder.conf >"$dir/bundle/rootfs/etc/gbinder.conf"
	printf '[waydroid]\nbinder = binder\nvndbinder = vndbinder\nhwbinder = hwbinder\nbinder_protocol = aidl3\nservice_manager_protocol = aidl3\n' \
		>"$dir/bundle/rootfs/etc/waydroid.cfg"
	corsa spec --bundle "$dir/bundle"
	jq --arg published "$published" '
		.process.args = ["/usr/bin/python3", "/opt/clipboard_service.py", "/etc/waydroid.cfg"] |
		.process.terminal = false | .process.env += ["PYTHONDONTWRITEBYTECODE=1"] | .annotations = {
			"dev.corsa.gate": "binder", "dev.corsa.engine": "kmod", "dev.corsa.binder.devices": "binder",
			"dev.corsa.binder.manager": "aidl3", "dev.corsa.binder.names": "waydroidclipboard", "dev.corsa.binder.publish": $published
		}' "$dir/bundle/config.json" >"$dir/config.json"
	mv "$dir/config.json" "$dir/bundle"
}

# call UID CODE ARGUMENT… makes a Binder call with libgbinder's binder-call as that user.
call() {
	local uid=$1 root=$dir/bundle/rootfs
	shift
	# Its exit code says nothing, and it ends what it prints with a blank. Its libraries are not those of this system.
	{ setpriv --reuid "$uid" --regid "$uid" --clear-groups "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path \
		"$root/usr/lib/x86_64-linux-gnu" "$root/usr/bin/binder-call" -d /dev/binder waydroidclipboard "$@" 2>&1 || true; } |
		sed 's/ *$//'
}

# show UID WHAT OUTCOME prints what a user did.
show() { printf '  %s%4s>%s %-38s %s\n' "$dim" "$1" "$plain" "$2" "$3"; }

# copies UID TEXT
copies() {
	local got
	got=$(call "$1" 1 "\"$2\"u" reply i32)
	[[ $got == 0 ]] || fail "uid $1 copied $2, and binder-call says $got"
	show "$1" "copy $2" ok
}

# pastes UID TEXT checks what is in the user's clipboard.
pastes() {
	local got
	got=$(call "$1" 2 reply i32 s16)
	[[ $got =~ ^0\ \"(.*)\"U$ ]] || fail "uid $1 pastes, and binder-call says $got"
	show "$1" paste "${BASH_REMATCH[1]}"
	[[ ${BASH_REMATCH[1]} == "$2" ]] || fail "uid $1 should find $2"
}

# same_process checks that the service is the one process that it was at first.
same_process() {
	local now
	now=$(pidof python3) || fail "the service is gone"
	[[ $now == "$server" ]] || fail "the service was process $server and is $now now"
	show '' '(process of the service)' "$server"
}

step "Waydroid's clipboard service, unmodified, for every user its own; apps are libgbinder's binder-call"
bundle
# The service would hold a pipe that corsa's messages go into.
corsa --log "$dir/log" run --detach --bundle "$dir/bundle" "$id" </dev/null >/dev/null 2>&1 || { cat "$dir/log" >&2; fail "corsa run failed"; }
[[ -e $published/binder ]] || fail "the service's Binder device is not published"
ln -s "$published/binder" /dev/binder
server=$(pidof python3) || fail "the service does not run"
copies 2001 'the text of alice'
pastes 2002 '(empty)'
copies 2002 'the text of bob'
copies 2003 'the text of carol'
pastes 2001 'the text of alice'
same_process

step "A checkpoint of 2001, then another text"
run checkpoint --app 2001 --tag first "$id"
run checkpoint --app 2002 "$id"
copies 2001 'a later text of alice'

step "User 2002 crashes it: the text \"crash\" is more than the clipboard can take"
got=$(call 2002 1 '"crash"u' reply i32)
[[ $got != 0 ]] || fail "the service has survived"
show 2002 'copy crash' "$got"
pastes 2001 'a later text of alice'
pastes 2002 'the text of bob'
pastes 2003 'the text of carol'
same_process

step "Back to the checkpoint"
run restore --app 2001 --to first "$id"
pastes 2001 'the text of alice'
same_process

step "The apps"
corsa apps "$id" | awk '{ printf "  %-9s %-8s %12s %11s  %-13s %-7s %s\n", $1, $2, $3, $4, $5, $6, $7 }'
corsa apps --json "$id" | jq -e '(map({key: .app, value: .crashes}) | from_entries) as $a |
	$a["uid:2001"] == 0 and $a["uid:2002"] == 1 and $a["uid:2003"] == 0' >/dev/null || fail "corsa apps does not tell of one crash"

corsa delete --force "$id"
[[ ! -e $state/$id && ! -e $published ]] || fail "corsa delete left something behind"
