/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_COPY_H
#define CORSA_COPY_H

#include <linux/types.h>

#include "refuse.h"
#include "uapi/corsa.h"

struct corsa_session;

/* Both hold session->control; -EOPNOTSUPP: refusals says what. */
long corsa_copy(struct corsa_session *session, struct corsa_copy *args,
		bool image, struct corsa_refusals *refusals);
long corsa_restore(struct corsa_session *session, struct corsa_restore *args,
		   struct corsa_refusals *refusals);

#endif
