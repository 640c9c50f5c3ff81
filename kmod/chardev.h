/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_CHARDEV_H
#define CORSA_CHARDEV_H

int corsa_chardev_init(void);
void corsa_chardev_exit(void);

#endif
