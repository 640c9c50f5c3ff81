// SPDX-License-Identifier: GPL-2.0
#include <linux/file.h>
#include <linux/fs.h>

#include "compat.h"
#include "files.h"
#include "refuse.h"
#include "symbols.h"

enum lock_kind { NO_LOCK, FILE_LOCK, POSIX_LOCK };

/*
 * A POSIX lock belongs to the descriptor table, so instances would compete for
 * it: a dormant one never lets go. The others belong to the open file.
 */
static enum lock_kind lock_kind(struct file *file, struct files_struct *owner)
{
	struct file_lock_context *context = locks_inode_context(file_inode(file));
	enum lock_kind kind = NO_LOCK;
	struct file_lock *lock;

	if (!context)
		return NO_LOCK;
	spin_lock(&context->flc_lock);
	corsa_for_each_lock(lock, &context->flc_flock)
		if (corsa_lock_owner(lock) == file)
			kind = FILE_LOCK;
	corsa_for_each_lock(lock, &context->flc_posix) {
		if (corsa_lock_owner(lock) == file)
			kind = FILE_LOCK;
		if (corsa_lock_owner(lock) == owner) {
			kind = POSIX_LOCK;
			break;
		}
	}
	spin_unlock(&context->flc_lock);
	return kind;
}

void corsa_files_refuse(struct files_struct *files,
			struct corsa_refusals *refusals)
{
	struct fdtable *table;
	struct file *file;
	unsigned int fd;

	spin_lock(&files->file_lock);
	table = files_fdtable(files);
	for (fd = 0; fd < table->max_fds; fd++) {
		file = rcu_dereference_protected(table->fd[fd], true);
		if (file && lock_kind(file, files) == POSIX_LOCK)
			corsa_refuse(refusals, (struct corsa_refusal){
				.kind = CORSA_REFUSE_FILE_LOCK, .fd = fd });
	}
	spin_unlock(&files->file_lock);
}

/* What stays shared has no offset, or must be shared. */
static bool opens_anew(struct file *file, struct files_struct *owner)
{
	return S_ISREG(file_inode(file)->i_mode) &&
	       (file->f_mode & FMODE_LSEEK) && !(file->f_mode & FMODE_PATH) &&
	       lock_kind(file, owner) == NO_LOCK;
}

static struct file *open_anew(struct file *file)
{
	int flags = file->f_flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC |
				      FASYNC);
	struct file *copy = dentry_open(&file->f_path, flags, file->f_cred);

	if (!IS_ERR(copy))
		copy->f_pos = file->f_pos;
	return copy;
}

/* The copy's file for one that has been opened anew for a lower descriptor. */
static struct file *already(struct fdtable *from, struct fdtable *to,
			    unsigned int fd)
{
	struct file *file = rcu_dereference_raw(from->fd[fd]);
	unsigned int lower;

	for (lower = 0; lower < fd; lower++)
		if (rcu_dereference_raw(from->fd[lower]) == file)
			return rcu_dereference_raw(to->fd[lower]);
	return NULL;
}

struct files_struct *corsa_files_copy(struct files_struct *files,
				      bool shared_offsets,
				      struct corsa_refusals *refusals)
{
	struct files_struct *copy = corsa_call(dup_fd)(files, NULL);
	struct fdtable *from, *to;
	struct file *file, *own;
	unsigned int fd;

	if (IS_ERR(copy) || shared_offsets)
		return copy;
	/* Nobody else sees the copy, and the source is at rest. */
	from = rcu_dereference_raw(files->fdt);
	to = rcu_dereference_raw(copy->fdt);
	for (fd = 0; fd < to->max_fds && fd < from->max_fds; fd++) {
		file = rcu_dereference_raw(to->fd[fd]);
		if (!file || !opens_anew(file, files))
			continue;
		own = already(from, to, fd);
		if (own)
			get_file(own);
		else
			own = open_anew(file);
		if (IS_ERR(own)) {
			corsa_refuse(refusals, (struct corsa_refusal){
				.kind = CORSA_REFUSE_FILE_OPEN, .fd = fd,
				.code = -PTR_ERR(own) });
			corsa_call(put_files_struct)(copy);
			return ERR_PTR(-EOPNOTSUPP);
		}
		rcu_assign_pointer(to->fd[fd], own);
		fput(file);
	}
	return copy;
}
