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
int app_say(uint32_t uid, void *data);

/* What a client says once. */
struct say {
	const char *device;
	uint32_t code;
	uint32_t value;
};

extern const struct test route_tests[], call_tests[], death_tests[];
extern const struct test handle_tests[];
extern const struct test stress_tests[], bench_tests[];

#endif
