// SPDX-License-Identifier: GPL-2.0
/*
 * Binder's buffers in memory that has not mapped them.
 *
 * The driver maps its pages into the mm that called mmap(), the home, and only
 * there. The records made since have at the same addresses a mapping of ours,
 * read only as well, whose pages are those of the home. When a page goes from
 * the home (the driver gives unused ones back) it goes from there too.
 *
 * A shadow lives as long as somebody has it mapped, which may be longer than
 * the session: a process that was detached in an instance still has its buffers
 * there. So it pins the home mm and, as its file is ours, the module.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_context.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "binder_state.h"
#include "compat.h"
#include "session.h"

struct area {
	struct corsa_shadow *shadow;
	struct mmu_interval_notifier notifier;
	struct address_space mapping;
	struct file *file;	/* the driver's; keeps proc */
	struct binder_proc *proc;
	unsigned long start;
	unsigned long size;
};

struct corsa_shadow {
	struct kref ref;
	struct work_struct release;
	struct mm_struct *home;
	atomic64_t faults;
	u32 count;
	struct area areas[CORSA_BINDER_DEVICES];
};

static void forget_pages(struct area *area, unsigned long start,
			 unsigned long end)
{
	unmap_mapping_range(&area->mapping, start - area->start, end - start, 1);
}

static struct page *home_page(struct area *area, unsigned long address)
{
	struct mm_struct *home = area->shadow->home;
	struct page *page;
	long ret;

	/* The lock of the mm that faults is held. Nobody takes them reversed. */
	down_read_nested(&home->mmap_lock, SINGLE_DEPTH_NESTING);
	ret = corsa_get_user_page(home, address, &page);
	mmap_read_unlock(home);
	return ret == 1 ? page : NULL;
}

/*
 * If the page goes away while we map it, it is taken out again. Nobody can have
 * read it meanwhile who had a right to: the driver only gives away pages in
 * which there is no buffer.
 */
static vm_fault_t fault(struct vm_fault *vmf)
{
	struct area *area = vmf->vma->vm_private_data;
	unsigned long address = vmf->address & PAGE_MASK;
	unsigned long seq;
	struct page *page;
	int ret;

	for (;;) {
		seq = mmu_interval_read_begin(&area->notifier);
		page = home_page(area, address);
		if (!page)
			return VM_FAULT_SIGBUS;
		ret = vm_insert_page(vmf->vma, address, page);
		put_page(page);
		/* EBUSY: another thread was faster. */
		if (ret && ret != -EBUSY)
			return vmf_error(ret);
		if (!mmu_interval_read_retry(&area->notifier, seq))
			break;
		forget_pages(area, address, address + PAGE_SIZE);
	}
	atomic64_inc(&area->shadow->faults);
	return VM_FAULT_NOPAGE;
}

static const struct vm_operations_struct shadow_vm_ops = {
	.fault = fault,
};

static bool invalidate(struct mmu_interval_notifier *notifier,
		       const struct mmu_notifier_range *range,
		       unsigned long seq)
{
	struct area *area = container_of(notifier, struct area, notifier);
	unsigned long start = max(range->start, area->start);
	unsigned long end = min(range->end, area->start + area->size);

	if (!mmu_notifier_range_blockable(range))
		return false;
	mmu_interval_set_seq(notifier, seq);
	/*
	 * Notifiers of the instances' memory are called from here, within one
	 * of the home's. Lockdep takes them for the same; they are of
	 * different mms, and never call back into the home.
	 */
	lockdep_off();
	if (start < end)
		forget_pages(area, start, end);
	lockdep_on();
	return true;
}

static const struct mmu_interval_notifier_ops notifier_ops = {
	.invalidate = invalidate,
};

static void release_work(struct work_struct *work)
{
	struct corsa_shadow *shadow;
	struct area *area;

	shadow = container_of(work, struct corsa_shadow, release);
	while (shadow->count--) {
		area = &shadow->areas[shadow->count];
		mmu_interval_notifier_remove(&area->notifier);
		fput(area->file);
	}
	mmput(shadow->home);
	kfree(shadow);
	module_put(THIS_MODULE);
}

/* Removing a notifier waits for others: not from within an exit_mmap(). */
static void release(struct kref *ref)
{
	struct corsa_shadow *shadow;

	shadow = container_of(ref, struct corsa_shadow, ref);
	queue_work(corsa_workqueue, &shadow->release);
}

void corsa_shadow_put(struct corsa_shadow *shadow)
{
	kref_put(&shadow->ref, release);
}

static int shadow_mmap(struct file *file, struct vm_area_struct *vma)
{
	vma->vm_ops = &shadow_vm_ops;
	vma->vm_private_data = file->private_data;
	corsa_vma_set_flags(vma, VM_DONTEXPAND | VM_DONTDUMP | VM_DONTCOPY |
				 VM_MIXEDMAP);
	corsa_vma_clear_flags(vma, VM_MAYWRITE);
	return 0;
}

static int shadow_release(struct inode *inode, struct file *file)
{
	struct area *area = file->private_data;

	corsa_shadow_put(area->shadow);
	return 0;
}

static const struct file_operations shadow_fops = {
	.owner = THIS_MODULE,
	.mmap = shadow_mmap,
	.release = shadow_release,
};

static struct file *open_area(struct area *area)
{
	struct file *file = anon_inode_getfile("[corsa-binder]", &shadow_fops,
					       area, O_RDONLY | O_CLOEXEC);

	if (IS_ERR(file))
		return file;
	kref_get(&area->shadow->ref);
	/* All anonymous inodes are one, so this tells our mappings apart. */
	area->mapping.host = file_inode(file);
	file->f_mapping = &area->mapping;
	return file;
}

static int map_area(struct area *area)
{
	unsigned long flags = MAP_PRIVATE | MAP_FIXED_NOREPLACE;
	struct file *file = open_area(area);
	unsigned long address;

	if (IS_ERR(file))
		return PTR_ERR(file);
	address = vm_mmap(file, area->start, area->size, PROT_READ, flags, 0);
	fput(file);
	/* The process itself has put something else in its place. */
	if (address == -EEXIST)
		return 0;
	return IS_ERR_VALUE(address) ? (long)address : 0;
}

/* Mapping into another mm takes a thread that can borrow it. */
struct request {
	struct kthread_work work;
	struct corsa_shadow *shadow;
	struct mm_struct *mm;
	int error;
};

static DEFINE_MUTEX(worker_lock);
static struct kthread_worker *worker;

static void serve(struct kthread_work *work)
{
	struct request *request = container_of(work, struct request, work);
	u32 i;

	kthread_use_mm(request->mm);
	for (i = 0; i < request->shadow->count && !request->error; i++)
		request->error = map_area(&request->shadow->areas[i]);
	kthread_unuse_mm(request->mm);
}

int corsa_shadow_map(struct corsa_session *session, struct mm_struct *mm)
{
	struct request request = { .mm = mm };

	if (!session->gate)
		return 0;
	request.shadow = session->gate->shadow;
	kthread_init_work(&request.work, serve);
	kthread_queue_work(worker, &request.work);
	kthread_flush_work(&request.work);
	return request.error;
}

static int begin_worker(void)
{
	struct kthread_worker *created;
	int ret = 0;

	mutex_lock(&worker_lock);
	if (!worker) {
		created = kthread_create_worker(0, "corsa_shadow");
		if (IS_ERR(created))
			ret = PTR_ERR(created);
		else
			worker = created;
	}
	mutex_unlock(&worker_lock);
	return ret;
}

void corsa_shadow_exit(void)
{
	if (worker)
		kthread_destroy_worker(worker);
	worker = NULL;
}

/*
 * The lock of our mappings is taken inside of notifiers, which those of files
 * are not. Nothing anonymous is ever mapped in a shadow, so no lock of that
 * kind is taken inside ours, and that is what makes the order safe.
 */
static struct lock_class_key mapping_key;

static int find_areas(struct corsa_shadow *shadow)
{
	struct vm_area_struct *vma;
	int ret = 0;

	VMA_ITERATOR(iterator, shadow->home, 0);

	mmap_read_lock(shadow->home);
	for_each_vma(iterator, vma) {
		struct area *area = &shadow->areas[shadow->count];

		if (!corsa_binder_mapping(vma))
			continue;
		if (shadow->count == CORSA_BINDER_DEVICES) {
			ret = -E2BIG;
			break;
		}
		area->shadow = shadow;
		area->start = vma->vm_start;
		area->size = vma->vm_end - vma->vm_start;
		area->file = get_file(vma->vm_file);
		area->proc = corsa_driver_proc(area->file);
		address_space_init_once(&area->mapping);
		lockdep_set_class(&area->mapping.i_mmap_rwsem, &mapping_key);
		area->mapping.a_ops = &empty_aops;
		shadow->count++;
	}
	mmap_read_unlock(shadow->home);
	return ret ? ret : shadow->count ? 0 : -ENODEV;
}

static int watch(struct corsa_shadow *shadow)
{
	struct area *area;
	u32 i;
	int ret;

	for (i = 0; i < shadow->count; i++) {
		area = &shadow->areas[i];
		ret = mmu_interval_notifier_insert(&area->notifier, shadow->home,
						   area->start, area->size,
						   &notifier_ops);
		if (ret) {
			while (i--)
				mmu_interval_notifier_remove(
					&shadow->areas[i].notifier);
			return ret;
		}
	}
	return 0;
}

struct corsa_shadow *corsa_shadow_create(struct mm_struct *mm)
{
	struct corsa_shadow *shadow;
	int ret = begin_worker();

	if (ret)
		return ERR_PTR(ret);
	shadow = kzalloc(sizeof(*shadow), GFP_KERNEL_ACCOUNT);
	if (!shadow)
		return ERR_PTR(-ENOMEM);
	kref_init(&shadow->ref);
	INIT_WORK(&shadow->release, release_work);
	mmget(mm);
	shadow->home = mm;
	ret = find_areas(shadow);
	if (!ret)
		ret = watch(shadow);
	if (ret) {
		while (shadow->count--)
			fput(shadow->areas[shadow->count].file);
		mmput(mm);
		kfree(shadow);
		return ERR_PTR(ret);
	}
	__module_get(THIS_MODULE);
	return shadow;
}

u32 corsa_shadow_procs(const struct corsa_shadow *shadow,
		       struct binder_proc **procs)
{
	u32 i;

	for (i = 0; i < shadow->count; i++)
		procs[i] = shadow->areas[i].proc;
	return shadow->count;
}

u64 corsa_shadow_faults(const struct corsa_shadow *shadow)
{
	return atomic64_read(&shadow->faults);
}

bool corsa_shadow_mapping(struct vm_area_struct *vma)
{
	return vma->vm_ops == &shadow_vm_ops;
}

bool corsa_shadow_watches(struct corsa_session *session, struct mm_struct *mm)
{
	return session->gate && session->gate->shadow->home == mm;
}
