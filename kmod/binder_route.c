// SPDX-License-Identifier: GPL-2.0
/* Routes: which instance belongs to which app. */
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "binder_state.h"
#include "record.h"
#include "session.h"

struct corsa_route *corsa_route_find_locked(struct corsa_gate *gate, u64 key)
{
	struct corsa_route *route;

	hash_for_each_possible(gate->routes, route, node, key)
		if (route->key == key)
			return route;
	return NULL;
}

/* Once for each key. Drops the lock. */
static struct corsa_route *make_locked(struct corsa_gate *gate, u64 key)
{
	struct corsa_route *route, *other;

	if (gate->route_count == CORSA_ROUTES_MAX)
		return NULL;
	spin_unlock(&gate->lock);
	route = kzalloc(sizeof(*route), GFP_KERNEL_ACCOUNT);
	spin_lock(&gate->lock);
	if (!route)
		return NULL;
	other = corsa_route_find_locked(gate, key);
	if (other || gate->route_count == CORSA_ROUTES_MAX) {
		kfree(route);
		return other;
	}
	route->key = key;
	route->id = CORSA_NONE;
	hash_add(gate->routes, &route->node, key);
	gate->route_count++;
	return route;
}

struct corsa_route *corsa_route_locked(struct corsa_gate *gate, u64 key)
{
	struct corsa_route *route = corsa_route_find_locked(gate, key);

	return route ? route : make_locked(gate, key);
}

static void tell(struct corsa_gate *gate, const struct corsa_route *route,
		 u32 type)
{
	corsa_events_add(&gate->session->events, (struct corsa_event){
		.type = type, .id = route->id, .next = CORSA_NONE,
		.tid = task_pid_nr(current), .code = route->since,
		.addr = route->key });
}

void corsa_route_tally_locked(struct corsa_gate *gate,
			      const struct corsa_ticket *ticket, int by)
{
	struct corsa_route *route;

	if (!ticket->routed)
		return;
	route = corsa_route_find_locked(gate, ticket->key);
	if (!route)
		return;
	route->transactions += by;
	if (ticket->oneway)
		route->oneway += by;
}

void corsa_route_count_locked(struct corsa_gate *gate,
			      struct corsa_route *route)
{
	route->since++;
	if (!route->every || route->since < route->every || route->due)
		return;
	tell(gate, route, CORSA_EVENT_BINDER_DUE);
	if (route->flags & CORSA_ROUTE_PAUSE)
		route->due = true;
	else
		route->since = 0;
}

void corsa_route_want_locked(struct corsa_gate *gate, struct corsa_route *route)
{
	if (route->announced || route->due)
		return;
	route->announced = true;
	tell(gate, route, CORSA_EVENT_BINDER_WANTED);
}

/* There is no end of pids: those of processes that have ended must go. */
static bool forgettable(const struct corsa_gate *gate,
			const struct corsa_route *route)
{
	return gate->key == CORSA_BINDER_PID && !route->waiting;
}

long corsa_gate_route(struct corsa_session *session,
		      const struct corsa_binder_route *args)
{
	struct corsa_gate *gate = session->gate;
	struct corsa_record *record;
	struct corsa_route *route;
	long ret = 0;

	if (!gate)
		return -ENXIO;
	if (args->flags & ~CORSA_ROUTE_F_ALL)
		return -EINVAL;
	if (args->id != CORSA_NONE) {
		record = corsa_record_find(session, args->id);
		if (IS_ERR(record))
			return PTR_ERR(record);
		if (record->image)
			return -EINVAL;
	}
	spin_lock(&gate->lock);
	route = corsa_route_locked(gate, args->key);
	if (route && args->id == CORSA_NONE && forgettable(gate, route)) {
		hash_del(&route->node);
		gate->route_count--;
		kfree(route);
	} else if (route) {
		route->id = args->id;
		route->refusals += args->id == CORSA_NONE;
		route->flags = args->flags;
		route->every = args->every;
		route->since = 0;
		route->due = false;
		route->announced = false;
		gate->generation++;
	} else {
		ret = -ENOSPC;
	}
	spin_unlock(&gate->lock);
	wake_up_all(&gate->changed);
	return ret;
}

static void describe(const struct corsa_route *route,
		     struct corsa_binder_route_info *info)
{
	*info = (struct corsa_binder_route_info){
		.key = route->key,
		.id = route->id,
		.flags = route->flags |
			 (route->waiting && !route->due ? CORSA_ROUTE_WANTED : 0) |
			 (route->due ? CORSA_ROUTE_DUE : 0),
		.every = route->every,
		.since = route->since,
		.transactions = route->transactions,
		.oneway = route->oneway,
	};
}

long corsa_gate_routes(struct corsa_session *session,
		       struct corsa_binder_routes *args)
{
	struct corsa_gate *gate = session->gate;
	struct corsa_binder_route_info *list;
	struct corsa_route *route;
	u32 cap, stored = 0;
	int bucket;
	long ret = 0;

	if (!gate)
		return -ENXIO;
	if (args->reserved)
		return -EINVAL;
	cap = min_t(u32, args->cap, CORSA_ROUTES_MAX);
	list = kvcalloc(max(cap, 1U), sizeof(*list), GFP_KERNEL_ACCOUNT);
	if (!list)
		return -ENOMEM;
	spin_lock(&gate->lock);
	hash_for_each(gate->routes, bucket, route, node)
		if (stored < cap)
			describe(route, &list[stored++]);
	args->count = gate->route_count;
	spin_unlock(&gate->lock);
	if (copy_to_user(u64_to_user_ptr(args->routes), list,
			 stored * sizeof(*list)))
		ret = -EFAULT;
	kvfree(list);
	return ret;
}

long corsa_gate_stats(struct corsa_session *session,
		      struct corsa_binder_stats *args)
{
	struct corsa_gate *gate = session->gate;
	u32 size = args->size;

	if (!gate)
		return -ENXIO;
	spin_lock(&gate->lock);
	*args = gate->stats;
	args->in_progress = gate->count;
	args->tickets = gate->spare_count;
	spin_unlock(&gate->lock);
	args->size = size;
	args->buffer_faults = corsa_shadow_faults(gate->shadow);
	return 0;
}

void corsa_routes_free(struct corsa_gate *gate)
{
	struct corsa_route *route;
	struct hlist_node *next;
	int bucket;

	hash_for_each_safe(gate->routes, bucket, next, route, node) {
		hash_del(&route->node);
		kfree(route);
	}
}
