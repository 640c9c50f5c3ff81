/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_EVENTS_H
#define CORSA_EVENTS_H

#include <linux/poll.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#include "uapi/corsa.h"

/* A ring; one more slot than is promised, for LOST. */
struct corsa_events {
	spinlock_t lock; /* for all but readers and ended */
	wait_queue_head_t readers;
	bool ended;
	u32 head;
	u32 count;
	u32 lost;
	struct corsa_event ring[CORSA_EVENTS_KEPT];
};

void corsa_events_init(struct corsa_events *events);
/* Stamps and queues; never fails, drops the newest when full. Not from IRQ. */
void corsa_events_add(struct corsa_events *events, struct corsa_event event);
/* No more will come. */
void corsa_events_end(struct corsa_events *events);
ssize_t corsa_events_read(struct corsa_events *events, char __user *buffer,
			  size_t size, bool nonblock);
__poll_t corsa_events_poll(struct corsa_events *events, struct file *file,
			   poll_table *table);

#endif
