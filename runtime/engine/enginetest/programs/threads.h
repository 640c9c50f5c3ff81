/*
 * threads.h: a service with THREADS threads, each of which keeps a share of the state in its own arena.
 */
#ifndef THREADS_H
#define THREADS_H

#include "workers.h"

static __thread uint64_t *share;
static uint64_t add, total, spoilt;

static void keep(struct worker *w)
{
	/* malloc'ed by the thread itself, so that its arena and its TLS pointer to it are part of the state */
	share = calloc(64, sizeof(*share));
	if (!share)
		svc_die("calloc");
	share[63] = w->index;
}

static const char *add_job(struct worker *w)
{
	share[0] += add + (spoilt && w->index == 1);
	return NULL;
}

static const char *sum_job(struct worker *w)
{
	if (share[63] != (uint64_t)w->index)
		return "the wrong thread's share";
	__atomic_add_fetch(&total, share[0], __ATOMIC_RELAXED);
	return NULL;
}

static uint64_t get(void)
{
	total = 0;
	workers_run(sum_job);
	return total / worker_count;
}

static void mutate(uint64_t n)
{
	add = n;
	workers_run(add_job);
}

static const char *verify(void)
{
	const char *bad;

	total = 0;
	bad = workers_run(sum_job);
	if (bad)
		return bad;
	return total % worker_count ? "the threads' shares differ" : NULL;
}

static void spoil(void)
{
	spoilt = 1;
	mutate(0);
	spoilt = 0;
}

static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

int main(int argc, char **argv)
{
	workers_start(THREADS, keep);
	return svc_main(argc, argv, &ops);
}

#endif
