/* SPDX-License-Identifier: GPL-2.0 */
/* The requests of /dev/corsa as functions, and the assertions of the tests. */
#ifndef CORSA_TEST_CORSA_H
#define CORSA_TEST_CORSA_H

#include <stdint.h>

#include "../uapi/corsa.h"
#include "service.h"

/* Each returns what ioctl() does. */
int corsa_open(void);
int corsa_attach(int dev, int pidfd, uint32_t flags);
int corsa_copy_of(int session, uint32_t src, int image, uint32_t flags,
		  struct corsa_copy *out);
/* The new id; ends the test on failure. */
uint32_t must_branch(int session, uint32_t src);
uint32_t must_image(int session, uint32_t src);
int corsa_switch_to(int session, uint32_t id, uint32_t flags, uint64_t timeout_ns,
		    uint64_t *ns);
int corsa_discard_id(int session, uint32_t id);
int corsa_restore_to(int session, uint32_t image, uint32_t instance);
int corsa_crash_policy(int session, uint32_t policy, uint32_t standby,
		       uint32_t limit, uint32_t window_ms);
int corsa_fd_edit(int session, uint32_t id, struct corsa_fd_op *ops,
		  uint32_t count, uint32_t *done);
int corsa_getfd_of(int session, uint32_t id, int fd);
int corsa_list_all(int session, struct corsa_record_info *records, uint32_t cap,
		   struct corsa_list *list);
int corsa_memory_of(int session, uint32_t id, struct corsa_memory *out);
int corsa_stats_of(int session, struct corsa_stats *out);
/* 1: one was read, 0: session over, -1: nothing within ms. */
int corsa_next_event(int session, struct corsa_event *event, int ms);

struct test {
	const char *name;
	void (*run)(void);
	int on_request;	/* long: only when it is named */
};

extern int dev;

void fail(const char *file, int line, const char *format, ...)
	__attribute__((noreturn, format(printf, 3, 4)));

#define must(condition)                                                        \
	do {                                                                   \
		if (!(condition))                                              \
			fail(__FILE__, __LINE__, "%s: %m", #condition);        \
	} while (0)

#define must_equal(got, want)                                                  \
	do {                                                                   \
		long long got_ = (got), want_ = (want);                        \
		if (got_ != want_)                                             \
			fail(__FILE__, __LINE__, "%s is %lld, want %lld",      \
			     #got, got_, want_);                               \
	} while (0)

#define must_errno(call, number)                                               \
	do {                                                                   \
		errno = 0;                                                     \
		long long ret_ = (call);                                       \
		if (ret_ != -1 || errno != (number))                           \
			fail(__FILE__, __LINE__, "%s gives %lld, %m; want %s", \
			     #call, ret_, #number);                            \
	} while (0)

/* A service, attached, and one call of it that must succeed. */
int start_attached(struct service *service, uint32_t flags);
struct reply call(struct service *service, uint32_t command, uint64_t arg);

#endif
