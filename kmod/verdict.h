/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a thread has to do when it is about to return to user mode. A pure
 * function of a few facts, so that it can be tested against a naive model.
 */
#ifndef CORSA_VERDICT_H
#define CORSA_VERDICT_H

#include <linux/types.h>

struct corsa_view {
	bool over;	/* the session has ended: whatever runs, runs on */
	bool parting;	/* it is detaching: threads settle for good */
	bool active;	/* there is an active instance */
	bool still;	/* ... whose threads must not run now */
	bool in_active;	/* the thread exists in it */
	bool at_active;	/* ... and is in it */
	bool doomed;	/* the record that it is in goes away */
	unsigned int copies; /* records in which the thread exists */
};

enum corsa_verdict {
	CORSA_RUN,	/* return to user mode */
	CORSA_BECOME,	/* become the active instance, then ask again */
	CORSA_RETREAT,	/* become any other record that has it, then ask */
	CORSA_PARK,	/* wait until the verdict is another */
	CORSA_LEAVE,	/* it lives nowhere any more: end */
};

enum corsa_verdict corsa_verdict(const struct corsa_view *view);

#ifdef CORSA_DEBUG
bool corsa_verdict_selftest(void);
#endif

#endif
