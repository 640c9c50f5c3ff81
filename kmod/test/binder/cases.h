/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_TEST_BINDER_CASES_H
#define CORSA_TEST_BINDER_CASES_H

#include "client.h"

/* For app_steps(): count calls, of an instance that has made `done` already. */
struct steps {
	const char *device;
	uint32_t count;
	uint32_t done;
};
int app_steps(uint32_t uid, void *data);

extern const struct test route_tests[];

#endif
