//: doc mutexes held across a checkpoint: a plain, a recursive, an error-checking, a robust and two that hand on priority, one of them with a waiter
//: object mutexes that are held, with priority inheritance too
//: engine kmod refused priority-inheritance futex: the kernel keeps the owner
#include "svc.h"
#include "sum.h"

/* The order of kinds[]. The last one has a thread waiting for it. */
enum { PLAIN, RECURSIVE, CHECKING, ROBUST, PI, PI_ROBUST_WAITED, KINDS };

static pthread_mutex_t locks[KINDS], go_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t go = PTHREAD_COND_INITIALIZER;
static int turn; /* the holder's; counted up: it gives up its mutexes, and takes them back */
static uint64_t handed; /* how often the waiter got its mutex */

static void *waiter(void *unused)
{
	for (;;) {
		if (pthread_mutex_lock(&locks[PI_ROBUST_WAITED]))
			svc_die("pthread_mutex_lock");
		__atomic_add_fetch(&handed, 1, __ATOMIC_SEQ_CST);
		pthread_mutex_unlock(&locks[PI_ROBUST_WAITED]);
		svc_nap(); /* so that the holder gets it back */
	}
	return NULL;
}

static void take_all(void)
{
	for (int i = 0; i < KINDS; i++)
		if (pthread_mutex_lock(&locks[i]))
			svc_die("pthread_mutex_lock");
}

static void *holder(void *unused)
{
	take_all();
	pthread_mutex_lock(&go_lock);
	for (;;) {
		turn = 0;
		pthread_cond_broadcast(&go);
		while (!turn)
			pthread_cond_wait(&go, &go_lock);
		if (pthread_mutex_lock(&locks[CHECKING]) != EDEADLK || pthread_mutex_lock(&locks[RECURSIVE]) ||
		    pthread_mutex_unlock(&locks[RECURSIVE]))
			svc_die("the holder does not own its mutexes any more");
		uint64_t before = __atomic_load_n(&handed, __ATOMIC_SEQ_CST);

		for (int i = 0; i < KINDS; i++)
			if (pthread_mutex_unlock(&locks[i]))
				svc_die("pthread_mutex_unlock");
		if (!SVC_WAIT(__atomic_load_n(&handed, __ATOMIC_SEQ_CST) != before))
			svc_die("the waiter does not get the mutex");
		take_all();
	}
	return NULL;
}

static const char *verify(void)
{
	for (int i = 0; i < KINDS; i++)
		if (pthread_mutex_trylock(&locks[i]) != EBUSY)
			return svc_fail("mutex %d is not held", i);
	pthread_mutex_lock(&go_lock);
	turn = 1;
	pthread_cond_broadcast(&go);
	while (turn)
		pthread_cond_wait(&go, &go_lock);
	pthread_mutex_unlock(&go_lock);
	return NULL;
}

static void spoil(void)
{
	pthread_mutex_init(&locks[PLAIN], NULL);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };
	pthread_mutexattr_t attr;
	pthread_t th;

	for (int i = 0; i < KINDS; i++) {
		pthread_mutexattr_init(&attr);
		if (i == RECURSIVE || i == CHECKING)
			pthread_mutexattr_settype(&attr, i == RECURSIVE ? PTHREAD_MUTEX_RECURSIVE : PTHREAD_MUTEX_ERRORCHECK);
		if (i == ROBUST || i == PI_ROBUST_WAITED)
			pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
		if (i >= PI && pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT))
			svc_lack("PTHREAD_PRIO_INHERIT");
		if (pthread_mutex_init(&locks[i], &attr))
			svc_lack("mutexes of all kinds");
	}
	turn = 1;
	pthread_mutex_lock(&go_lock);
	if (pthread_create(&th, NULL, holder, NULL))
		svc_die("pthread_create");
	while (turn)
		pthread_cond_wait(&go, &go_lock);
	pthread_mutex_unlock(&go_lock);
	if (pthread_create(&th, NULL, waiter, NULL))
		svc_die("pthread_create");
	return svc_main(argc, argv, &ops);
}
