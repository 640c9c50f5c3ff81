//: doc a file of a private directory open for appending, with a duplicate and a second descriptor that reads
//: object files of a private directory: contents, offsets, flags
//: private own
//: engine kmod refused private directory: the same process
#include "svc.h"

static int out, twin, in;

static uint64_t get(void)
{
	uint64_t n, sum = 0;

	SVC_TRY(lseek(in, 0, SEEK_SET));
	while (read(in, &n, sizeof(n)) == sizeof(n))
		sum += n;
	return sum;
}

static void mutate(uint64_t n)
{
	SVC_TRY(write(n % 2 ? out : twin, &n, sizeof(n)));
}

static const char *verify(void)
{
	struct stat here, there;
	off_t at = lseek(out, 0, SEEK_CUR);

	SVC_TRY(fstat(out, &here));
	SVC_TRY(stat("own/log", &there));
	if (here.st_ino != there.st_ino || here.st_dev != there.st_dev)
		return "it is not the file of that name any more";
	if (at != here.st_size || lseek(twin, 0, SEEK_CUR) != at)
		return svc_fail("the offset is %lld of %lld", (long long)at, (long long)here.st_size);
	if (fcntl(out, F_GETFL) != fcntl(twin, F_GETFL) || !(fcntl(out, F_GETFL) & O_APPEND) || fcntl(twin, F_GETFD) != FD_CLOEXEC)
		return "other flags";
	return NULL;
}

static void spoil(void)
{
	SVC_TRY(rename("own/log", "own/gone"));
	close(SVC_TRY(open("own/log", O_WRONLY | O_CREAT, 0600)));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	out = SVC_TRY(open("own/log", O_WRONLY | O_CREAT | O_APPEND, 0640));
	twin = SVC_TRY(fcntl(out, F_DUPFD_CLOEXEC, 0));
	in = SVC_TRY(open("own/log", O_RDONLY));
	return svc_main(argc, argv, &ops);
}
