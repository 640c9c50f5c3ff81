/*
 * workers.h: threads that wait on a condition variable and do a job when they are asked. Between requests all
 * of them are blocked in an untimed futex wait, as the pool of a real service is.
 */
#ifndef WORKERS_H
#define WORKERS_H

enum { WORKERS_MAX = 128 };

struct worker {
	pthread_t thread;
	int index;
	int live;
	int leave; /* the thread ends at the next job */
	uint64_t done;
	const char *bad;
	char why[200];
};

static struct worker workers[WORKERS_MAX];
static int worker_count;
static pthread_mutex_t workers_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t workers_wake = PTHREAD_COND_INITIALIZER, workers_idle = PTHREAD_COND_INITIALIZER;
static const char *(*workers_job)(struct worker *);
static void (*workers_birth)(struct worker *);
static uint64_t workers_epoch;
static int workers_busy;

static void *workers_main(void *arg)
{
	struct worker *w = arg;
	const char *bad;

	if (workers_birth)
		workers_birth(w);
	pthread_mutex_lock(&workers_lock);
	if (--workers_busy == 0)
		pthread_cond_signal(&workers_idle);
	while (!w->leave) {
		while (w->done == workers_epoch)
			pthread_cond_wait(&workers_wake, &workers_lock);
		w->done = workers_epoch;
		pthread_mutex_unlock(&workers_lock);
		bad = workers_job(w);
		if (bad)
			snprintf(w->why, sizeof(w->why), "worker %d: %s", w->index, bad);
		pthread_mutex_lock(&workers_lock);
		w->bad = bad ? w->why : NULL;
		if (--workers_busy == 0)
			pthread_cond_signal(&workers_idle);
	}
	pthread_mutex_unlock(&workers_lock);
	return NULL;
}

/* workers_add starts the thread in slot i and returns when it has run workers_birth. */
static void workers_add(int i)
{
	pthread_mutex_lock(&workers_lock);
	workers[i] = (struct worker){ .index = i, .live = 1, .done = workers_epoch };
	workers_busy++;
	if (pthread_create(&workers[i].thread, NULL, workers_main, &workers[i]))
		svc_die("pthread_create");
	while (workers_busy > 0)
		pthread_cond_wait(&workers_idle, &workers_lock);
	pthread_mutex_unlock(&workers_lock);
}

/* workers_start starts n threads; each runs birth first, if there is one. */
static void workers_start(int n, void (*birth)(struct worker *))
{
	workers_birth = birth;
	for (worker_count = 0; worker_count < n; worker_count++)
		workers_add(worker_count);
}

/* workers_run has every thread do job once, and waits. It returns the first complaint, or NULL. */
static const char *workers_run(const char *(*job)(struct worker *))
{
	const char *bad = NULL;

	pthread_mutex_lock(&workers_lock);
	workers_job = job;
	workers_epoch++;
	for (int i = 0; i < worker_count; i++)
		workers_busy += workers[i].live;
	pthread_cond_broadcast(&workers_wake);
	while (workers_busy > 0)
		pthread_cond_wait(&workers_idle, &workers_lock);
	for (int i = 0; i < worker_count && !bad; i++)
		if (workers[i].live)
			bad = workers[i].bad;
	pthread_mutex_unlock(&workers_lock);
	return bad;
}

/* workers_and_main runs job here first; the main thread has no worker. */
static const char *workers_and_main(const char *(*job)(struct worker *))
{
	const char *bad = job(NULL);

	return bad ? bad : workers_run(job);
}

#endif
