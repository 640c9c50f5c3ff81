/* SPDX-License-Identifier: GPL-2.0 */
/* What the rest of the module knows of the Binder gate. See uapi/corsa.h, 5. */
#ifndef CORSA_BINDER_GATE_H
#define CORSA_BINDER_GATE_H

#include <linux/errno.h>
#include <linux/types.h>

#include "uapi/corsa.h"

struct corsa_gate;
struct corsa_record;
struct corsa_session;
struct corsa_thread;
struct mm_struct;
struct vm_area_struct;

#ifdef CORSA_BINDER

#define CORSA_BINDER_SUPPORTED true

void corsa_binder_exit(void);

/* The requests. The first holds session->control, the others do not. */
long corsa_gate_enable(struct corsa_session *session,
		       struct corsa_binder_enable *args);
long corsa_gate_route(struct corsa_session *session,
		      const struct corsa_binder_route *args);
long corsa_gate_routes(struct corsa_session *session,
		       struct corsa_binder_routes *args);
long corsa_gate_stats(struct corsa_session *session,
		      struct corsa_binder_stats *args);

/*
 * Waits until no transaction is in progress, and keeps it so until it is
 * opened. Without the lock control, as those who hold the gate may want that.
 * -EBUSY: it took too long; -EINTR.
 */
int corsa_gate_close(struct corsa_session *session);
void corsa_gate_open(struct corsa_session *session);
/* Records have changed: those who wait for one should look again. */
void corsa_gate_look_again(struct corsa_session *session);

/*
 * Instance id has become what image is (NULL: is gone). What it has created
 * since is not there any more. Holds control.
 */
void corsa_nodes_restored(struct corsa_session *session, u32 id,
			  const struct corsa_record *image);

/*
 * Record `to` is a copy of `from`, and has the handles that it has. Its threads
 * stand still. -ENOMEM
 */
int corsa_refs_copied(struct corsa_session *session, u32 from, u32 to);
/* Record id is gone: its handles are released. */
void corsa_refs_dropped(struct corsa_session *session, u32 id);
/* Record `by` takes the place, and the id, of record id. */
void corsa_refs_replaced(struct corsa_session *session, u32 id, u32 by);

/* The active instance has crashed. Any context that may take a spinlock. */
void corsa_gate_crashed(struct corsa_record *record);
void corsa_gate_thread_died(struct corsa_thread *thread);

/* The session is over: nobody waits from here on. May sleep. */
void corsa_gate_over(struct corsa_session *session);
/* Lets go of the driver. Holds control. */
void corsa_gate_end(struct corsa_session *session);
/* The last reference to the session is gone. */
void corsa_gate_free(struct corsa_session *session);

/* A mapping that can be virtualised, in one session with a gate or in any. */
bool corsa_binder_mapping(struct vm_area_struct *vma);
/* One that the gate has made. */
bool corsa_shadow_mapping(struct vm_area_struct *vma);
/* Does the gate itself watch the mm by an MMU notifier? */
bool corsa_shadow_watches(struct corsa_session *session, struct mm_struct *mm);
/* Maps the buffers into the memory of a new record. Holds control. */
int corsa_shadow_map(struct corsa_session *session, struct mm_struct *mm);

#else

#define CORSA_BINDER_SUPPORTED false

static inline void corsa_binder_exit(void)
{
}

static inline long corsa_gate_enable(struct corsa_session *session,
				     struct corsa_binder_enable *args)
{
	return -EOPNOTSUPP;
}

static inline long corsa_gate_route(struct corsa_session *session,
				    const struct corsa_binder_route *args)
{
	return -EOPNOTSUPP;
}

static inline long corsa_gate_routes(struct corsa_session *session,
				     struct corsa_binder_routes *args)
{
	return -EOPNOTSUPP;
}

static inline long corsa_gate_stats(struct corsa_session *session,
				    struct corsa_binder_stats *args)
{
	return -EOPNOTSUPP;
}

static inline int corsa_gate_close(struct corsa_session *session)
{
	return 0;
}

static inline void corsa_gate_open(struct corsa_session *session)
{
}

static inline void corsa_gate_look_again(struct corsa_session *session)
{
}

static inline void corsa_nodes_restored(struct corsa_session *session, u32 id,
					const struct corsa_record *image)
{
}

static inline int corsa_refs_copied(struct corsa_session *session, u32 from,
				    u32 to)
{
	return 0;
}

static inline void corsa_refs_dropped(struct corsa_session *session, u32 id)
{
}

static inline void corsa_refs_replaced(struct corsa_session *session, u32 id,
				       u32 by)
{
}

static inline void corsa_gate_crashed(struct corsa_record *record)
{
}

static inline void corsa_gate_thread_died(struct corsa_thread *thread)
{
}

static inline void corsa_gate_over(struct corsa_session *session)
{
}

static inline void corsa_gate_end(struct corsa_session *session)
{
}

static inline void corsa_gate_free(struct corsa_session *session)
{
}

static inline bool corsa_binder_mapping(struct vm_area_struct *vma)
{
	return false;
}

static inline bool corsa_shadow_mapping(struct vm_area_struct *vma)
{
	return false;
}

static inline bool corsa_shadow_watches(struct corsa_session *session,
					struct mm_struct *mm)
{
	return false;
}

static inline int corsa_shadow_map(struct corsa_session *session,
				   struct mm_struct *mm)
{
	return 0;
}

#endif
#endif
