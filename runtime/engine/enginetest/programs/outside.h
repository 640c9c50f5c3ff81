/*
 * outside.h: a process that is no child of the service, to be at the other end of something.
 */
#ifndef OUTSIDE_H
#define OUTSIDE_H

#include <sys/wait.h>

/* outside lets another process hold fd until the last other end of link, a pipe or a socket, is closed. */
static void outside(int fd, int link)
{
	struct pollfd p = { .fd = link };
	pid_t child = SVC_TRY(fork());

	if (child) {
		waitpid(child, NULL, 0);
		return;
	}
	if (fork())
		_exit(0);
	for (int i = 0; i < 1024; i++)
		if (i != fd && i != link)
			close(i);
	while (poll(&p, 1, -1) != 1 || !(p.revents & (POLLERR | POLLHUP)))
		;
	_exit(0);
}

#endif
