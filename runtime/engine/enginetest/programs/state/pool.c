//: doc a pool that grows and whose threads hand jobs on to each other; jobs are under way when a request has been answered
//: object pools of threads that wait for work
#include "svc.h"

enum { FIRST = 4, MOST = 24, QUEUE = 4096 };

struct job {
	uint64_t value;
	int hops; /* to how many others it goes before it counts */
};

struct member {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t filled;
	struct job queue[QUEUE];
	unsigned head, tail;
	uint64_t sum, seen;
};

static struct member members[MOST];
static int count, posts;
static uint64_t told, pending, steps;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;

static void hand(struct member *m, struct job j)
{
	pthread_mutex_lock(&m->lock);
	if (m->head - m->tail == QUEUE)
		svc_die("the queue is full");
	m->queue[m->head++ % QUEUE] = j;
	pthread_cond_signal(&m->filled);
	pthread_mutex_unlock(&m->lock);
}

static void *work(void *arg)
{
	struct member *m = arg;

	for (;;) {
		struct job j;

		pthread_mutex_lock(&m->lock);
		while (m->head == m->tail)
			pthread_cond_wait(&m->filled, &m->lock);
		j = m->queue[m->tail++ % QUEUE];
		m->seen++;
		pthread_mutex_unlock(&m->lock);
		__atomic_add_fetch(&steps, 1, __ATOMIC_RELAXED);
		if (j.hops-- > 0) {
			hand(&members[(m - members + 1) % __atomic_load_n(&count, __ATOMIC_ACQUIRE)], j);
			continue;
		}
		m->sum += j.value;
		pthread_mutex_lock(&lock);
		if (--pending == 0)
			pthread_cond_signal(&idle);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void grow(void)
{
	struct member *m = &members[count];

	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->filled, NULL);
	if (pthread_create(&m->thread, NULL, work, m))
		svc_die("pthread_create");
	__atomic_add_fetch(&count, 1, __ATOMIC_RELEASE);
}

static void post(uint64_t value, int hops)
{
	pthread_mutex_lock(&lock);
	pending++;
	pthread_mutex_unlock(&lock);
	hand(&members[posts++ % count], (struct job){ value, hops });
}

/* mutate does not wait for the work that it hands out. */
static void mutate(uint64_t n)
{
	told += n;
	for (; n > 1; n -= n / 2)
		post(n / 2, posts % 7);
	post(n, 3);
	if (posts % 64 == 0 && count < MOST)
		grow();
}

static void finish(void)
{
	pthread_mutex_lock(&lock);
	while (pending > 0)
		pthread_cond_wait(&idle, &lock);
	pthread_mutex_unlock(&lock);
}

static uint64_t get(void)
{
	uint64_t sum = 0;

	finish();
	for (int i = 0; i < count; i++)
		sum += members[i].sum;
	return sum;
}

static const char *verify(void)
{
	uint64_t before[MOST];

	if (get() != told)
		return svc_fail("the members have %llu of %llu", (unsigned long long)get(), (unsigned long long)told);
	for (int i = 0; i < count; i++)
		before[i] = members[i].seen;
	post(0, count);
	finish();
	for (int i = 0; i < count; i++)
		if (members[i].seen == before[i])
			return svc_fail("member %d does not work", i);
	return NULL;
}

static void spoil(void)
{
	finish();
	members[1].sum++;
}

/* where tells the address of a word that changes whenever a member does anything. */
static int where(const char *line, char *reply, size_t size)
{
	if (strcmp(line, "where"))
		return 0;
	snprintf(reply, size, "%llu", (unsigned long long)(uintptr_t)&steps);
	return 1;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, where };

	while (count < FIRST)
		grow();
	return svc_main(argc, argv, &ops);
}
