// SPDX-License-Identifier: GPL-2.0
#include <linux/log2.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "session.h"
#include "stats.h"

u32 corsa_stats_bucket(u64 ns)
{
	return ns ? min_t(u32, ilog2(ns), CORSA_HIST_BUCKETS - 1) : 0;
}

void corsa_stats_add_locked(struct corsa_session *session,
			    enum corsa_hist_kind kind, u64 ns)
{
	struct corsa_stats_block *stats = &session->stats;

	stats->sum.sum_ns[kind] += ns;
	stats->sum.hist[kind][corsa_stats_bucket(ns)]++;
	if (stats->samples && stats->which == kind &&
	    stats->sampled < CORSA_SAMPLES_KEPT)
		stats->samples[stats->sampled++] = min_t(u64, ns, U32_MAX);
}

void corsa_stats_add(struct corsa_session *session, enum corsa_hist_kind kind,
		     u64 ns)
{
	spin_lock(&session->lock);
	corsa_stats_add_locked(session, kind, ns);
	spin_unlock(&session->lock);
}

void corsa_stats_read(struct corsa_session *session, struct corsa_stats *out)
{
	spin_lock(&session->lock);
	*out = session->stats.sum;
	out->threads = session->thread_count;
	spin_unlock(&session->lock);
	out->records = session->record_count;
}

static long turn_on(struct corsa_session *session, u32 which)
{
	u32 *samples = vzalloc(CORSA_SAMPLES_KEPT * sizeof(u32));
	u32 *old;

	if (!samples)
		return -ENOMEM;
	spin_lock(&session->lock);
	old = session->stats.samples;
	session->stats.samples = samples;
	session->stats.sampled = 0;
	session->stats.which = which;
	spin_unlock(&session->lock);
	vfree(old);
	return 0;
}

long corsa_stats_samples(struct corsa_session *session,
			 struct corsa_samples *args)
{
	struct corsa_stats_block *stats = &session->stats;
	u32 *copy;
	long ret = 0;

	args->count = 0;
	if (args->flags & ~CORSA_SAMPLES_F_ALL || args->reserved ||
	    args->which >= CORSA_HIST_COUNT)
		return -EINVAL;
	if (args->flags & CORSA_SAMPLES_ON)
		return turn_on(session, args->which);
	if (!stats->samples || stats->which != args->which)
		return -EINVAL;

	/* Copied first: user memory cannot be written under the lock. */
	copy = vmalloc(CORSA_SAMPLES_KEPT * sizeof(u32));
	if (!copy)
		return -ENOMEM;
	spin_lock(&session->lock);
	args->count = min(args->cap, stats->sampled);
	memcpy(copy, stats->samples, args->count * sizeof(u32));
	stats->sampled = 0;
	spin_unlock(&session->lock);
	if (copy_to_user(u64_to_user_ptr(args->ns), copy,
			 args->count * sizeof(u32)))
		ret = -EFAULT;
	vfree(copy);
	return ret;
}

void corsa_stats_free(struct corsa_stats_block *stats)
{
	vfree(stats->samples);
	stats->samples = NULL;
}
