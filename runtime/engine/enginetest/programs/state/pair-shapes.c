//: doc socket pairs: messages of many sizes in their order, a pair shut down in one direction, one whose peer is gone with data left, one with large buffers
//: object datagram and seqpacket socket pairs, with contents
//: engine kmod refused socket pair: only stream socket pairs are copied
#include "svc.h"
#include <sys/socket.h>

enum { MESSAGES = 6, LARGE = 1 << 20 };

static const size_t sizes[MESSAGES] = { 1, 4096, 7, 60000, 33, 2 };
static int packets[2][2], half[2], orphan = -1, large[2], changes;
static uint64_t sum;
static char big[LARGE], text[65536];

static void send_all(int i)
{
	for (int m = 0; m < MESSAGES; m++) {
		memset(text, 'a' + (sum + m) % 20, sizes[m]);
		if (SVC_COUNT(send(packets[i][1], text, sizes[m], 0)) != (ssize_t)sizes[m])
			svc_die("send");
	}
}

static const char *take_all(int i)
{
	for (int m = 0; m < MESSAGES; m++) {
		ssize_t n = SVC_COUNT(recv(packets[i][0], text, sizeof(text), 0));

		if (n != (ssize_t)sizes[m])
			return svc_fail("message %d of pair %d has %zd bytes", m, i, n);
		if (text[0] != (char)('a' + (sum + m) % 20) || text[n - 1] != text[0])
			return svc_fail("message %d of pair %d has other contents", m, i);
	}
	if (recv(packets[i][0], text, sizeof(text), 0) != -1 || errno != EAGAIN)
		return svc_fail("pair %d holds more than was sent", i);
	return NULL;
}

static uint64_t get(void)
{
	return sum;
}

static void mutate(uint64_t n)
{
	take_all(0);
	take_all(1);
	sum += n;
	send_all(0);
	send_all(1);
	if (++changes == 2) { /* not before the adoption, which waits until such a socket is closed */
		int p[2];

		SVC_TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, p));
		SVC_TRY(send(p[1], "last", 4, 0));
		orphan = p[0];
		close(p[1]);
	}
}

static const char *verify(void)
{
	const char *bad;
	int size = 0;
	socklen_t len = sizeof(size);

	for (int i = 0; i < 2; i++) {
		bad = take_all(i);
		send_all(i);
		if (bad)
			return bad;
	}
	if (recv(half[0], text, 1, 0) != 0)
		return "the pair that was shut down is not at its end";
	if (send(half[0], "x", 1, 0) != 1 || recv(half[1], text, 1, 0) != 1)
		return "the other direction of the pair that was shut down does not work";
	if (changes >= 2 && (recv(orphan, text, 5, MSG_PEEK) != 4 || memcmp(text, "last", 4)))
		return "what the closed peer had sent is not there";
	SVC_TRY(getsockopt(large[1], SOL_SOCKET, SO_SNDBUF, &size, &len));
	if (size < 2 * LARGE)
		return svc_fail("the large buffer has %d bytes", size);
	for (ssize_t n = 0, got; n < LARGE; n += got) {
		got = recv(large[0], text, sizeof(text), 0);
		if (got <= 0)
			return svc_fail("%zd bytes of %d came out of the large buffer", n, LARGE);
	}
	if (send(large[1], big, LARGE, 0) != LARGE)
		return "a megabyte does not go into the large buffer";
	return NULL;
}

static void spoil(void)
{
	SVC_TRY(send(packets[1][1], "z", 1, 0));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	int room = 2 * LARGE;

	for (int i = 0; i < 2; i++) {
		SVC_TRY(socketpair(AF_UNIX, (i ? SOCK_SEQPACKET : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, packets[i]));
		send_all(i);
	}
	SVC_TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, half));
	SVC_TRY(shutdown(half[1], SHUT_WR));
	SVC_TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, large));
	SVC_TRY(setsockopt(large[1], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)));
	SVC_TRY(send(large[1], big, LARGE, 0));
	return svc_main(argc, argv, &ops);
}
