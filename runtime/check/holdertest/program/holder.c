// holder gets hold of one kernel object, prints "ready" and keeps it until its standard input ends.
// A first line that begins with "skip: " says that this kernel does not give the object out.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <mqueue.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const size_t page = 4096;
static char **args;

static void announce(const char *line) {
	size_t n = strlen(line);
	if (write(1, line, n) != (ssize_t)n || write(1, "\n", 1) != 1)
		_exit(3);
}

static void skip(const char *what) {
	char line[200];
	snprintf(line, sizeof line, "skip: %s: %s", what, strerror(errno));
	announce(line);
	_exit(0);
}

static void need(int ok, const char *what) {
	if (!ok)
		skip(what);
}

// hold waits for the end of standard input with one system call, so that strict seccomp allows it.
static void hold(void) {
	char c;
	while (read(0, &c, 1) > 0)
		;
	syscall(SYS_exit, 0);
}

static int fd_at(int fd, int number) {
	need(fd >= 0, "descriptor");
	dup2(fd, number);
	close(fd);
	return number;
}

static void *map(size_t n, int flags, int fd) {
	void *p = mmap(0, n, PROT_READ | PROT_WRITE, flags, fd, 0);
	need(p != MAP_FAILED, "mmap");
	return p;
}

static void io_uring(void) {
	struct io_uring_params params = {0};
	int fd = syscall(SYS_io_uring_setup, 4, &params);
	fd_at(fd, 17);
	map(params.sq_off.array + params.sq_entries * 4, MAP_SHARED, 17);
}

static void aio(void) {
	aio_context_t context = 0;
	need(syscall(SYS_io_setup, 8, &context) == 0, "io_setup");
}

static void userfaultfd(void) { fd_at(syscall(SYS_userfaultfd, O_CLOEXEC), 17); }

static void perf(void) {
	struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_TASK_CLOCK};
	fd_at(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0), 17);
}

static void bpf(void) {
	union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
	fd_at(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr), 17);
}

static void inotify(void) { need(inotify_add_watch(fd_at(inotify_init1(0), 17), "/", IN_DELETE_SELF) > 0, "inotify_add_watch"); }

static void inotify_waiting(void) {
	int wd = inotify_add_watch(fd_at(inotify_init1(0), 17), "/", IN_DELETE_SELF);
	need(inotify_rm_watch(17, wd) == 0, "inotify_rm_watch");
}

static void fanotify(void) { fd_at(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY), 17); }
static void pidfd(void) { fd_at(syscall(SYS_pidfd_open, getppid(), 0), 17); }
static void netlink(void) { fd_at(socket(AF_NETLINK, SOCK_RAW, 0), 17); }
static void packet(void) { fd_at(socket(AF_PACKET, SOCK_RAW, 0), 17); }
static void file(void) { fd_at(open(args[0], O_RDWR | O_CREAT | O_APPEND, 0600), 17); }
static void fifo(void) { fd_at(open(args[0], O_RDWR), 17); }
static void procfile(void) { fd_at(open("/proc/self/stat", O_RDONLY), 17); }
static void device(void) { fd_at(open(args[0], O_RDONLY | O_NONBLOCK), 17); }
static void mqueue(void) { fd_at(mq_open(args[0], O_RDWR | O_CREAT, 0600, 0), 17); mq_unlink(args[0]); }
static void memfd(void) { fd_at(memfd_create("cache", 0), 17); }

static struct sockaddr_in loopback(void) {
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(atoi(args[0]))};
	return a;
}

static void udp(void) {
	struct sockaddr_in a = loopback();
	fd_at(socket(AF_INET, SOCK_DGRAM, 0), 17);
	need(bind(17, (void *)&a, sizeof a) == 0, "bind");
}

static void tcp_connected(void) {
	struct sockaddr_in a = loopback();
	fd_at(socket(AF_INET, SOCK_STREAM, 0), 17);
	need(connect(17, (void *)&a, sizeof a) == 0, "connect");
}

static void tcp_fresh(void) { fd_at(socket(AF_INET, SOCK_STREAM, 0), 17); }

static void tcp_listen(void) {
	struct sockaddr_in a = loopback();
	if (args[1])
		a.sin_addr.s_addr = INADDR_ANY;
	fd_at(socket(AF_INET, SOCK_STREAM, 0), 17);
	need(bind(17, (void *)&a, sizeof a) == 0 && listen(17, 5) == 0, "listen");
}

// reuseport listens twice on one port; a duplicate of one of the two makes no difference.
static void reuseport(void) {
	struct sockaddr_in a = loopback();
	int one = 1;
	for (int fd = 17; fd <= 18; fd++) {
		fd_at(socket(AF_INET, SOCK_STREAM, 0), fd);
		setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
		need(bind(fd, (void *)&a, sizeof a) == 0 && listen(fd, 5) == 0, "listen");
	}
	dup2(17, 19);
}

static struct sockaddr_un local(void) {
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strncpy(a.sun_path, args[0], sizeof a.sun_path - 1);
	return a;
}

static void unix_connected(void) {
	struct sockaddr_un a = local();
	fd_at(socket(AF_UNIX, SOCK_STREAM, 0), 17);
	need(connect(17, (void *)&a, sizeof a) == 0, "connect");
}

static void unix_listen(void) {
	struct sockaddr_un a = local();
	fd_at(socket(AF_UNIX, SOCK_STREAM, 0), 17);
	need(bind(17, (void *)&a, sizeof a) == 0 && listen(17, 5) == 0, "listen");
}

static void unix_self(void) {
	struct sockaddr_un a = local();
	unix_listen();
	fd_at(socket(AF_UNIX, SOCK_STREAM, 0), 18);
	need(connect(18, (void *)&a, sizeof a) == 0, "connect");
	fd_at(accept(17, 0, 0), 19);
}

static void pair_at(int type) {
	int s[2];
	need(socketpair(AF_UNIX, type, 0, s) == 0, "socketpair");
	fd_at(s[0], 17);
	fd_at(s[1], 18);
}

static void dgram_pair(void) { pair_at(SOCK_DGRAM); }

static void hung_up(void) {
	pair_at(SOCK_STREAM);
	close(18);
}

static void in_flight(void) {
	pair_at(SOCK_STREAM);
	char data = 'x', control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {&data, 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memset(CMSG_DATA(c), 0, sizeof(int));
	need(sendmsg(17, &msg, 0) == 1, "sendmsg");
}

static void shared_file(void) {
	int fd = open(args[0], O_RDWR);
	need(fd >= 0, "open");
	map(page, MAP_SHARED, fd);
	close(fd);
}

static void sysv(void) {
	int id = shmget(IPC_PRIVATE, page, 0600);
	need(id >= 0, "shmget");
	void *p = shmat(id, 0, 0);
	shmctl(id, IPC_RMID, 0);
	need(p != (void *)-1, "shmat");
}

static void memfd_mapped(void) {
	int fd = memfd_create("cache", 0);
	need(fd >= 0 && ftruncate(fd, page) == 0, "memfd_create");
	map(page, MAP_SHARED, fd);
	close(fd);
}

static void deleted(void) {
	fd_at(open(args[0], O_RDWR | O_CREAT, 0600), 17);
	unlink(args[0]);
}

static void locked_file(void) {
	fd_at(open(args[0], O_RDONLY), 17);
	need(flock(17, LOCK_EX | LOCK_NB) == 0, "flock");
}

static void posix_lock(void) {
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
	fd_at(open(args[0], O_RDONLY), 17);
	need(fcntl(17, F_SETLK, &lock) == 0, "F_SETLK");
}

static void hugetlb(void) {
	void *p = mmap(0, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
	need(p != MAP_FAILED, "mmap MAP_HUGETLB");
}

static void advise(int advice) {
	void *p = map(4 * page, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	need(madvise(p, 4 * page, advice) == 0, "madvise");
}

static void dontfork(void) { advise(MADV_DONTFORK); }
static void wipeonfork(void) { advise(MADV_WIPEONFORK); }
static void locked_memory(void) { need(mlock(map(page, MAP_PRIVATE | MAP_ANONYMOUS, -1), page) == 0, "mlock"); }

// forked returns once the child has its name; the child ends with its parent.
static pid_t forked(void (*work)(void)) {
	int named[2];
	char c;
	need(pipe(named) == 0, "pipe");
	pid_t pid = fork();
	need(pid >= 0, "fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "helper");
		close(named[0]);
		close(named[1]);
		work();
		_exit(0);
	}
	close(named[1]);
	while (read(named[0], &c, 1) > 0)
		;
	close(named[0]);
	return pid;
}

static void pause_forever(void) {
	for (;;)
		pause();
}

static void nothing(void) {}
static void child(void) { forked(pause_forever); }

static void zombie(void) {
	siginfo_t info;
	waitid(P_PID, forked(nothing), &info, WEXITED | WNOWAIT);
}

static void trace_parent(void) {
	if (ptrace(PTRACE_SEIZE, getppid(), 0, 0))
		_exit(1);
	pause_forever();
}

// traced returns once the tracer is there, which /proc says.
static void traced(void) {
	forked(trace_parent);
	for (;;) {
		char line[200];
		FILE *f = fopen("/proc/self/status", "r");
		int tracer = 0;
		while (fgets(line, sizeof line, f))
			sscanf(line, "TracerPid: %d", &tracer);
		fclose(f);
		if (tracer)
			return;
		usleep(1000);
	}
}

static void timer(void) {
	timer_t id;
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	need(timer_create(CLOCK_MONOTONIC, &event, &id) == 0, "timer_create");
}

static void strict(void) {
	announce("ready");
	need(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0, "seccomp");
	hold();
}

static void filter(void) {
	struct sock_filter allow = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
	struct sock_fprog program = {1, &allow};
	need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp");
}

static pthread_barrier_t barrier;
static void (*thread_work)(void);

static void *thread_main(void *unused) {
	(void)unused;
	prctl(PR_SET_NAME, "worker");
	thread_work();
	pthread_barrier_wait(&barrier);
	pause_forever();
	return 0;
}

static void in_thread(void (*work)(void)) {
	pthread_t thread;
	thread_work = work;
	pthread_barrier_init(&barrier, 0, 2);
	need(pthread_create(&thread, 0, thread_main, 0) == 0, "pthread_create");
	pthread_barrier_wait(&barrier);
}

static void own_files(void) { need(unshare(CLONE_FILES) == 0, "unshare"); }
static void own_directory(void) { need(unshare(CLONE_FS) == 0, "unshare"); }
static void own_network(void) { need(unshare(CLONE_NEWNET) == 0, "unshare"); }
static void own_ids(void) { need(syscall(SYS_setresuid, 65534, 65534, 65534) == 0, "setresuid"); }
static void thread_files(void) { in_thread(own_files); }
static void thread_directory(void) { in_thread(own_directory); }
static void thread_network(void) { in_thread(own_network); }
static void thread_ids(void) { in_thread(own_ids); }
static void thread_filter(void) { in_thread(filter); }

static void leader_exit(void) {
	in_thread(nothing);
	announce("ready");
	syscall(SYS_exit, 0);
}

static void pending(void) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, 0);
	raise(SIGUSR1); // for the thread
	kill(getpid(), SIGUSR1);
}

static void async_io(void) {
	pair_at(SOCK_STREAM);
	need(fcntl(17, F_SETFL, O_ASYNC) == 0, "O_ASYNC");
}

// gone_epoll watches a file that only a child holds open.
static void gone_epoll(void) {
	struct epoll_event event = {.events = EPOLLIN};
	fd_at(epoll_create1(0), 17);
	fd_at(eventfd(0, 0), 18);
	need(epoll_ctl(17, EPOLL_CTL_ADD, 18, &event) == 0, "epoll_ctl");
	forked(pause_forever);
	close(18);
}

static void stale_epoll(void) {
	struct epoll_event event = {.events = EPOLLIN};
	fd_at(epoll_create1(0), 17);
	fd_at(eventfd(0, 0), 18);
	need(epoll_ctl(17, EPOLL_CTL_ADD, 18, &event) == 0, "epoll_ctl");
	fd_at(dup(18), 19);
	close(18);
	dup2(fd_at(eventfd(0, 0), 20), 18); // another file under the number that the set remembers
}

// clean holds one of everything that can be carried. args: a readable file, a directory.
static void clean(void) {
	struct epoll_event event = {.events = EPOLLIN};
	struct itimerspec soon = {.it_value.tv_sec = 1000};
	sigset_t set;
	int p[2];
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	map(page, MAP_SHARED | MAP_ANONYMOUS, -1);
	fd_at(epoll_create1(0), 17);
	fd_at(eventfd(3, EFD_NONBLOCK), 18);
	fd_at(timerfd_create(CLOCK_MONOTONIC, 0), 19);
	timerfd_settime(19, 0, &soon, 0);
	fd_at(signalfd(-1, &set, 0), 20);
	for (int fd = 18; fd <= 20; fd++)
		need(epoll_ctl(17, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
	need(pipe(p) == 0, "pipe");
	fd_at(p[0], 21);
	fd_at(p[1], 22);
	need(socketpair(AF_UNIX, SOCK_STREAM, 0, p) == 0, "socketpair");
	fd_at(p[0], 23);
	fd_at(p[1], 24);
	fd_at(open("/dev/null", O_RDWR), 25);
	fd_at(open("/dev/urandom", O_RDONLY), 26);
	fd_at(open(args[0], O_RDONLY), 27);
	need(mmap(0, page, PROT_READ, MAP_SHARED, 27, 0) != MAP_FAILED, "mmap");
	need(mmap(0, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, 27, 0) != MAP_FAILED, "mmap");
	fd_at(open(args[1], O_RDONLY | O_DIRECTORY), 28);
	fd_at(open(args[0], O_PATH), 29);
	filter();
	in_thread(nothing);
}

static void three(void) {
	io_uring();
	shared_file();
	child();
}

static const struct { const char *name; void (*run)(void); } modes[] = {
#define MODE(name) {#name, name}
	MODE(io_uring), MODE(aio), MODE(userfaultfd), MODE(perf), MODE(bpf), MODE(inotify), MODE(inotify_waiting), MODE(fanotify), MODE(pidfd),
	MODE(netlink), MODE(packet), MODE(file), MODE(fifo), MODE(procfile), MODE(device), MODE(mqueue), MODE(memfd), MODE(udp),
	MODE(tcp_connected), MODE(tcp_fresh), MODE(tcp_listen), MODE(reuseport), MODE(unix_connected), MODE(unix_listen), MODE(unix_self),
	MODE(dgram_pair), MODE(hung_up), MODE(in_flight), MODE(shared_file), MODE(sysv), MODE(memfd_mapped), MODE(deleted),
	MODE(locked_file), MODE(posix_lock), MODE(hugetlb), MODE(dontfork), MODE(wipeonfork), MODE(locked_memory), MODE(child),
	MODE(zombie), MODE(traced), MODE(timer), MODE(strict), MODE(filter), MODE(thread_files), MODE(thread_directory),
	MODE(thread_network), MODE(thread_ids), MODE(thread_filter), MODE(leader_exit), MODE(pending), MODE(async_io),
	MODE(stale_epoll), MODE(gone_epoll), MODE(clean), MODE(three), MODE(nothing),
};

int main(int argc, char **argv) {
	if (argc < 2)
		return 2;
	args = argv + 2;
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
		if (!strcmp(modes[i].name, argv[1])) {
			modes[i].run();
			announce("ready");
			hold();
		}
	announce("no such mode");
	return 2;
}
