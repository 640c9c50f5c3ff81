// SPDX-License-Identifier: GPL-2.0
/*
 * Tests of the module alone, to be run as root where it is loaded:
 *
 *	corsa-test [name...]	all but the long ones, or those whose names begin so
 *
 * Each test runs in a process of its own. "idle" and "exit-with N" are what the
 * service under test executes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cases.h"

int dev;

static const struct test *const groups[] = {
	switch_tests, lazy_tests, copy_tests, crash_tests, life_tests, fd_tests,
	stress_tests, bench_tests,
};

static int selected(const struct test *test, int argc, char **argv)
{
	int i;

	for (i = 1; i < argc; i++)
		if (!strncmp(test->name, argv[i], strlen(argv[i])))
			return 1;
	return argc < 2 && !test->on_request;
}

static int run(const struct test *test)
{
	struct timespec begin, end;
	int status = 0;
	pid_t pid;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(test->on_request ? 3600 : 600);
		dev = corsa_open();
		must(dev >= 0);
		test->run();
		fflush(stdout);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%s %s (%.2f s)\n", status ? "FAIL" : "ok  ", test->name,
	       (end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) / 1e9);
	fflush(stdout);
	return status != 0;
}

int main(int argc, char **argv)
{
	const struct test *test;
	int failed = 0, count = 0;
	size_t group;

	if (argc == 2 && !strcmp(argv[1], "idle")) {
		sleep(3600);
		return 0;
	}
	if (argc == 3 && !strcmp(argv[1], "exit-with"))
		return atoi(argv[2]);
	if (!strcmp(argv[0], "exit"))
		return atoi(argv[argc - 1]);
	for (group = 0; group < sizeof(groups) / sizeof(groups[0]); group++)
		for (test = groups[group]; test->name; test++)
			if (selected(test, argc, argv)) {
				count++;
				failed += run(test);
			}
	printf("%d of %d failed\n", failed, count);
	return failed || !count;
}
