#!/bin/bash
# One redis-server, two apps behind one socket path: they diverge, one crashes, one is rolled back. Every value that is
# shown is also checked; the script fails at the first that is not what it should be. Run as root, through `make demo`.
set -euo pipefail
cd "$(dirname "$0")/../.."

corsa_bin=${CORSA_BIN:-$PWD/bin/corsa}
# With kmod, in a VM, it is also shown that one process is all instances.
engine=${CORSA_DEMO_ENGINE:-auto}
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

# run COMMAND… shows a corsa command and runs it.
run() {
	printf '  %s#%s corsa %-47s ' "$dim" "$plain" "$*"
	corsa "$@"
}

# quietly COMMAND… checks without showing.
quietly() { "$@" >/dev/null; }

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

# same_process checks that redis-server is the one process that it was at first.
same_process() {
	[[ $engine == kmod ]] || return 0
	[[ $(pidof redis-server) == "$server" ]] || fail "redis-server was process $server and is $(pidof redis-server) now"
	show '' '(process of redis-server)' "$server"
}

step "One redis-server $(redis-server --version | sed 's/.*v=\([^ ]*\).*/\1/') with 20,000 keys, for every user its own"
corsa serve --detach --id "$id" --engine "$engine" --socket "$sock" --crash-reply '-CRASHED your redis died\r\n' \
	--warm "redis-cli -s $sock debug populate 20000 key 100" -- \
	redis-server --port 0 --unixsocket "$sock" --unixsocketperm 777 --save '' --appendonly no --enable-debug-command yes >/dev/null
if [[ $engine == kmod ]]; then server=$(pidof redis-server) || fail "redis-server does not run"; fi
mkfifo "$dir/in" "$dir/out"
setpriv --reuid 2001 --regid 2001 --clear-groups redis-cli -s "$sock" <"$dir/in" >"$dir/out" 2>&1 &
cli_pid=$!
exec 7>"$dir/in" 8<"$dir/out"
quietly say 20000 dbsize
quietly ask 2002 20000 dbsize
before=$(connection)
say OK set owner alice
ask 2002 OK flushdb
ask 2002 0 dbsize
say alice get owner
quietly say 20001 dbsize
same_process

step "Two checkpoints, then a write that is in neither"
run checkpoint --app 2001 --tag first "$id"
quietly say OK set owner carol
run checkpoint --app 2001 --tag second "$id"
say OK set owner lost

step "User 2001 crashes it; the same connection goes on, with the last checkpoint"
say 'CRASHED your redis died' debug segfault
IFS= read -r -t 30 _ <&8 # redis-cli ends an error with an empty line
say carol get owner
[[ $before == socket:* && $(connection) == "$before" ]] || fail "redis-cli had to connect again: $before before, $(connection) now"
show 2001 '(its socket, before and now)' "$before $(connection)"
ask 2002 0 dbsize
same_process

step "Back to the older checkpoint"
run restore --app 2001 --to first "$id"
say alice get owner
quietly say 20001 dbsize
same_process

step "The apps, and the history of 2001"
corsa apps "$id" | awk '{ printf "  %-9s %-8s %12s %11s  %-13s %-7s %s\n", $1, $2, $3, $4, $5, $6, $7 }'
corsa apps --json "$id" | jq -e '
	(map({key: .app, value: .}) | from_entries) as $a |
	($a | length) == 2 and $a["uid:2001"].crashes == 1 and $a["uid:2002"].crashes == 0' >/dev/null || fail "corsa apps does not tell of one crash"
corsa log --json "$id" 2001 | jq -r '.head as $head | .checkpoints[] |
	"  \(.id)  \(.tags | join(" "))  from \(.parent)\(if .id == $head then "  <- the instance" else "" end)"' >"$dir/log"
(($(wc -l <"$dir/log") == 2)) || fail "corsa log does not show two checkpoints"
cat "$dir/log"

corsa delete --force "$id"
[[ ! -e $root/$id && ! -e $sock ]] || fail "corsa delete left something behind"
exec 7>&- 8<&-
wait "$cli_pid" || true
cli_pid=''
measure=(--quick)
# Emulation makes it many times slower: only the redis, and only the engine that was shown.
if [[ $engine == kmod ]]; then measure+=(--engine kmod --service redis); fi
step "What it costs here: corsa measure ${measure[*]}"
corsa measure "${measure[@]}" 2>"$dir/progress" || { cat "$dir/progress" >&2; fail "corsa measure --quick failed"; }
