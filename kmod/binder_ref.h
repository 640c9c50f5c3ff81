/* SPDX-License-Identifier: GPL-2.0 */
/* Handles of instances, for binder_ref.c, binder_count.c and binder_death.c. */
#ifndef CORSA_BINDER_REF_H
#define CORSA_BINDER_REF_H

#include <linux/hashtable.h>
#include <linux/spinlock.h>
#include <linux/xarray.h>

#include "binder_internal.h"
#include "binder_state.h"

/* What one record has of a handle. */
struct share {
	int strong;
	int weak;
	struct binder_ref_death *death;	/* while it is not in the driver */
};

struct corsa_handle {
	struct hlist_node hash;		/* refs->handles */
	struct binder_proc *proc;
	u32 desc;
	int debug_id;			/* the driver's, of the reference */
	/* The sum of all, as the driver had it at the last look. */
	int strong;
	int weak;
	bool seen;
	bool death;			/* the driver has a request for it */
	struct xarray shares;		/* by id of the record */
};

/* A handle that a transaction brings which waits at the gate. */
struct floating {
	struct list_head link;		/* refs->floating */
	int transaction;		/* debug_id */
	struct binder_proc *proc;
	u32 desc;
};

struct corsa_refs {
	u32 viewer;			/* the record whose view the driver has */
	bool touched;			/* the viewer may have changed something */
	u32 kept;			/* requests that are kept here */
	u32 given;			/* those that the driver has, if not touched */
	DECLARE_HASHTABLE(handles, 6);
	struct xarray parked;		/* struct parked_deaths, by id */
	spinlock_t lock;		/* floating, inside of gate->lock */
	struct list_head floating;
};

/* binder_count.c */

struct binder_ref *corsa_ref_find_olocked(struct binder_proc *proc, u32 desc);
/* Made if there is none. NULL: no memory. */
struct share *corsa_share_of(struct corsa_handle *handle, u32 id);
/*
 * Adds to what the driver has. Not to nothing: that would have consequences
 * elsewhere, and all that is added is there already, in another record.
 */
bool corsa_ref_add(struct corsa_handle *handle, int strong, int weak);
void corsa_ref_subtract(struct corsa_handle *handle, int strong, int weak);
void corsa_handle_free(struct corsa_refs *refs, struct corsa_handle *handle);
/* What has changed since the last time is the viewer's. -ENOMEM */
int corsa_refs_settle(struct corsa_gate *gate);

/* binder_death.c */

/* Takes the viewer's requests and notices out of the driver. -ENOMEM */
int corsa_deaths_hide(struct corsa_gate *gate);
/* Puts in those of record id, who is the viewer from now on. */
void corsa_deaths_show(struct corsa_gate *gate, u32 id);
/* NULL: no memory. */
struct binder_ref_death *corsa_death_copy(const struct binder_ref_death *death);
void corsa_death_free(struct corsa_refs *refs, struct binder_ref_death *death);
/* The notices; when the requests have been copied. */
int corsa_deaths_copy(struct corsa_refs *refs, u32 from, u32 to);
void corsa_deaths_free(struct corsa_refs *refs, u32 id);

#endif
