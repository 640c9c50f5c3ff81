// SPDX-License-Identifier: GPL-2.0
#include <linux/printk.h>
#include <linux/prandom.h>

#include "../stats.h"

static u32 horrible_bucket(u64 ns)
{
	u32 bucket = 0;

	while (ns > 1 && bucket < CORSA_HIST_BUCKETS - 1) {
		ns /= 2;
		bucket++;
	}
	return bucket;
}

bool corsa_stats_selftest(void)
{
	struct rnd_state random;
	u64 ns;
	int i;

	prandom_seed_state(&random, 1);
	for (i = 0; i < 10000; i++) {
		prandom_bytes_state(&random, &ns, sizeof(ns));
		ns >>= i % 64;
		if (corsa_stats_bucket(ns) == horrible_bucket(ns))
			continue;
		pr_err("corsa: selftest stats: %llu is in bucket %u, want %u\n",
		       ns, corsa_stats_bucket(ns), horrible_bucket(ns));
		return false;
	}
	pr_info("corsa: selftest stats: %d passed\n", i);
	return true;
}
