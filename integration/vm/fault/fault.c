// SPDX-License-Identifier: GPL-2.0
/*
 * Commits the fault that its parameter names, so that a test can see whether the lane notices it.
 */
#include <linux/delay.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

static char *fault = "none";
module_param(fault, charp, 0400);
MODULE_PARM_DESC(fault, "warn, oops, cache, stall, leak or atomic");

static DEFINE_SPINLOCK(lock);
static struct kmem_cache *cache;

static void spin(unsigned int seconds)
{
	unsigned int i;

	for (i = 0; i < seconds * 1000; i++)
		udelay(1000);
}

static int __init fault_init(void)
{
	if (!strcmp(fault, "warn")) {
		WARN(1, "asked for a warning\n");
	} else if (!strcmp(fault, "oops")) {
		*(volatile int *)8 = 1;
	} else if (!strcmp(fault, "cache")) {
		cache = kmem_cache_create("fault", 200, 0, SLAB_POISON, NULL);
		if (!cache || !kmem_cache_alloc(cache, GFP_KERNEL))
			return -ENOMEM;
	} else if (!strcmp(fault, "stall")) {
		rcu_read_lock();
		preempt_disable();
		spin(12);
		preempt_enable();
		rcu_read_unlock();
	} else if (!strcmp(fault, "leak")) {
		/* A stale copy of an address on some stack hides one of them. */
		unsigned int i;

		for (i = 0; i < 32; i++)
			if (!kmalloc(300, GFP_KERNEL))
				return -ENOMEM;
	} else if (!strcmp(fault, "atomic")) {
		spin_lock(&lock);
		msleep(20);
		spin_unlock(&lock);
	} else if (strcmp(fault, "none")) {
		return -EINVAL;
	}
	return 0;
}

static void __exit fault_exit(void)
{
	kmem_cache_destroy(cache); /* complains about the object that is still in it */
}

module_init(fault_init);
module_exit(fault_exit);
MODULE_DESCRIPTION("faults on request, for tests");
MODULE_LICENSE("GPL");
