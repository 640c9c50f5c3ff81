/* SPDX-License-Identifier: GPL-2.0 */
/* The threads of the tests' service, apart from its main one and its worker. */
#ifndef CORSA_TEST_SERVICE_THREADS_H
#define CORSA_TEST_SERVICE_THREADS_H

#include <pthread.h>
#include <stdint.h>

#include "service.h"

/* What the service answers; service.c's. */
extern struct reply state;

/* Counts a call that was broken off by a signal, by errno. */
void note_eintr(void);

pthread_t spawn(void *(*function)(void *));

/* Each waits in the call that it is named for. */
void *sleep_thread(void *unused);
void *epoll_thread(void *unused);
void *poll_thread(void *unused);
void *pause_thread(void *unused);
void *spin_thread(void *unused);

/* Threads in calls that take a signal or bytes: they, how to send, what came. */
void prepare_takers(void);
uint64_t tell(uint64_t taker);
uint64_t tapped_bytes(void);
extern int tap[2];

/* Threads that are made and ended by command. */
void thread_new(void);
void thread_exit(void);

/* One value, kept in vector registers: service_vector.c. */
void *vector_thread(void *unused);
void set_vector(uint64_t value);
uint64_t look_at_vector(void);

#endif
