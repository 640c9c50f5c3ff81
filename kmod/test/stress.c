// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"

static uint64_t seed;

static uint32_t random_below(uint32_t limit)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(seed >> 33) % limit;
}

/*
 * A naive model: for each record that there should be, what it should say.
 * Random requests go to both, and whatever is active is compared.
 */
#define RECORDS 12

struct horrible_record {
	int used, image;
	uint32_t id;
	uint64_t steps, tag, vector;
};

static struct horrible_record *pick(struct horrible_record *records, int image)
{
	int tries, i;

	for (tries = 0; tries < 50; tries++) {
		i = random_below(RECORDS);
		if (records[i].used && (image < 0 || records[i].image == image))
			return &records[i];
	}
	return NULL;
}

static void compare(struct service *service, const struct horrible_record *want)
{
	struct reply got = call(service, CMD_LOOK, 0);

	must_equal(got.steps, want->steps);
	must_equal(got.main_tls, want->steps);
	must_equal(got.worker_tls, want->steps);
	must_equal(got.file_offset, want->steps);
	must_equal(got.kept_page, want->steps);
	must_equal(got.heap_tag, want->tag);
	must_equal(got.vector, want->vector);
}

static void copy_one(int session, struct horrible_record *records, int image)
{
	struct horrible_record *from = pick(records, -1);
	int i;

	for (i = 0; i < RECORDS && records[i].used; i++)
		;
	if (i == RECORDS)
		return;
	records[i] = *from;
	records[i].image = image;
	records[i].id = image ? must_image(session, from->id) :
				must_branch(session, from->id);
}

static void random_operation(int session, struct service *service,
			     struct horrible_record *records,
			     struct horrible_record **active)
{
	static const uint32_t flags[] = { 0, CORSA_ACTIVATE_LAZY,
					  CORSA_ACTIVATE_HOLD,
					  CORSA_ACTIVATE_BOUNDARY,
					  CORSA_ACTIVATE_BOUNDARY |
					  CORSA_ACTIVATE_LAZY };
	struct horrible_record *one;
	uint32_t id;

	switch (random_below(10)) {
	case 0:
		copy_one(session, records, 0);
		break;
	case 1:
		copy_one(session, records, 1);
		break;
	case 2:
		one = pick(records, -1);
		if (one && one != *active) {
			must(!corsa_discard_id(session, one->id));
			one->used = 0;
		}
		break;
	case 3:
		one = pick(records, 0);
		if (one && pick(records, 1)) {
			struct horrible_record *image = pick(records, 1);

			if (!image)
				break;
			must(!corsa_restore_to(session, image->id, one->id));
			id = one->id;
			*one = *image;
			one->image = 0;
			one->id = id;
		}
		break;
	case 4:
		must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
		must(!corsa_switch_to(session, (*active)->id, 0, 0, NULL));
		break;
	case 5:
		(*active)->tag = random_below(1000000);
		call(service, CMD_TAG, (*active)->tag);
		break;
	case 6:
		(*active)->vector = 1 + random_below(1000000);
		call(service, CMD_VECTOR, (*active)->vector);
		break;
	default:
		one = pick(records, 0);
		if (!one)
			break;
		if (corsa_switch_to(session, one->id, flags[random_below(5)],
				    5000000, NULL))
			must(errno == EBUSY); /* at no boundary in 5 ms */
		/* The socket is shared: nobody may be late for a command. */
		must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
		must(!corsa_switch_to(session, one->id, 0, 0, NULL));
		*active = one;
	}
	if (random_below(3)) {
		call(service, CMD_STEP, 0);
		(*active)->steps++;
	}
	compare(service, *active);
}

static void model(const struct service_options *options, int rounds)
{
	struct horrible_record records[RECORDS] = { { .used = 1 } };
	struct horrible_record *active = records;
	struct service service;
	int session, i;

	must(!service_start(&service, options));
	session = corsa_attach(dev, service.pidfd, 0);
	must(session >= 0);
	records[0].vector = call(&service, CMD_LOOK, 0).vector;
	call(&service, CMD_VECTOR, 1);
	records[0].vector = 1;
	for (i = 0; i < rounds; i++)
		random_operation(session, &service, records, &active);
	close(session);
	compare(&service, active);
	service_stop(&service);
}

static void test_model(void)
{
	struct service_options options = { .heap = 256 << 10 };

	seed = time(NULL);
	printf("seed %llu\n", (unsigned long long)seed);
	model(&options, 300);
}

static void test_model_long(void)
{
	struct service_options options = { .heap = 64 << 10, .idle_threads = 9,
					   .spin = 1 };

	seed = time(NULL);
	printf("seed %llu\n", (unsigned long long)seed);
	model(&options, 4000);
}

/* kB of kernel memory and of pages that processes own. */
static long used_now_kb(void)
{
	char line[128];
	long sum = 0, kb;
	FILE *file;

	file = fopen("/proc/sys/vm/drop_caches", "w");
	must(file);
	fputs("3", file);
	fclose(file);
	file = fopen("/proc/meminfo", "r");
	must(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "SUnreclaim: %ld", &kb) == 1 ||
		    sscanf(line, "AnonPages: %ld", &kb) == 1 ||
		    sscanf(line, "PageTables: %ld", &kb) == 1 ||
		    sscanf(line, "KernelStack: %ld", &kb) == 1)
			sum += kb;
	fclose(file);
	return sum;
}

/* When workers and RCU have freed what they are going to. */
static long used_kb(void)
{
	long least = used_now_kb(), now;
	int unchanged = 0;

	while (unchanged < 5) {
		usleep(200000);
		now = used_now_kb();
		unchanged = now < least - 32 ? 0 : unchanged + 1;
		if (now < least)
			least = now;
	}
	return least;
}

static void churn(struct service *service, int session, uint32_t other,
		  int switches, int checkpoints)
{
	uint32_t id;
	int i;

	for (i = 0; i < switches; i++)
		must(!corsa_switch_to(session, i % 2 ? 0 : other,
				      i % 3 ? CORSA_ACTIVATE_LAZY : 0, 0, NULL));
	for (i = 0; i < checkpoints; i++) {
		id = must_image(session, i % 2 ? 0 : other);
		if (i % 10 == 0)
			must(!corsa_restore_to(session, id, other));
		must(!corsa_discard_id(session, id));
		if (i % 50 == 0) {
			must(!corsa_switch_to(session, CORSA_NONE, 0, 0, NULL));
			must(!corsa_switch_to(session, 0, 0, 0, NULL));
			call(service, CMD_TAG, i);
		}
	}
	must(!corsa_switch_to(session, 0, 0, 0, NULL));
}

/* What the first half leaves behind stays; the second must add nothing. */
static void leak(int switches, int checkpoints, long allowed_kb)
{
	struct service service;
	int session = start_attached(&service, 0);
	uint32_t other = must_branch(session, 0);
	long before, half, after;

	churn(&service, session, other, 20, 2);
	before = used_kb();
	churn(&service, session, other, switches / 2, checkpoints / 2);
	half = used_kb();
	churn(&service, session, other, switches / 2, checkpoints / 2);
	after = used_kb();
	printf("%d switches, %d checkpoints: %ld kB, %ld kB at half, %ld kB\n",
	       switches, checkpoints, before, half, after);
	/* Such a kernel keeps what was freed, but knows what was lost. */
	if (access("/sys/kernel/debug/kmemleak", F_OK))
		must(after - half < allowed_kb);
	must_be_at(&service, 0);
	close(session);
	service_stop(&service);
}

static void test_leak(void)
{
	leak(1000, 100, 1024);
}

/* A record is tens of kB, so one lost in twenty would be seen. */
static void test_leak_long(void)
{
	leak(10000, 1000, 1024);
}

static void hammer(int session, uint32_t other)
{
	static const uint32_t flags[] = { 0, CORSA_ACTIVATE_LAZY,
					  CORSA_ACTIVATE_HOLD,
					  CORSA_ACTIVATE_BOUNDARY,
					  CORSA_ACTIVATE_BOUNDARY |
					  CORSA_ACTIVATE_LAZY };
	struct corsa_copy copy;

	for (;;) {
		uint32_t to = random_below(3);

		corsa_switch_to(session, to == 2 ? CORSA_NONE : to ? other : 0,
				flags[random_below(5)], 2000000, NULL);
		if (!random_below(6) &&
		    !corsa_copy_of(session, random_below(2) ? 0 : other,
				   random_below(2), 0, &copy)) {
			if (random_below(2))
				corsa_restore_to(session, copy.id, other);
			if (random_below(4))
				corsa_discard_id(session, copy.id);
		}
	}
}

static void strike(struct service *service, int session, uint32_t how)
{
	struct corsa_detach detach = { .size = sizeof(detach) };
	struct request request = { .arg = 0x10 };

	switch (how) {
	case 0: kill(service->pid, SIGKILL); return;
	case 1: kill(service->pid, SIGTERM); return;
	case 2: request.command = CMD_EXIT; break;
	case 3: request.command = CMD_EXEC; break;
	case 4: request.command = CMD_SEGV; break;
	case 5: request.command = CMD_WORKER_SEGV; break;
	case 6: request.command = CMD_FORK; break;
	case 7: request.command = CMD_SPAWN; break;
	case 8: request.command = CMD_THREAD_NEW; break;
	case 9: ioctl(session, CORSA_IOC_DETACH, &detach); return;
	default: return; /* only the hammer dies */
	}
	send(service->fd, &request, sizeof(request), MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int unload_is_refused(void)
{
	return syscall(SYS_delete_module, "corsa", 04000 /* O_NONBLOCK */) &&
	       (errno == EWOULDBLOCK || errno == EBUSY);
}

/* Something happens at a random instant while another process hammers. */
static void chaos_round(int round)
{
	struct service_options options = { .heap = 64 << 10,
					   .spin = random_below(4) == 0 };
	struct service service;
	struct corsa_event event;
	uint32_t other, policy;
	int session, status;
	pid_t pid;

	must(!service_start(&service, &options));
	session = corsa_attach(dev, service.pidfd,
			       random_below(2) ? CORSA_ATTACH_PERSIST : 0);
	must(session >= 0);
	other = must_branch(session, 0);
	policy = random_below(3);
	if (policy == CORSA_CRASH_STANDBY)
		must(!corsa_crash_policy(session, policy,
					 must_branch(session, 0), 0, 0));
	else
		must(!corsa_crash_policy(session, policy, CORSA_NONE, 0, 0));
	pid = fork();
	must(pid >= 0);
	if (!pid) {
		seed += round;
		hammer(session, other);
	}
	usleep(random_below(15000));
	strike(&service, session, random_below(11));
	if (random_below(2))
		strike(&service, session, random_below(11));
	if (!random_below(4))
		must(unload_is_refused());
	usleep(random_below(10000));
	while (corsa_next_event(session, &event, 0) == 1)
		;
	if (random_below(2))
		close(session);
	else
		session = -1 - session;
	kill(pid, SIGKILL);
	must(waitpid(pid, &status, 0) == pid);
	if (session < 0)
		close(-1 - session);
	service_stop(&service);
}

static void chaos(int rounds)
{
	int i;

	seed = time(NULL);
	printf("seed %llu\n", (unsigned long long)seed);
	must(unload_is_refused());
	for (i = 0; i < rounds; i++) {
		uint64_t before = seed;

		alarm(60);
		chaos_round(i);
		seed = before * 31 + i;
	}
}

static void test_chaos(void)
{
	chaos(60);
}

static void test_chaos_long(void)
{
	chaos(1000);
}

const struct test stress_tests[] = {
	{ "model", test_model, 0 },
	{ "leak", test_leak, 0 },
	{ "chaos", test_chaos, 0 },
	{ "long-model", test_model_long, 1 },
	{ "long-leak", test_leak_long, 1 },
	{ "long-chaos", test_chaos_long, 1 },
	{ 0 },
};
