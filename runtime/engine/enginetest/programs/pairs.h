/*
 * pairs.h: socket pairs of the kinds that PAIR_TYPES lists; the state is what is in them. Included after svc.h.
 */
#ifndef PAIRS_H
#define PAIRS_H

#include <sys/socket.h>

static const int types[] = { PAIR_TYPES };

enum { PAIRS = sizeof(types) / sizeof(types[0]) };

static int pair[PAIRS][2];

static uint64_t take(int i)
{
	uint64_t value;

	return SVC_COUNT(recv(pair[i][0], &value, 8, 0)) == 8 ? value : ~0ull;
}

static void put(int i, uint64_t value)
{
	if (SVC_COUNT(send(pair[i][1], &value, 8, 0)) != 8)
		svc_die("send");
}

static uint64_t get(void)
{
	uint64_t value = take(0);

	put(0, value);
	return value;
}

static void mutate(uint64_t n)
{
	for (int i = 0; i < PAIRS; i++)
		put(i, take(i) + n);
}

static const char *verify(void)
{
	uint64_t want = get(), value;
	char c;

	for (int i = 0; i < PAIRS; i++) {
		value = take(i);
		put(i, value);
		if (value != want)
			return svc_fail("pair %d holds %llu", i, (unsigned long long)value);
	}
	for (int i = 0; i < PAIRS; i++) {
		/* the other direction is empty and works */
		if (SVC_COUNT(recv(pair[i][1], &c, 1, 0)) != -1 || errno != EAGAIN)
			return svc_fail("pair %d holds something in the other direction", i);
		if (send(pair[i][0], "y", 1, 0) != 1 || recv(pair[i][1], &c, 1, 0) != 1 || c != 'y')
			return svc_fail("pair %d is not connected", i);
	}
	return NULL;
}

static void spoil(void)
{
	SVC_TRY(send(pair[PAIRS - 1][0], "z", 1, 0)); /* in the other direction */
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	for (int i = 0; i < PAIRS; i++) {
		SVC_TRY(socketpair(AF_UNIX, types[i] | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair[i]));
		put(i, 0);
	}
	return svc_main(argc, argv, &ops);
}

#endif
