/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_FDS_H
#define CORSA_FDS_H

#include "uapi/corsa.h"

struct corsa_session;

/* Both hold session->control. */
long corsa_fds(struct corsa_session *session, struct corsa_fds *args);
long corsa_getfd(struct corsa_session *session, const struct corsa_getfd *args);

#endif
