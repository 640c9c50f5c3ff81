/* SPDX-License-Identifier: GPL-2.0 */
/* The service that the tests virtualise: the context manager of its device. */
#ifndef CORSA_TEST_BINDER_SERVICE_H
#define CORSA_TEST_BINDER_SERVICE_H

#include <stdint.h>
#include <sys/types.h>

#define PAYLOAD_WORDS 1024 /* 4 KiB */
#define SERVICE_THREADS 4

enum code {
	CODE_STEP = 1,	/* the payload is words(seed); one step */
	CODE_NAP,	/* one step after `first word` ms */
	CODE_CRASH,	/* stores to address 0 */
	CODE_EXIT,	/* exit_group() */
	CODE_CALLBACK,	/* calls the object in it, then one step */
	CODE_CALL_ALONE, /* the same from a thread of its own, after the reply */
	CODE_OBJECT,	/* replies with an object of the instance; one step */
	CODE_KEEP,	/* keeps the object in it, and wants to know its end */
	CODE_DROP,	/* releases that */
	CODE_CALL_KEPT,	/* calls it, then one step */
	CODE_CALLED,	/* what CODE_CALLBACK and CODE_CALL_ALONE send */
};

/* Faults that the service has found in what it was sent, or in itself. */
#define WRONG_SIZE	1	/* payload is not of the length sent */
#define WRONG_WORDS	2	/* its words are not those sent */
#define WRONG_OWNER	4	/* this memory has served another uid */
#define WRONG_HEAP	8	/* a page of the heap belongs to another uid */
#define WRONG_CALLBACK	16	/* the call to the client has failed */
#define WRONG_DEATH	64	/* told of a death that another instance wants */
#define WRONG_OBJECT	32	/* called on an object of another instance */

struct answer {
	uint32_t steps;
	uint32_t oneways;
	uint32_t owner;
	uint32_t wrong;
	uint32_t eintr;
	uint32_t object;	/* calls of the object that was called */
	uint32_t deaths;	/* of what CODE_KEEP has kept */
	uint32_t kept;		/* its handle */
};

struct binder_service {
	pid_t pid;
	int pidfd;
	char device[64];
};

/* Words of a payload: any two seeds differ in all of them. */
static inline uint32_t word(uint32_t seed, uint32_t i)
{
	return seed * 2654435761u + i;
}

static inline uint32_t seed_of(uint32_t uid, uint32_t k)
{
	return uid * 1000003u + k;
}

/* Ends the test on failure. The service dies with its parent. */
void binder_service_start(struct binder_service *service, const char *name);
void binder_service_stop(struct binder_service *service);

#endif
