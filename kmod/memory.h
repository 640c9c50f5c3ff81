/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_MEMORY_H
#define CORSA_MEMORY_H

#include "uapi/corsa.h"

struct corsa_session;

/* Holds session->control. */
long corsa_memory(struct corsa_session *session, struct corsa_memory *args);

#endif
