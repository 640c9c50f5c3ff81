/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_STATS_H
#define CORSA_STATS_H

#include <linux/types.h>

#include "uapi/corsa.h"

struct corsa_session;

/* Counters are changed under session->lock. */
struct corsa_stats_block {
	struct corsa_stats sum;
	u32 which;	/* kind of samples */
	u32 sampled;
	u32 *samples;	/* NULL: not recorded */
};

/* Counts one duration. Holds session->lock. */
void corsa_stats_add_locked(struct corsa_session *session,
			    enum corsa_hist_kind kind, u64 ns);
/* The same, for callers that do not. */
void corsa_stats_add(struct corsa_session *session, enum corsa_hist_kind kind,
		     u64 ns);
u32 corsa_stats_bucket(u64 ns);
void corsa_stats_read(struct corsa_session *session, struct corsa_stats *out);
/* Holds session->control. */
long corsa_stats_samples(struct corsa_session *session,
			 struct corsa_samples *args);
void corsa_stats_free(struct corsa_stats_block *stats);

#ifdef CORSA_DEBUG
bool corsa_stats_selftest(void);
#endif

#endif
