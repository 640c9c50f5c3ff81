// SPDX-License-Identifier: GPL-2.0
#include <linux/ktime.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "events.h"

void corsa_events_init(struct corsa_events *events)
{
	spin_lock_init(&events->lock);
	init_waitqueue_head(&events->readers);
}

void corsa_events_add(struct corsa_events *events, struct corsa_event event)
{
	event.ns = ktime_get_ns();
	spin_lock(&events->lock);
	if (events->lost || events->count == CORSA_EVENTS_KEPT) {
		events->lost++;
	} else {
		u32 slot = (events->head + events->count) % CORSA_EVENTS_KEPT;

		events->ring[slot] = event;
		events->count++;
	}
	spin_unlock(&events->lock);
	wake_up_interruptible_poll(&events->readers, EPOLLIN);
}

void corsa_events_end(struct corsa_events *events)
{
	WRITE_ONCE(events->ended, true);
	wake_up_interruptible_poll(&events->readers, EPOLLIN | EPOLLHUP);
}

/* Those that were dropped are newer than all in the ring, so LOST comes last. */
static bool take(struct corsa_events *events, struct corsa_event *event)
{
	bool found = true;

	spin_lock(&events->lock);
	if (events->count) {
		*event = events->ring[events->head];
		events->head = (events->head + 1) % CORSA_EVENTS_KEPT;
		events->count--;
	} else if (events->lost) {
		*event = (struct corsa_event){
			.type = CORSA_EVENT_LOST,
			.id = CORSA_NONE,
			.next = CORSA_NONE,
			.code = events->lost,
			.ns = ktime_get_ns(),
		};
		events->lost = 0;
	} else {
		found = false;
	}
	spin_unlock(&events->lock);
	return found;
}

static bool something(struct corsa_events *events)
{
	return READ_ONCE(events->count) || READ_ONCE(events->lost);
}

ssize_t corsa_events_read(struct corsa_events *events, char __user *buffer,
			  size_t size, bool nonblock)
{
	struct corsa_event event;
	ssize_t done = 0;
	int ret;

	if (size < sizeof(event))
		return -EINVAL;
	for (;;) {
		while (size - done >= sizeof(event) && take(events, &event)) {
			if (copy_to_user(buffer + done, &event, sizeof(event)))
				return done ? done : -EFAULT;
			done += sizeof(event);
		}
		if (done)
			return done;
		if (READ_ONCE(events->ended) && !something(events))
			return 0;
		if (nonblock)
			return -EAGAIN;
		ret = wait_event_interruptible(events->readers,
					       something(events) ||
					       READ_ONCE(events->ended));
		if (ret)
			return ret;
	}
}

__poll_t corsa_events_poll(struct corsa_events *events, struct file *file,
			   poll_table *table)
{
	__poll_t mask = 0;

	poll_wait(file, &events->readers, table);
	if (something(events))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(events->ended))
		mask |= EPOLLHUP;
	return mask;
}
