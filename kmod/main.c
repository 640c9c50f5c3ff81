// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>
#include <linux/rcupdate.h>

#include "activate.h"
#include "binder_gate.h"
#include "chardev.h"
#include "duplicate.h"
#include "exit.h"
#include "probes.h"
#include "session.h"
#include "stats.h"
#include "symbols.h"
#include "verdict.h"
#include "waits.h"
#include "xstate.h"

static int __init selftest(void)
{
#ifdef CORSA_DEBUG
	if (!corsa_verdict_selftest() || !corsa_stats_selftest() ||
	    !corsa_xstate_selftest())
		return -ENOTRECOVERABLE;
#endif
	return 0;
}

static int __init corsa_init(void)
{
	int ret;

	corsa_xstate_init();
	ret = selftest();
	if (ret)
		return ret;
	ret = corsa_symbols_init();
	if (ret)
		return ret;
	ret = corsa_waits_init();
	if (ret)
		return ret;
	ret = corsa_session_init();
	if (ret)
		return ret;
	ret = corsa_duplicate_init();
	if (ret)
		goto session_exit;
	ret = corsa_activate_init();
	if (ret)
		goto duplicate_exit;
	ret = corsa_probes_init();
	if (ret)
		goto activate_exit;
	ret = corsa_exit_init();
	if (ret)
		goto probes_exit;
	ret = corsa_chardev_init();
	if (ret)
		goto exit_exit;
	return 0;

exit_exit:
	corsa_exit_exit();
probes_exit:
	corsa_probes_exit();
activate_exit:
	corsa_activate_exit();
duplicate_exit:
	corsa_duplicate_exit();
session_exit:
	corsa_session_exit();
	return ret;
}

/*
 * Sessions hold the module, and work that is queued on a thread holds its
 * session: so nothing of ours is pending here. What remains are threads that
 * have dropped their last reference and are about to return from our code.
 * They do not sleep there, and RCU tasks waits for all that do not sleep.
 */
static void __exit corsa_exit(void)
{
	corsa_chardev_exit();
	corsa_binder_exit();
	corsa_exit_exit();
	corsa_probes_exit();
	synchronize_rcu_tasks();
	corsa_activate_exit();
	corsa_duplicate_exit();
	corsa_session_exit();
}

module_init(corsa_init);
module_exit(corsa_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Private instances of a running process");
