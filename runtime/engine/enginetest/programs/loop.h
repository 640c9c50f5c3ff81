/*
 * loop.h: listeners and the event loops by which real services wait. Included by svc.h only.
 */
#ifndef LOOP_H
#define LOOP_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { SVC_LISTENERS = 8, SVC_FDS = 1024 };

static int svc_listener[SVC_LISTENERS];
static int svc_listeners;

/* One slot for each descriptor number; NULL: not a connection. */
static struct svc_conn *svc_conns[SVC_FDS];

/* svc_listen binds an absolute path (unix) or a port number (TCP on 127.0.0.1). */
static int svc_listen(const char *address)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct sockaddr_in in = { .sin_family = AF_INET };
	int fd, one = 1;

	if (address[0] == '/') {
		fd = SVC_TRY(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
		snprintf(un.sun_path, sizeof(un.sun_path), "%s", address);
		SVC_TRY(bind(fd, (struct sockaddr *)&un, sizeof(un)));
	} else {
		fd = SVC_TRY(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
		SVC_TRY(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
		in.sin_port = htons(atoi(address));
		in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		SVC_TRY(bind(fd, (struct sockaddr *)&in, sizeof(in)));
	}
	SVC_TRY(listen(fd, 128));
	return fd;
}

/* svc_accept makes a connection of what accept returned; NULL: there was nothing to accept. */
static struct svc_conn *svc_accept(int via, int flags)
{
	int fd = SVC_COUNT(accept4(svc_listener[via], NULL, NULL, SOCK_CLOEXEC | flags));
	struct svc_conn *c;

	if (fd < 0)
		return NULL;
	c = fd < SVC_FDS ? calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		close(fd);
		return NULL;
	}
	c->fd = fd;
	c->via = via;
	svc_conns[fd] = c;
	__atomic_add_fetch(&svc_open_count, 1, __ATOMIC_RELAXED);
	return c;
}

static void svc_hang_up(struct svc_conn *c)
{
	svc_conns[c->fd] = NULL;
	__atomic_sub_fetch(&svc_open_count, 1, __ATOMIC_RELAXED);
	close(c->fd);
	free(c);
}

static int svc_via(int fd)
{
	for (int i = 0; i < svc_listeners; i++)
		if (svc_listener[i] == fd)
			return i;
	return -1;
}

static void svc_nonblocking(void)
{
	for (int i = 0; i < svc_listeners; i++)
		SVC_TRY(fcntl(svc_listener[i], F_SETFL, O_NONBLOCK));
}

/* svc_ready_hook, if set, is called when svc_epoll has made all descriptors that it needs. */
static void (*svc_ready_hook)(void);

/* svc_epoll is the loop of most services. mode is 0 (level triggered), EPOLLET or EPOLLONESHOT. */
static void svc_epoll(uint32_t mode)
{
	int ep = SVC_TRY(epoll_create1(EPOLL_CLOEXEC)), via, more;
	struct epoll_event ev[16], e = { .events = EPOLLIN | mode };
	struct svc_conn *c;

	svc_nonblocking();
	for (int i = 0; i < svc_listeners; i++) {
		e.data.u64 = 0xc0de00000000ull | svc_listener[i];
		SVC_TRY(epoll_ctl(ep, EPOLL_CTL_ADD, svc_listener[i], &e));
	}
	if (svc_ready_hook)
		svc_ready_hook();
	for (;;) {
		int n = SVC_COUNT(epoll_wait(ep, ev, 16, -1));

		for (int i = 0; i < n; i++) {
			e.data = ev[i].data;
			via = svc_via((int)ev[i].data.u64);
			if (via >= 0) {
				while ((c = svc_accept(via, SOCK_NONBLOCK))) {
					e.data.u64 = 0xc0de00000000ull | c->fd;
					SVC_TRY(epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e));
				}
				e.data = ev[i].data;
				if (mode & EPOLLONESHOT)
					SVC_TRY(epoll_ctl(ep, EPOLL_CTL_MOD, svc_listener[via], &e));
				continue;
			}
			if (ev[i].data.u64 >> 32 != 0xc0de || !(c = svc_conns[(int)ev[i].data.u64]))
				continue;
			do
				more = svc_input(c);
			while (more == 1 && mode);
			if (more < 0)
				svc_hang_up(c);
			else if (mode & EPOLLONESHOT)
				SVC_TRY(epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e));
		}
	}
}

static void svc_ready(int fd)
{
	int via = svc_via(fd);

	if (via >= 0)
		svc_accept(via, SOCK_NONBLOCK);
	else if (svc_conns[fd] && svc_input(svc_conns[fd]) < 0)
		svc_hang_up(svc_conns[fd]);
}

static void svc_poll(void)
{
	struct pollfd p[SVC_FDS];

	svc_nonblocking();
	for (;;) {
		int n = 0;

		for (int i = 0; i < svc_listeners; i++)
			p[n++] = (struct pollfd){ .fd = svc_listener[i], .events = POLLIN };
		for (int fd = 0; fd < SVC_FDS && n < SVC_FDS; fd++)
			if (svc_conns[fd])
				p[n++] = (struct pollfd){ .fd = fd, .events = POLLIN };
		if (SVC_COUNT(poll(p, n, -1)) < 0)
			continue;
		for (int i = 0; i < n; i++)
			if (p[i].revents)
				svc_ready(p[i].fd);
	}
}

static void svc_select(void)
{
	svc_nonblocking();
	for (;;) {
		fd_set set;
		int max = 0;

		FD_ZERO(&set);
		for (int fd = 0; fd < SVC_FDS; fd++)
			if (svc_conns[fd] || svc_via(fd) >= 0) {
				FD_SET(fd, &set);
				max = fd;
			}
		if (SVC_COUNT(select(max + 1, &set, NULL, NULL, NULL)) < 0)
			continue;
		for (int fd = 0; fd <= max; fd++)
			if (FD_ISSET(fd, &set))
				svc_ready(fd);
	}
}

static void *svc_thread_conn(void *arg)
{
	struct svc_conn *c = arg;

	while (svc_input(c) >= 0)
		;
	svc_hang_up(c);
	return NULL;
}

static void *svc_thread_listener(void *arg)
{
	int via = (intptr_t)arg;
	struct svc_conn *c;
	pthread_t th;

	for (;;) {
		c = svc_accept(via, 0);
		if (c && !pthread_create(&th, NULL, svc_thread_conn, c))
			pthread_detach(th);
		else if (c)
			svc_hang_up(c);
	}
	return NULL;
}

/* svc_threads blocks in accept, and in read in a thread for each connection. */
static void svc_threads(void)
{
	pthread_t th;

	for (int i = 1; i < svc_listeners; i++)
		if (pthread_create(&th, NULL, svc_thread_listener, (void *)(intptr_t)i))
			svc_die("pthread_create");
	svc_thread_listener(0);
}

/* svc_bind listens on the addresses in argv. */
static void svc_bind(int argc, char **argv, const struct svc_ops *ops)
{
	if (argc < 2 || argc - 1 > SVC_LISTENERS) {
		fprintf(stderr, "usage: %s PATH|PORT...\n", argv[0]);
		exit(2);
	}
	svc_ops = ops;
	signal(SIGPIPE, SIG_IGN);
	for (int i = 1; i < argc; i++)
		svc_listener[svc_listeners++] = svc_listen(argv[i]);
}

static int svc_main(int argc, char **argv, const struct svc_ops *ops)
{
	svc_bind(argc, argv, ops);
	svc_epoll(0);
	return 0;
}

#endif
