/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CORSA_PROBES_H
#define CORSA_PROBES_H

int corsa_probes_init(void);
void corsa_probes_exit(void);

#endif
