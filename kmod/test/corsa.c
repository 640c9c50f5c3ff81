// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "corsa.h"

int corsa_open(void)
{
	return open("/dev/corsa", O_RDWR | O_CLOEXEC);
}

static void print_refusals(const struct corsa_refusal *list, uint32_t count)
{
	uint32_t i;

	for (i = 0; i < count && i < 8; i++)
		printf("refused: kind %u tid %d fd %d code %d addr %llx\n",
		       list[i].kind, list[i].tid, list[i].fd, list[i].code,
		       (unsigned long long)list[i].addr);
}

int corsa_attach(int device, int pidfd, uint32_t flags)
{
	struct corsa_refusal refusals[8] = { 0 };
	struct corsa_attach a = { .size = sizeof(a), .pidfd = pidfd,
				  .flags = flags, .refusal_cap = 8,
				  .refusals = (uintptr_t)refusals };
	int ret = ioctl(device, CORSA_IOC_ATTACH, &a);

	if (ret < 0 && errno == EOPNOTSUPP)
		print_refusals(refusals, a.refusal_count);
	return ret;
}

int corsa_copy_of(int session, uint32_t src, int image, uint32_t flags,
		  struct corsa_copy *out)
{
	struct corsa_refusal refusals[8] = { 0 };
	struct corsa_copy c = { .size = sizeof(c), .src = src, .flags = flags,
				.refusals = (uintptr_t)refusals,
				.refusal_cap = 8 };
	int ret = ioctl(session, image ? CORSA_IOC_CHECKPOINT : CORSA_IOC_BRANCH,
			&c);

	if (ret && errno == EOPNOTSUPP)
		print_refusals(refusals, c.refusal_count);

	if (out)
		*out = c;
	return ret;
}

uint32_t must_branch(int session, uint32_t src)
{
	struct corsa_copy c;

	must(!corsa_copy_of(session, src, 0, 0, &c));
	return c.id;
}

uint32_t must_image(int session, uint32_t src)
{
	struct corsa_copy c;

	must(!corsa_copy_of(session, src, 1, 0, &c));
	return c.id;
}

int corsa_switch_to(int session, uint32_t id, uint32_t flags, uint64_t timeout_ns,
		    uint64_t *ns)
{
	struct corsa_activate a = { .size = sizeof(a), .id = id, .flags = flags,
				    .timeout_ns = timeout_ns };
	int ret = ioctl(session, CORSA_IOC_ACTIVATE, &a);

	if (ns)
		*ns = a.ns;
	return ret;
}

int corsa_discard_id(int session, uint32_t id)
{
	struct corsa_discard d = { .size = sizeof(d), .id = id };

	return ioctl(session, CORSA_IOC_DISCARD, &d);
}

int corsa_restore_to(int session, uint32_t image, uint32_t instance)
{
	struct corsa_restore r = { .size = sizeof(r), .image = image,
				   .instance = instance };

	return ioctl(session, CORSA_IOC_RESTORE, &r);
}

int corsa_crash_policy(int session, uint32_t policy, uint32_t standby,
		       uint32_t limit, uint32_t window_ms)
{
	struct corsa_crash c = { .size = sizeof(c), .policy = policy,
				 .standby = standby, .limit = limit,
				 .window_ms = window_ms };

	return ioctl(session, CORSA_IOC_CRASH, &c);
}

int corsa_fd_edit(int session, uint32_t id, struct corsa_fd_op *ops,
		  uint32_t count, uint32_t *done)
{
	struct corsa_fds f = { .size = sizeof(f), .id = id, .count = count,
			       .ops = (uintptr_t)ops };
	int ret = ioctl(session, CORSA_IOC_FDS, &f);

	if (done)
		*done = f.done;
	return ret;
}

int corsa_getfd_of(int session, uint32_t id, int fd)
{
	struct corsa_getfd g = { .size = sizeof(g), .id = id, .fd = fd };

	return ioctl(session, CORSA_IOC_GETFD, &g);
}

int corsa_list_all(int session, struct corsa_record_info *records, uint32_t cap,
		   struct corsa_list *list)
{
	*list = (struct corsa_list){ .size = sizeof(*list), .cap = cap,
				     .records = (uintptr_t)records };
	return ioctl(session, CORSA_IOC_LIST, list);
}

int corsa_memory_of(int session, uint32_t id, struct corsa_memory *out)
{
	*out = (struct corsa_memory){ .size = sizeof(*out), .id = id };
	return ioctl(session, CORSA_IOC_MEMORY, out);
}

int corsa_stats_of(int session, struct corsa_stats *out)
{
	memset(out, 0, sizeof(*out));
	out->size = sizeof(*out);
	return ioctl(session, CORSA_IOC_STATS, out);
}

int corsa_next_event(int session, struct corsa_event *event, int ms)
{
	struct pollfd p = { .fd = session, .events = POLLIN };

	if (poll(&p, 1, ms) <= 0)
		return -1;
	return read(session, event, sizeof(*event)) == sizeof(*event);
}

int start_attached(struct service *service, uint32_t flags)
{
	struct service_options options = { .heap = 1 << 20 };
	int session;

	must(!service_start(service, &options));
	session = corsa_attach(dev, service->pidfd, flags);
	must(session >= 0);
	return session;
}

struct reply call(struct service *service, uint32_t command, uint64_t arg)
{
	struct reply reply;

	if (service_call(service, command, arg, &reply))
		fail("service", command, "no answer: %m");
	must_equal(reply.eintr, 0);
	must_equal(reply.pid, service->pid);
	must_equal(reply.main_tid, service->pid);
	return reply;
}

void fail(const char *file, int line, const char *format, ...)
{
	int saved = errno;
	va_list args;

	printf("FAIL %s:%d: ", file, line);
	va_start(args, format);
	errno = saved;
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	_exit(1);
}
