/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_STILL_H
#define CORSA_STILL_H

#include <linux/types.h>

#include "summon.h"

struct corsa_record;
struct corsa_session;

/* All hold session->control. */

/* See CORSA_ACTIVATE_BOUNDARY. -EBUSY, -EINTR, -ESRCH: it runs on. */
int corsa_park_at_boundary(struct corsa_session *session, u64 timeout_ns,
			   enum corsa_manner manner);

/*
 * Stops all threads that are in record, or could get there, with their state
 * saved. -EBUSY, -EINTR, -ESRCH: nothing is stopped.
 */
int corsa_freeze(struct corsa_record *record);
void corsa_thaw(struct corsa_record *record);

#endif
