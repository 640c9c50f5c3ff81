/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_FILES_H
#define CORSA_FILES_H

#include <linux/fdtable.h>

struct corsa_refusals;

/*
 * A copy of a table that nobody is using. Regular files get an open file
 * description of their own, unless shared_offsets. On failure ERR_PTR, with
 * -EOPNOTSUPP the descriptor is in refusals.
 */
struct files_struct *corsa_files_copy(struct files_struct *files,
				      bool shared_offsets,
				      struct corsa_refusals *refusals);

/* Names descriptors on which the table's owner holds POSIX locks. */
void corsa_files_refuse(struct files_struct *files,
			struct corsa_refusals *refusals);

#endif
