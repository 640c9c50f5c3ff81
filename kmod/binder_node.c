// SPDX-License-Identifier: GPL-2.0
/*
 * Objects that an instance has created.
 *
 * The driver knows an object (a node) by its address in the process, and tells
 * the process by it what others do with the object. Instances are copies of
 * each other, so they have different objects at the same address. Therefore
 * only those of the active instance are in the driver's tree; the others' are
 * kept out of it, and alive, until their instance is active again. What the
 * driver wants to tell about them waits as well. Objects from the time before
 * the gate belong to all.
 *
 * The tree changes hands when no thread of the process is in the driver.
 */
#include <linux/slab.h>

#include "binder_internal.h"
#include "binder_state.h"
#include "record.h"
#include "session.h"
#include "thread.h"

struct corsa_node {
	struct hlist_node hash;
	struct list_head link;		/* gate->nodes */
	struct binder_node *node;	/* pinned by tmp_refs */
	u32 id;
	u64 born_ns;
	bool hidden;
	bool pending;	/* the driver has something to tell about it */
	bool dead;	/* the instance does not know it any more */
};

static struct corsa_node *find_locked(const struct corsa_gate *gate,
				      const struct binder_node *node)
{
	struct corsa_node *known;

	hash_for_each_possible(gate->node_table, known, hash,
			       (unsigned long)node)
		if (known->node == node)
			return known;
	return NULL;
}

static void lock_node(struct binder_node *node)
	__acquires(&node->lock) __acquires(&node->proc->inner_lock)
{
	spin_lock(&node->lock);
	spin_lock(&node->proc->inner_lock);
}

static void unlock_node(struct binder_node *node)
	__releases(&node->proc->inner_lock) __releases(&node->lock)
{
	spin_unlock(&node->proc->inner_lock);
	spin_unlock(&node->lock);
}

/* Current has sent it to somebody; the driver keeps it alive meanwhile. */
static void sent_locked(struct corsa_gate *gate, struct binder_node *node,
			u32 id)
{
	struct corsa_node *known;

	if (node->debug_id <= gate->last_common_node || find_locked(gate, node))
		return;
	known = kzalloc(sizeof(*known), GFP_ATOMIC);
	if (!known) {
		pr_warn_ratelimited("corsa: no memory to follow object %d: it belongs to all instances\n",
				    node->debug_id);
		return;
	}
	known->node = node;
	known->id = id;
	known->born_ns = ktime_get_ns();
	lock_node(node);
	node->tmp_refs++;
	unlock_node(node);
	hash_add(gate->node_table, &known->hash, (unsigned long)node);
	list_add_tail(&known->link, &gate->nodes);
}

void corsa_node_sent(struct binder_node *node)
{
	struct corsa_thread *thread;
	struct corsa_gate *gate;

	rcu_read_lock();
	thread = corsa_thread_of(current);
	gate = thread ? READ_ONCE(thread->session->gate) : NULL;
	if (gate && same_thread_group(node->proc->tsk, current)) {
		spin_lock(&gate->lock);
		if (!gate->over)
			sent_locked(gate, node, thread->cur->id);
		spin_unlock(&gate->lock);
	}
	rcu_read_unlock();
}

int corsa_node_owner_locked(const struct corsa_gate *gate,
			    const struct binder_node *node, u32 *id)
{
	const struct corsa_node *known = find_locked(gate, node);

	*id = known ? known->id : CORSA_NONE;
	return known && known->dead ? -EPIPE : 0;
}

static void insert_ilocked(struct binder_proc *proc, struct binder_node *node)
{
	struct rb_node **link = &proc->nodes.rb_node, *parent = NULL;

	while (*link) {
		parent = *link;
		link = node->ptr < rb_entry(parent, struct binder_node,
					    rb_node)->ptr ?
			       &parent->rb_left : &parent->rb_right;
	}
	rb_link_node(&node->rb_node, parent, link);
	rb_insert_color(&node->rb_node, &proc->nodes);
}

/* Nobody must be told that the last reference to it is gone meanwhile. */
static void hide_locked(struct corsa_node *known)
{
	struct binder_node *node = known->node;

	if (known->hidden)
		return;
	lock_node(node);
	node->internal_strong_refs++;
	if (!list_empty(&node->work.entry)) {
		list_del_init(&node->work.entry);
		known->pending = true;
	}
	rb_erase(&node->rb_node, &node->proc->nodes);
	known->hidden = true;
	unlock_node(node);
}

static void show_locked(struct corsa_node *known)
{
	struct binder_node *node = known->node;

	if (!known->hidden)
		return;
	lock_node(node);
	insert_ilocked(node->proc, node);
	node->internal_strong_refs--;
	if (!node->internal_strong_refs && !node->local_strong_refs &&
	    node->has_strong_ref)
		known->pending = true;
	if (known->pending && list_empty(&node->work.entry))
		list_add_tail(&node->work.entry, &node->proc->todo);
	known->pending = false;
	known->hidden = false;
	unlock_node(node);
}

/*
 * Only we know it. The instance has been told to let go of the object, and not
 * of the weak reference, whose few bytes it keeps.
 */
static bool is_abandoned(struct corsa_node *known)
{
	struct binder_node *node = known->node;
	bool abandoned;

	if (known->hidden)
		return false;
	lock_node(node);
	abandoned = hlist_empty(&node->refs) && !node->internal_strong_refs &&
		    !node->local_strong_refs && !node->local_weak_refs &&
		    !node->has_strong_ref && node->tmp_refs == 1 &&
		    list_empty(&node->work.entry);
	if (abandoned)
		node->has_weak_ref = 0;
	unlock_node(node);
	return abandoned;
}

static void forget_locked(struct corsa_node *known, struct list_head *forgotten)
{
	hash_del(&known->hash);
	list_move_tail(&known->link, forgotten);
}

static void free_forgotten(struct list_head *forgotten)
{
	struct corsa_node *known, *next;

	list_for_each_entry_safe(known, next, forgotten, link) {
		corsa_driver_put_node(known->node);
		kfree(known);
	}
}

bool corsa_nodes_in_the_way(struct corsa_gate *gate, u32 id)
{
	bool ret;

	spin_lock(&gate->lock);
	ret = gate->shown != id && !list_empty(&gate->nodes);
	spin_unlock(&gate->lock);
	return ret;
}

void corsa_nodes_show(struct corsa_gate *gate, u32 id)
{
	struct corsa_node *known, *next;
	LIST_HEAD(forgotten);

	spin_lock(&gate->lock);
	list_for_each_entry_safe(known, next, &gate->nodes, link)
		if (is_abandoned(known))
			forget_locked(known, &forgotten);
	/* First all that go, as addresses are the same. */
	list_for_each_entry(known, &gate->nodes, link)
		if (known->id != id || known->dead)
			hide_locked(known);
	list_for_each_entry(known, &gate->nodes, link)
		if (known->id == id && !known->dead)
			show_locked(known);
	gate->shown = id;
	spin_unlock(&gate->lock);
	free_forgotten(&forgotten);
}

void corsa_nodes_restored(struct corsa_session *session, u32 id,
			  const struct corsa_record *image)
{
	struct corsa_gate *gate = session->gate;
	struct corsa_node *known;

	if (!gate)
		return;
	spin_lock(&gate->lock);
	list_for_each_entry(known, &gate->nodes, link)
		if (known->id == id &&
		    (!image || image->parent != id ||
		     known->born_ns > image->born_ns))
			known->dead = true;
	/* Those that are dead now must not be found by the instance. */
	gate->shown = CORSA_NONE;
	spin_unlock(&gate->lock);
}

void corsa_nodes_end(struct corsa_gate *gate)
{
	struct corsa_node *known, *next;
	LIST_HEAD(forgotten);

	spin_lock(&gate->lock);
	list_for_each_entry_safe(known, next, &gate->nodes, link) {
		/* The driver finds them there when the process ends. */
		show_locked(known);
		forget_locked(known, &forgotten);
	}
	spin_unlock(&gate->lock);
	free_forgotten(&forgotten);
}
