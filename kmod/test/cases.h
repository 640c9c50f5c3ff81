/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_TEST_CASES_H
#define CORSA_TEST_CASES_H

#include "corsa.h"

/* The active instance has made so many steps, in every kind of state. */
void must_be_at(struct service *service, uint64_t steps);
void step(struct service *service, int times);
/* The service does not answer within ms; what it would say is still to come. */
void must_be_silent(struct service *service, int ms);
/* The answer to a command that must_be_silent() sent. */
struct reply late_answer(struct service *service);

/* A socket of its own for the instance, as LAZY asks for; the other end. */
int own_socket(struct service *service, int session, uint32_t id);

/* The service's n-th descriptor that links to something with text in it. */
int find_fd(struct service *service, const char *text, int n);

extern const struct test switch_tests[], lazy_tests[], copy_tests[], crash_tests[];
extern const struct test life_tests[], fd_tests[], stress_tests[];
extern const struct test bench_tests[];

#endif
