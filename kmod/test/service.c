// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "service.h"

#define PAGE 4096
#define MAX_NEW_THREADS 64

static __thread uint64_t tls_steps;
static struct reply state;
static char *heap;
static size_t heap_size;
static uint64_t *kept_page, *wiped_page;
static int data_file = -1, data_epoll = -1;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static pthread_cond_t done = PTHREAD_COND_INITIALIZER;
static uint64_t wanted, finished;
static uint64_t worker_target;

static void note_eintr(void)
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

static void *sleep_thread(void *unused)
{
	(void)unused;
	for (;;) {
		struct timespec nap = { .tv_nsec = 3000000 };

		if (nanosleep(&nap, NULL))
			note_eintr();
		__atomic_add_fetch(&state.ticks, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *epoll_thread(void *unused)
{
	int epfd = epoll_create1(0), never = eventfd(0, 0);
	struct epoll_event event = { .events = EPOLLIN };

	(void)unused;
	epoll_ctl(epfd, EPOLL_CTL_ADD, never, &event);
	for (;;)
		if (epoll_wait(epfd, &event, 1, -1) < 0)
			note_eintr();
	return NULL;
}

static void *poll_thread(void *unused)
{
	struct pollfd never = { .fd = eventfd(0, 0), .events = POLLIN };

	(void)unused;
	for (;;)
		if (poll(&never, 1, -1) < 0)
			note_eintr();
	return NULL;
}

static void *pause_thread(void *unused)
{
	(void)unused;
	for (;;)
		pause();
	return NULL;
}

static void *spin_thread(void *unused)
{
	(void)unused;
	for (;;)
		__asm__ volatile("pause");
	return NULL;
}

/*
 * Keeps one value in vector registers for as long as it runs, in user mode and
 * across system calls, and reports what it finds there.
 */
static uint64_t vector_wanted, vector_epoch, vector_seen;

static int have_avx(void)
{
	unsigned int a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_AVX) &&
	       (c & bit_OSXSAVE);
}

static void *vector_thread(void *unused)
{
	uint64_t epoch = 0, out[16], value;
	int avx = have_avx(), i;

	(void)unused;
	for (;;) {
		uint64_t now = __atomic_load_n(&vector_epoch, __ATOMIC_ACQUIRE);

		if (now != epoch) {
			value = __atomic_load_n(&vector_wanted, __ATOMIC_RELAXED);
			/* All of the loop is one asm: nobody else may use them. */
			if (avx)
				__asm__ volatile("vmovq %0, %%xmm0\n\t"
						 "vpshufd $0x44, %%xmm0, %%xmm0\n\t"
						 "vinsertf128 $1, %%xmm0, %%ymm0, %%ymm7\n\t"
						 "vmovaps %%ymm7, %%ymm15\n\t"
						 : : "r"(value) : "xmm0", "xmm7", "xmm15");
			else
				__asm__ volatile("movq %0, %%xmm7\n\t"
						 "pshufd $0x44, %%xmm7, %%xmm7\n\t"
						 "movaps %%xmm7, %%xmm15\n\t"
						 : : "r"(value) : "xmm7", "xmm15");
			epoch = now;
		}
		/* A long stay in user mode, then a system call. */
		__asm__ volatile("movl $2000, %%ecx\n"
				 "1:\tpause\n\t"
				 "decl %%ecx\n\t"
				 "jnz 1b\n\t"
				 "movl %0, %%eax\n\t"
				 "syscall\n\t"
				 : : "i"(SYS_sched_yield)
				 : "rax", "rcx", "r11", "memory");
		if (avx)
			__asm__ volatile("vmovups %%ymm7, (%0)\n\t"
					 "vmovups %%ymm15, 32(%0)\n\t"
					 : : "r"(out) : "memory");
		else
			__asm__ volatile("movups %%xmm7, (%0)\n\t"
					 "movups %%xmm15, 32(%0)\n\t"
					 "movups %%xmm7, 16(%0)\n\t"
					 "movups %%xmm15, 48(%0)\n\t"
					 : : "r"(out) : "memory");
		value = out[0];
		for (i = 1; i < 8; i++)
			if (out[i] != value)
				value = ~0ULL;
		__atomic_store_n(&vector_seen, value, __ATOMIC_RELAXED);
		usleep(500);
	}
	return NULL;
}

static pthread_t spawn(void *(*function)(void *))
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 << 10);
	if (pthread_create(&thread, &attr, function, NULL))
		_exit(90);
	return thread;
}

/* What threads have taken that wait in a call which takes. */
static uint64_t taken[TAKERS], tapped;
static pthread_t sigwait_thread;
static int signal_fd = -1, tap[2];

static void *take_by_sigwait(void *unused)
{
	sigset_t set;

	(void)unused;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	for (;;) {
		if (sigwaitinfo(&set, NULL) == SIGUSR2)
			__atomic_add_fetch(&taken[BY_SIGWAIT], 1, __ATOMIC_RELEASE);
		else
			note_eintr();
	}
	return NULL;
}

static void *take_by_signalfd(void *unused)
{
	struct signalfd_siginfo info;

	(void)unused;
	for (;;) {
		if (read(signal_fd, &info, sizeof(info)) == sizeof(info))
			__atomic_add_fetch(&taken[BY_SIGNALFD], 1, __ATOMIC_RELEASE);
		else
			note_eintr();
	}
	return NULL;
}

static void *take_from_pipe(void *unused)
{
	char byte;

	(void)unused;
	for (;;) {
		if (read(tap[0], &byte, 1) == 1)
			__atomic_add_fetch(&tapped, 1, __ATOMIC_RELEASE);
		else
			note_eintr();
	}
	return NULL;
}

static void prepare_takers(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal_fd = signalfd(-1, &set, 0);
	if (signal_fd < 0 || pipe(tap))
		_exit(97);
	sigwait_thread = spawn(take_by_sigwait);
	spawn(take_by_signalfd);
	spawn(take_from_pipe);
}

/* A signal that is already pending would swallow the next, so one by one. */
static uint64_t tell(uint64_t taker)
{
	uint64_t before = __atomic_load_n(&taken[taker], __ATOMIC_ACQUIRE);
	int left = 4000;

	if (taker == BY_SIGWAIT)
		pthread_kill(sigwait_thread, SIGUSR2);
	else
		kill(getpid(), SIGRTMIN);
	while (__atomic_load_n(&taken[taker], __ATOMIC_ACQUIRE) == before && left--)
		usleep(500);
	return __atomic_load_n(&taken[taker], __ATOMIC_ACQUIRE);
}

/* Threads that are made and ended by command. */
static pthread_t new_threads[MAX_NEW_THREADS];
static uint64_t dismissed;
static pthread_cond_t dismissal = PTHREAD_COND_INITIALIZER;

static void *new_thread(void *arg)
{
	uint64_t index = (uint64_t)(uintptr_t)arg;

	pthread_mutex_lock(&lock);
	while (dismissed <= index)
		pthread_cond_wait(&dismissal, &lock);
	pthread_mutex_unlock(&lock);
	return arg;
}

static void thread_new(void)
{
	uint64_t index = state.threads;

	pthread_mutex_lock(&lock);
	dismissed = 0;
	pthread_mutex_unlock(&lock);
	if (pthread_create(&new_threads[index], NULL, new_thread,
			   (void *)(uintptr_t)index))
		_exit(91);
	state.threads++;
}

static void thread_exit(void)
{
	void *result;

	state.threads = 0;
	pthread_mutex_lock(&lock);
	dismissed = MAX_NEW_THREADS;
	pthread_cond_broadcast(&dismissal);
	pthread_mutex_unlock(&lock);
	state.value = pthread_join(new_threads[0], &result);
	if (result)
		state.value = 1000;
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
	state.vector = __atomic_load_n(&vector_seen, __ATOMIC_RELAXED);
	state.cwd_is_proc = getcwd(cwd, sizeof(cwd)) && !strcmp(cwd, "/proc");
	state.pid = getpid();
	state.main_tid = syscall(SYS_gettid);
}

static void set_vector(uint64_t value)
{
	__atomic_store_n(&vector_wanted, value, __ATOMIC_RELAXED);
	__atomic_add_fetch(&vector_epoch, 1, __ATOMIC_RELEASE);
	while (__atomic_load_n(&vector_seen, __ATOMIC_RELAXED) != value)
		usleep(500);
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
	case CMD_TAPPED: state.value = __atomic_load_n(&tapped, __ATOMIC_ACQUIRE); break;
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
