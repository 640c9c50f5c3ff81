#!/bin/bash
# One redis-server, two apps behind one socket path: they diverge, one crashes, one is rolled back. Every value that is
# shown is also checked; the script fails at the first that is not what it should be. Run as root, through `make demo`.
set -euo pipefail
cd "$(dirname "$0")/../.."

corsa_bin=${CORSA_BIN:-$PWD/bin/corsa}
((EUID == 0)) || { echo "demo: run it as root" >&2; exit 1; }

bold='' dim='' plain=''
if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; fi

dir=$(mktemp -d)
chmod 711 "$dir"
root=$dir/root
mkdir "$dir/run"
chmod 755 "$dir/run"
sock=$dir/run/redis.sock
cli_pid=''
# The cgroup is named by the id alone, so another demo at the same time needs another one.
id=redis-$$

corsa() { "$corsa_bin" --root "$root" "$@"; }

cleanup() {
	local code=$?
	trap - EXIT
	exec 7>&- 8<&-
	if [[ -n $cli_pid ]]; then kill "$cli_pid" 2>/dev/null || true; fi
	if [[ -e $root/$id ]] && ! corsa delete --force "$id"; then code=1; fi
	rm -rf "$dir"
	exit "$code"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '%s%s%s\n' "$bold" "$*" "$plain"; }
fail() { echo "demo: $*" >&2; exit 1; }

# show APP COMMAND REPLY prints what an app asked and got.
show() { printf '  %s%s>%s %-34s %s\n' "$dim" "$1" "$plain" "$2" "$3"; }

# ask UID EXPECTED WORD… runs redis-cli as that user and wants that reply.
ask() {
	local uid=$1 want=$2 got
	shift 2
	got=$(setpriv --reuid "$uid" --regid "$uid" --clear-groups redis-cli -s "$sock" "$@")
	show "$uid" "$*" "$got"
	[[ $got == "$want" ]] || fail "uid $uid asked $* and got $got, want $want"
}

# say EXPECTED WORD… asks over the one connection that uid 2001 keeps open throughout.
say() {
	local want=$1 got
	shift
	echo "$*" >&7
	IFS= read -r -t 30 got <&8 || fail "no reply to $*"
	show 2001 "$*" "$got"
	[[ $got == "$want" ]] || fail "uid 2001 asked $* and got $got, want $want"
}

# connection names the socket that redis-cli has open.
connection() { find "/proc/$cli_pid/fd" -lname 'socket:*' -printf '%l\n'; }

step "One redis-server $(redis-server --version | sed 's/.*v=\([^ ]*\).*/\1/'), warmed with 20,000 keys, served under one path"
corsa serve --detach --id "$id" --socket "$sock" --crash-reply '-CRASHED your redis died\r\n' \
	--warm "redis-cli -s $sock debug populate 20000 key 100" -- \
	redis-server --port 0 --unixsocket "$sock" --unixsocketperm 777 --save '' --appendonly no --enable-debug-command yes >/dev/null

step "Two users, one path: each has its own redis"
mkfifo "$dir/in" "$dir/out"
setpriv --reuid 2001 --regid 2001 --clear-groups redis-cli -s "$sock" <"$dir/in" >"$dir/out" 2>&1 &
cli_pid=$!
exec 7>"$dir/in" 8<"$dir/out"
say 20000 dbsize
say OK set owner alice
before=$(connection)
ask 2002 20000 dbsize
ask 2002 OK set owner bob
ask 2002 OK flushdb
say alice get owner
ask 2002 0 dbsize

step "A checkpoint, more writes, another checkpoint"
first=$(corsa checkpoint --app 2001 --tag first "$id")
say OK set owner carol
second=$(corsa checkpoint --app 2001 --tag second "$id")
say OK set owner lost
ask 2002 OK set owner bob

step "uid 2001 crashes its redis. Its open connection goes on, with what the last checkpoint had"
ask 2001 'CRASHED your redis died' debug segfault
say carol get owner
[[ $before == socket:* && $(connection) == "$before" ]] || fail "redis-cli had to connect again: $before before, $(connection) now"
show 2001 '(its socket, before and after)' "$before $(connection)"
ask 2002 bob get owner

step "Back to an older checkpoint, by its tag"
printf '  %s#%s corsa restore --app 2001 --to first %s\n' "$dim" "$plain" "$id"
corsa restore --app 2001 --to first "$id" >/dev/null
say alice get owner
say 20001 dbsize

step "corsa apps $id"
corsa apps "$id"
corsa apps --json "$id" | jq -e '
	(map({key: .app, value: .}) | from_entries) as $a |
	($a | length) == 2 and $a["uid:2001"].crashes == 1 and $a["uid:2002"].crashes == 0' >/dev/null || fail "corsa apps does not tell of one crash"
step "corsa log $id 2001"
corsa log "$id" 2001
[[ -n $first && -n $second && $first != "$second" ]] || fail "two checkpoints with one id"

step "corsa delete --force $id"
corsa delete --force "$id"
[[ ! -e $root/$id && ! -e $sock ]] || fail "corsa delete left something behind"

exec 7>&- 8<&-
wait "$cli_pid" || true
cli_pid=''
step "What it costs on this machine"
corsa measure --quick 2>"$dir/progress" || { cat "$dir/progress" >&2; fail "corsa measure --quick failed"; }
