//: doc robust lists: a thread that dies with a mutex hands it to the next owner
//: object robust mutexes
#include "svc.h"
#include "sum.h"
#include "workers.h"
#include <linux/futex.h>

static pthread_mutex_t held;
static __thread void *list;

static void *list_now(void)
{
	void *head = NULL;
	size_t size;

	SVC_TRY(syscall(SYS_get_robust_list, 0, &head, &size));
	return head;
}

static void birth(struct worker *w)
{
	list = list_now();
	if (w->index == 0)
		pthread_mutex_lock(&held);
}

static const char *nothing(struct worker *w)
{
	return NULL;
}

static const char *check(struct worker *w)
{
	return list && list == list_now() ? NULL : "another robust list";
}

/* verify lets the thread die that has held the mutex since before the checkpoint, and begins another. */
static const char *verify(void)
{
	const char *bad = workers_run(check);
	int r;

	if (bad)
		return bad;
	workers[0].leave = 1;
	workers_run(nothing);
	if (pthread_join(workers[0].thread, NULL))
		return "cannot join the thread that held the mutex";
	r = pthread_mutex_trylock(&held);
	if (r != EOWNERDEAD)
		return svc_fail("the mutex of a dead thread: %s", strerror(r));
	pthread_mutex_consistent(&held);
	pthread_mutex_unlock(&held);
	workers_add(0);
	return NULL;
}

static const char *spoil_job(struct worker *w)
{
	if (w->index == 0)
		SVC_TRY(syscall(SYS_set_robust_list, NULL, sizeof(struct robust_list_head)));
	return NULL;
}

static void spoil(void)
{
	workers_run(spoil_job);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&held, &attr);
	workers_start(3, birth);
	return svc_main(argc, argv, &ops);
}
