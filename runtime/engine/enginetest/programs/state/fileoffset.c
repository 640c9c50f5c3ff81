//: doc the offset of a file open for reading: shared by a duplicate, not by a second open
//: object files open for reading, with offset
#include "svc.h"

static int fd, twin, apart;
static uint64_t own;

static uint64_t get(void)
{
	return lseek(fd, 0, SEEK_CUR);
}

static void mutate(uint64_t n)
{
	SVC_TRY(lseek(twin, n, SEEK_CUR));
	own = (own * 3 + n) % 4096;
	SVC_TRY(lseek(apart, own, SEEK_SET));
}

static const char *verify(void)
{
	off_t at = lseek(fd, 0, SEEK_CUR);

	SVC_TRY(lseek(twin, 1, SEEK_CUR));
	if (lseek(fd, 0, SEEK_CUR) != at + 1)
		return "the duplicate does not share the offset any more";
	SVC_TRY(lseek(fd, -1, SEEK_CUR));
	if ((uint64_t)lseek(apart, 0, SEEK_CUR) != own)
		return svc_fail("the second open stands at %lld", (long long)lseek(apart, 0, SEEK_CUR));
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY || fcntl(fd, F_GETFD) != FD_CLOEXEC || fcntl(twin, F_GETFD))
		return "other flags";
	return NULL;
}

static void spoil(void)
{
	int other = SVC_TRY(open("/proc/self/exe", O_RDONLY));

	SVC_TRY(lseek(other, get(), SEEK_SET));
	SVC_TRY(dup2(other, twin));
	close(other);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	fd = SVC_TRY(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	twin = SVC_TRY(dup(fd));
	apart = SVC_TRY(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
	return svc_main(argc, argv, &ops);
}
