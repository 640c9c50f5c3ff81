// SPDX-License-Identifier: GPL-2.0
#include <linux/mm.h>
#include <linux/pagewalk.h>

#include "compat.h"
#include "memory.h"
#include "record.h"
#include "session.h"
#include "symbols.h"

static void count(struct corsa_memory *sum, struct page *page, u64 bytes)
{
	sum->resident += bytes;
	if (corsa_page_is_unique(page))
		sum->unique += bytes;
}

/*
 * A huge mapping is counted here: left to itself the walk would split it. No
 * lock is needed for a sum that is old when it is returned; the page stays, as
 * a struct page always does, whatever becomes of the mapping.
 */
static int count_pmd(pmd_t *pmd, unsigned long address, unsigned long next,
		     struct mm_walk *walk)
{
	pmd_t entry = READ_ONCE(*pmd);

	if (!pmd_trans_huge(entry))
		return 0;
	if (pmd_present(entry) && corsa_page_is_counted(pmd_page(entry)))
		count(walk->private, pmd_page(entry), next - address);
	walk->action = ACTION_CONTINUE;
	return 0;
}

static int count_pte(pte_t *pte, unsigned long address, unsigned long next,
		     struct mm_walk *walk)
{
	pte_t entry = READ_ONCE(*pte);

	/* Special: the zero page, and what has no struct page. */
	if (pte_present(entry) && !pte_special(entry) && pfn_valid(pte_pfn(entry)))
		count(walk->private, pte_page(entry), PAGE_SIZE);
	return 0;
}

static const struct mm_walk_ops walk_ops = {
	.pmd_entry = count_pmd,
	.pte_entry = count_pte,
	CORSA_WALK_READ_LOCKED
};

long corsa_memory(struct corsa_session *session, struct corsa_memory *args)
{
	struct corsa_record *record = corsa_record_find(session, args->id);
	struct mm_struct *mm;
	int ret;

	if (IS_ERR(record))
		return PTR_ERR(record);
	mm = record->mm;
	args->resident = 0;
	args->unique = 0;
	if (mmap_read_lock_killable(mm))
		return -EINTR;
	ret = corsa_call(walk_page_range)(mm, 0, TASK_SIZE_MAX, &walk_ops, args);
	mmap_read_unlock(mm);
	args->swapped = get_mm_counter(mm, MM_SWAPENTS) * PAGE_SIZE;
	args->page_tables = mm_pgtables_bytes(mm);
	return ret;
}
