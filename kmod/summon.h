/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_SUMMON_H
#define CORSA_SUMMON_H

#include <linux/types.h>

struct corsa_record;
struct corsa_session;
struct corsa_thread;

/* Whom a switch calls, and for whom it waits. */
enum corsa_manner {
	CORSA_ALL,	/* everybody, until they have arrived */
	CORSA_LAZY,	/* who could be in the way of the new record */
	CORSA_FOR_GATE,	/* who could take what Binder queues for it */
};

/*
 * The new active record has been published, or NULL. Calls threads, and counts
 * in session->awaited those that have to arrive. True if some were left asleep
 * who have to be called some time. Holds session->lock; preemption is off.
 */
bool corsa_summon_locked(struct corsa_session *session, struct corsa_record *to,
			 enum corsa_manner manner);

/* Which thread of the record has run last? The same will the next time. */
void corsa_note_recent_locked(struct corsa_record *record);

/* In an interruptible sleep, now. */
bool corsa_asleep(struct corsa_thread *thread);

#endif
