/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_REFUSE_H
#define CORSA_REFUSE_H

#include <linux/types.h>

#include "uapi/corsa.h"

struct corsa_record;
struct corsa_session;
struct task_struct;

/* Collects; what does not fit is counted. */
struct corsa_refusals {
	struct corsa_refusal *list;
	u32 cap;
	u32 count;
};

/* Any context. fd 0 means descriptor 0 only for kinds that name one. */
void corsa_refuse(struct corsa_refusals *refusals, struct corsa_refusal refusal);

/*
 * Finds everything in record that cannot be virtualised. At ATTACH the process
 * is running and the answer is the best that can be had; it is asked again for
 * each copy, when it stands still.
 */
void corsa_refuse_record(struct corsa_record *record, bool attaching,
			 struct corsa_refusals *refusals);

/* The little that has to be asked on each switch. */
bool corsa_refuse_switch(struct corsa_session *session, struct corsa_record *to);

#endif
