// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "service.h"
#include "service_threads.h"

#define PAGE 4096

struct reply state;
static __thread uint64_t tls_steps;
static char *heap;
static size_t heap_size;
static uint64_t *kept_page, *wiped_page;
static int data_file = -1, data_epoll = -1;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static pthread_cond_t done = PTHREAD_COND_INITIALIZER;
static uint64_t wanted, finished;
static uint64_t worker_target;

void note_eintr(void)
{
	if (errno == EINTR)
		__atomic_add_fetch(&state.eintr, 1, __ATOMIC_RELAXED);
}

static void *worker_thread(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&lock);
	for (;;) {
		while (wanted == finished)
			pthread_cond_wait(&work, &lock);
		if (worker_target)
			*(volatile uint64_t *)worker_target = 1;
		state.worker_tls = ++tls_steps;
		finished++;
		pthread_cond_signal(&done);
	}
	return NULL;
}

static volatile uint64_t handled[4];
static void handle_1(int signo) { (void)signo; handled[1]++; }
static void handle_2(int signo) { (void)signo; handled[2]++; }

static void do_signal(uint64_t number)
{
	struct sigaction action = { .sa_handler = number == 1 ? handle_1 : handle_2 };

	if (number)
		sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
	state.handled = handled[1] + 1000 * handled[2];
}

static uint64_t do_fork(uint64_t code)
{
	int status = -1;
	pid_t pid = fork();

	if (!pid)
		_exit(code);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

static uint64_t do_spawn(uint64_t code)
{
	char text[32];
	int status = -1;
	pid_t pid;

	snprintf(text, sizeof(text), "%llu", (unsigned long long)code);
	pid = vfork();
	if (!pid) {
		execl("/proc/self/exe", "exit", "exit-with", text, NULL);
		_exit(92);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

static uint64_t read_tag(void)
{
	uint64_t tag = heap_size ? *(uint64_t *)heap : 0;
	size_t i;

	for (i = 0; i < heap_size; i += PAGE)
		if (*(uint64_t *)(heap + i) != tag)
			return ~0ULL;
	return tag;
}

static void step(void)
{
	char byte = 'x';

	state.steps++;
	state.main_tls = ++tls_steps;
	(*kept_page)++;
	(*wiped_page)++;
	if (write(data_file, &byte, 1) != 1)
		state.eintr += 1000;
	pthread_mutex_lock(&lock);
	wanted++;
	pthread_cond_signal(&work);
	while (finished != wanted)
		pthread_cond_wait(&done, &lock);
	pthread_mutex_unlock(&lock);
}

static void look(void)
{
	char cwd[64];

	state.heap_tag = read_tag();
	state.file_offset = lseek(data_file, 0, SEEK_CUR);
	state.kept_page = *kept_page;
	state.vector = look_at_vector();
	state.cwd_is_proc = getcwd(cwd, sizeof(cwd)) && !strcmp(cwd, "/proc");
	state.pid = getpid();
	state.main_tid = syscall(SYS_gettid);
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t time_fork(uint64_t rounds)
{
	struct timespec begin, end;
	uint64_t ns[64], i;

	if (!rounds || rounds > 64)
		return 0;
	for (i = 0; i < rounds; i++) {
		pid_t pid;

		clock_gettime(CLOCK_MONOTONIC, &begin);
		pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
		if (!pid)
			_exit(0);
		clock_gettime(CLOCK_MONOTONIC, &end);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		ns[i] = (end.tv_sec - begin.tv_sec) * 1000000000ULL +
			end.tv_nsec - begin.tv_nsec;
	}
	qsort(ns, rounds, sizeof(ns[0]), ascending);
	return ns[rounds / 2];
}

static uint64_t ask_epoll(void)
{
	struct epoll_event event;

	return epoll_wait(data_epoll, &event, 1, 0) == 1 ? event.data.u64 : 0;
}

static void obey(const struct request *request)
{
	struct flock flock = { .l_type = F_WRLCK };
	size_t i;

	switch (request->command) {
	case CMD_STEP: step(); break;
	case CMD_TAG:
		for (i = 0; i < heap_size; i += PAGE)
			*(uint64_t *)(heap + i) = request->arg;
		break;
	case CMD_SEGV: *(volatile uint64_t *)request->arg = 1; break;
	case CMD_ABORT: abort();
	case CMD_JUMP: ((void (*)(void))request->arg)(); break;
	case CMD_WORKER_SEGV: worker_target = request->arg; step(); break;
	case CMD_EXIT: exit(request->arg);
	case CMD_THREAD_NEW: thread_new(); break;
	case CMD_THREAD_EXIT: thread_exit(); break;
	case CMD_CHDIR:
		if (chdir(request->arg ? "/proc" : "/"))
			state.eintr += 1000;
		break;
	case CMD_SIGNAL: do_signal(request->arg); break;
	case CMD_FORK: state.value = do_fork(request->arg); break;
	case CMD_SPAWN: state.value = do_spawn(request->arg); break;
	case CMD_EXEC: execl("/proc/self/exe", "test", "idle", NULL); break;
	case CMD_VECTOR: set_vector(request->arg); break;
	case CMD_LOCK: state.value = fcntl(data_file, F_SETLK, &flock); break;
	case CMD_WIPE: state.value = *wiped_page; break;
	case CMD_EPOLL: state.value = ask_epoll(); break;
	case CMD_NAP: usleep(request->arg * 1000); break;
	case CMD_TELL: state.value = tell(request->arg); break;
	case CMD_TAPPED: state.value = tapped_bytes(); break;
	case CMD_TAP: state.value = tap[request->arg & 1]; break;
	case CMD_TIME_FORK: state.value = time_fork(request->arg); break;
	case CMD_QUIT: _exit(0);
	}
}

static void prepare(const struct service_options *options)
{
	int i;

	heap_size = options->heap;
	if (heap_size)
		heap = mmap(NULL, heap_size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	kept_page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	wiped_page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (heap == MAP_FAILED || kept_page == MAP_FAILED)
		_exit(93);
	madvise(kept_page, PAGE, MADV_DONTFORK);
	madvise(wiped_page, PAGE, MADV_WIPEONFORK);
	*wiped_page = 7000;
	/* Every second page readable only, so that they stay apart. */
	for (i = 0; i < options->areas; i++)
		if (mmap(NULL, PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
			_exit(94);
	data_file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
	data_epoll = epoll_create1(0);
	if (data_file < 0)
		_exit(95);
	if (options->bare)
		return;
	if (options->takers)
		prepare_takers();
	spawn(worker_thread);
	spawn(sleep_thread);
	spawn(epoll_thread);
	spawn(poll_thread);
	spawn(vector_thread);
	if (options->spin)
		spawn(spin_thread);
	for (i = 0; i < options->idle_threads; i++)
		spawn(pause_thread);
}

static void serve(int fd, const struct service_options *options)
{
	struct request request;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prepare(options);
	for (;;) {
		ssize_t got = read(fd, &request, sizeof(request));

		if (got < 0) {
			note_eintr();
			continue;
		}
		if (got != sizeof(request))
			_exit(0);
		obey(&request);
		if (request.command != CMD_PING)
			look();
		if (write(fd, &state, sizeof(state)) != sizeof(state))
			_exit(96);
	}
}

int service_start(struct service *service, const struct service_options *options)
{
	struct timeval patience = { .tv_sec = 10 };
	struct reply reply;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -1;
	service->pid = fork();
	if (service->pid < 0)
		return -1;
	if (!service->pid) {
		close(pair[0]);
		serve(pair[1], options);
	}
	close(pair[1]);
	service->fd = pair[0];
	setsockopt(service->fd, SOL_SOCKET, SO_RCVTIMEO, &patience,
		   sizeof(patience));
	service->pidfd = syscall(SYS_pidfd_open, service->pid, 0);
	if (service->pidfd < 0)
		return -1;
	return service_call(service, CMD_LOOK, 0, &reply);
}

int service_call(struct service *service, uint32_t command, uint64_t arg,
		 struct reply *reply)
{
	struct request request = { .command = command, .arg = arg };
	ssize_t got;

	if (send(service->fd, &request, sizeof(request), MSG_NOSIGNAL) < 0)
		return -1;
	got = recv(service->fd, reply, sizeof(*reply), 0);
	if (got == sizeof(*reply))
		return 0;
	if (!got)
		errno = EPIPE;
	else if (errno == EAGAIN)
		errno = ETIMEDOUT;
	return -1;
}

int service_stop(struct service *service)
{
	int status = -1;

	kill(service->pid, SIGKILL);
	while (waitpid(service->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(service->fd);
	close(service->pidfd);
	return status;
}
