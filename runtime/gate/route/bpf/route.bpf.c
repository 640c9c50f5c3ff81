// SPDX-License-Identifier: GPL-2.0-only

/*
 * Leads an app's connect() to a service's public name to the app's own instance. There is one such program for each
 * service, at the root of the cgroups, so it sees every connect() to a unix socket on the host and has to be done quickly
 * with those that do not concern it. It never refuses one: in every doubt the name stays as it is, and the app
 * arrives at the public socket.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

#define NAME_SIZE 108 /* of sun_path */
#define MAX_PUBLIC 4  /* public names of a service */
#define MAX_SPARES 64
#define CALIBRATE 255 /* instead of a public name's index */

/* What names a socket, the way connect() is given it. An abstract name begins with a zero and is len long; a path is len
 * long without its final zero. The rest is zero. */
struct name {
	__u32 len;
	__u8 text[NAME_SIZE];
};

/*
 * An app's way to its instance: one listener for each public name. One with len 0 is not redirected. Ways are never
 * deleted: the memory of one that is could become another app's while it is read here.
 */
struct way {
	struct bpf_spin_lock lock;
	__u32 used; /* how often it was gone since it was set */
	struct name to[MAX_PUBLIC];
};

enum spare_state { SPARE_NONE, SPARE_OFFERED, SPARE_TAKING, SPARE_CLAIMED };

struct spare {
	__u32 state;
	__u32 uid; /* of the app that has claimed it */
	struct {
		__u32 lock, used; /* not used here */
		struct name to[MAX_PUBLIC];
	} way;
};

/* Shared with the monitor's memory. */
struct settings {
	__u64 valid_until; /* ns of the monotonic clock; nothing is redirected afterwards */
	__u64 root_mount;  /* what names a root directory; see same_files */
	__u64 root_dentry;
	__u32 mount_ns;
	__u32 net_ns;
	__u32 claims; /* whether spares may be claimed */
	__u32 calibrated; /* how often; 0: nothing is known of the monitor yet */
};

enum outcome { ROUTED, CLAIMED, STALE, ELSEWHERE, WITHOUT, OUTCOMES };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MAX_PUBLIC);
	__type(key, struct name);
	__type(value, __u32);
} publics SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32); /* uid in the initial user namespace */
	__type(value, struct way);
} routes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_SPARES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct spare);
} spares SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} claimed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOMES);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;
extern int bpf_sock_addr_set_sun_path(struct bpf_sock_addr_kern *sa, const __u8 *sun_path, __u32 sun_path__sz) __ksym;

static __always_inline void count(__u32 outcome)
{
	__u64 *n = bpf_map_lookup_elem(&counts, &outcome);

	if (n)
		++*n;
}

/* Reads the name that the app has given. Bytes of the address behind its end, and behind a path's zero, are not the name's. */
static __always_inline bool read_name(struct name *name, struct bpf_sock_addr_kern *sa)
{
	const __u8 *text = (const __u8 *)sa->uaddr + sizeof(__u16);
	__u64 len = (__u32)sa->uaddrlen - sizeof(__u16), size;
	__u8 last;
	long n;

	/* The verifier has to see the bounds on what is used below. */
	asm volatile("%0 &= 127" : "+r"(len));
	if (len == 0 || len > NAME_SIZE || bpf_probe_read_kernel(name->text, 1, text))
		return false;
	if (name->text[0] == 0) {
		if (len == NAME_SIZE)
			return false;
		name->len = len;
		return bpf_probe_read_kernel(name->text, len, text) == 0;
	}
	size = len < NAME_SIZE ? len + 1 : NAME_SIZE;
	asm volatile("%0 &= 127" : "+r"(size));
	if (size > NAME_SIZE)
		return false;
	n = bpf_probe_read_kernel_str(name->text, size, text);
	/* Without a zero the name is longer than what has been read. */
	if (len == NAME_SIZE && (bpf_probe_read_kernel(&last, 1, text + NAME_SIZE - 1) || (n == NAME_SIZE && last)))
		return false;
	name->len = n - 1;
	return n > 1;
}

static __always_inline __u32 net_of(struct bpf_sock_addr_kern *sa)
{
	return sa->sk->__sk_common.skc_net.net->ns.inum;
}

/* A name means the same to the app as to the monitor if both see the same files, or the same abstract names. */
static __always_inline bool same_names(struct settings *set, struct task_struct *task, struct bpf_sock_addr_kern *sa, bool abstract)
{
	if (!set->calibrated)
		return false;
	if (abstract)
		return net_of(sa) == set->net_ns;
	return task->nsproxy->mnt_ns->ns.inum == set->mount_ns &&
	       (__u64)task->fs->root.mnt == set->root_mount &&
	       (__u64)task->fs->root.dentry == set->root_dentry;
}

/* The monitor itself has connected to a name that only it knows: take note of what it sees. */
static __always_inline void calibrate(struct settings *set, struct task_struct *task, struct bpf_sock_addr_kern *sa)
{
	set->mount_ns = task->nsproxy->mnt_ns->ns.inum;
	set->root_mount = (__u64)task->fs->root.mnt;
	set->root_dentry = (__u64)task->fs->root.dentry;
	set->net_ns = net_of(sa);
	__sync_fetch_and_add(&set->calibrated, 1);
}

/* Makes a spare the app's. One that connects twice at once gets one of them. */
static __always_inline void claim(__u32 uid)
{
	for (__u32 i = 0; i < MAX_SPARES; i++) {
		__u32 index = i;
		struct spare *s = bpf_map_lookup_elem(&spares, &index);

		if (!s)
			return;
		if (s->state != SPARE_OFFERED)
			continue;
		if (__sync_val_compare_and_swap(&s->state, SPARE_OFFERED, SPARE_TAKING) != SPARE_OFFERED)
			continue;
		if (bpf_map_update_elem(&routes, &uid, &s->way, BPF_NOEXIST)) {
			/* Somebody was faster, or there is no room. */
			__sync_lock_test_and_set(&s->state, SPARE_OFFERED);
			return;
		}
		s->uid = uid;
		__sync_lock_test_and_set(&s->state, SPARE_CLAIMED);
		bpf_ringbuf_output(&claimed, &index, sizeof(index), 0); /* if it is full, the monitor is awake */
		count(CLAIMED);
		return;
	}
}

/* Copies where the app's way leads for a public name. It is false if it leads nowhere. */
static __always_inline bool find(struct name *to, __u32 uid, __u32 index, bool claims)
{
	struct way *way = bpf_map_lookup_elem(&routes, &uid);

	if (!way && claims) {
		claim(uid);
		way = bpf_map_lookup_elem(&routes, &uid);
	}
	if (!way || index >= MAX_PUBLIC)
		return false;
	bpf_spin_lock(&way->lock);
	*to = way->to[index];
	if (to->len != 0)
		way->used++;
	bpf_spin_unlock(&way->lock);
	return to->len != 0;
}

SEC("cgroup/connect_unix")
int route(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_addr_kern *sa = bpf_cast_to_kern_ctx(ctx);
	struct task_struct *task = bpf_get_current_task_btf();
	struct name name = {}, to;
	struct settings *set;
	__u32 zero = 0, *public, index, size;
	__u16 type;

	if (!read_name(&name, sa))
		return 1;
	public = bpf_map_lookup_elem(&publics, &name);
	set = bpf_map_lookup_elem(&settings, &zero);
	if (!public || !set)
		return 1;
	index = *public;
	if (index == CALIBRATE) {
		calibrate(set, task, sa);
		return 1;
	}
	type = sa->sk->sk_type;
	if (type != SOCK_STREAM && type != SOCK_SEQPACKET)
		return 1;
	if (bpf_ktime_get_ns() > set->valid_until) {
		count(STALE);
		return 1;
	}
	if (!same_names(set, task, sa, name.text[0] == 0)) {
		count(ELSEWHERE);
		return 1;
	}
	/* The uid is the one that SO_PEERCRED will show. */
	if (!find(&to, task->cred->euid.val, index, set->claims)) {
		count(WITHOUT);
		return 1;
	}
	if ((to.text[0] == 0) != (name.text[0] == 0) && !same_names(set, task, sa, to.text[0] == 0)) {
		count(ELSEWHERE);
		return 1;
	}
	size = to.len;
	if (to.text[0] != 0)
		size++; /* the final zero */
	if (size <= NAME_SIZE && bpf_sock_addr_set_sun_path(sa, to.text, size) == 0)
		count(ROUTED);
	return 1;
}

char _license[] SEC("license") = "GPL";
