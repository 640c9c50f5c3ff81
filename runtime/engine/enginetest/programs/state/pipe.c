//: doc pipes inside the service: the state is what is in them
//: object pipes within the process, with contents
#include "svc.h"

enum { BULK = 40000 };

static int word[2], bulk[2];

static uint64_t get(void)
{
	uint64_t value = ~0ull;

	if (SVC_COUNT(read(word[0], &value, 8)) == 8 && write(word[1], &value, 8) != 8)
		svc_die("pipe");
	return value;
}

static void mutate(uint64_t n)
{
	uint64_t value;

	if (SVC_COUNT(read(word[0], &value, 8)) != 8)
		return;
	value += n;
	if (write(word[1], &value, 8) != 8)
		svc_die("pipe");
}

static const char *verify(void)
{
	static unsigned char buf[65536];
	ssize_t n = SVC_COUNT(read(bulk[0], buf, sizeof(buf)));

	if (n != BULK)
		return svc_fail("the pipe held %zd bytes", n);
	for (int i = 0; i < BULK; i++)
		if (buf[i] != (unsigned char)(i * 7))
			return svc_fail("byte %d in the pipe", i);
	if (write(bulk[1], buf, BULK) != BULK)
		svc_die("pipe");
	return NULL;
}

static void spoil(void)
{
	char c;

	SVC_TRY(read(bulk[0], &c, 1));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	static unsigned char buf[BULK];
	uint64_t zero = 0;

	SVC_TRY(pipe2(word, O_NONBLOCK | O_CLOEXEC));
	SVC_TRY(pipe2(bulk, O_NONBLOCK | O_CLOEXEC));
	for (int i = 0; i < BULK; i++)
		buf[i] = i * 7;
	if (write(word[1], &zero, 8) != 8 || write(bulk[1], buf, BULK) != BULK)
		svc_die("pipe");
	return svc_main(argc, argv, &ops);
}
