/*
 * own.h: a second thread that has done something for itself alone.
 */
#ifndef OWN_H
#define OWN_H

static void (*own_work)(void);
static int own_done[2], own_wait[2];

static void *own_main(void *unused)
{
	char c;

	own_work();
	if (write(own_done[1], "x", 1) != 1) /* read and write are all that strict seccomp leaves */
		_exit(1);
	while (read(own_wait[0], &c, 1) != 0)
		;
	return NULL;
}

/* own_thread returns when another thread has done work; the thread goes on to wait. */
static void own_thread(void (*work)(void))
{
	pthread_t thread;
	char c;

	own_work = work;
	SVC_TRY(pipe2(own_done, O_CLOEXEC));
	SVC_TRY(pipe2(own_wait, O_CLOEXEC));
	if (pthread_create(&thread, NULL, own_main, NULL))
		svc_die("pthread_create");
	SVC_TRY(read(own_done[0], &c, 1));
}

#endif
