/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_WAITS_H
#define CORSA_WAITS_H

#include <linux/types.h>

struct corsa_thread;

/*
 * What may the system call that a thread is in do before it ends, if the thread
 * has been marked (corsa_thread_mark())?
 */
enum corsa_waits {
	CORSA_WAITS_TO_LOOK,	/* report what it waits for, and leave it there */
	CORSA_WAITS_TO_TAKE,	/* take it, from an object behind a descriptor */
	CORSA_WAITS_TO_TAKE_SHARED, /* ... of the process, or who knows what */
};

/* The thread has been marked, and was on no CPU after that. */
enum corsa_waits corsa_waits_for(struct corsa_thread *thread);

int corsa_waits_init(void);

#endif
