//: doc locks on files of a private directory: of the process, of an open file, and by flock
//: object files of a private directory: locks
//: private own
//: engine kmod refused private directory: the same process
#include "svc.h"
#include <sys/file.h>

static int process, open_file, flocked, probe;
static uint64_t sum;

static struct flock range(int type, off_t start, off_t len)
{
	struct flock f = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };

	return f;
}

/* free_at says whether another open file could lock a byte. */
static int free_at(int type, off_t at)
{
	struct flock f = range(type, at, 1);

	SVC_TRY(fcntl(probe, F_OFD_GETLK, &f));
	return f.l_type == F_UNLCK;
}

static uint64_t get(void)
{
	return sum;
}

/* The process' lock begins at the sum. */
static void mutate(uint64_t n)
{
	struct flock f = range(F_UNLCK, 0, 1 << 20);

	SVC_TRY(fcntl(process, F_SETLK, &f));
	sum += n;
	f = range(F_WRLCK, sum, 10);
	SVC_TRY(fcntl(process, F_SETLK, &f));
}

static const char *verify(void)
{
	int other;

	if (sum && (free_at(F_RDLCK, sum) || free_at(F_RDLCK, sum + 9)))
		return "the lock of the process is gone";
	if (!free_at(F_WRLCK, sum + 10))
		return "more is locked than was";
	if (free_at(F_WRLCK, 2 << 20) || !free_at(F_RDLCK, 2 << 20))
		return "the lock of the open file is gone, or for writing";
	other = SVC_TRY(open("own/flocked", O_RDONLY));
	if (!flock(other, LOCK_SH | LOCK_NB))
		return "flock is gone";
	close(other);
	return NULL;
}

static void spoil(void)
{
	SVC_TRY(flock(flocked, LOCK_UN));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	struct flock f = range(F_RDLCK, 2 << 20, 0);

	process = SVC_TRY(open("own/file", O_RDWR | O_CREAT, 0600));
	open_file = SVC_TRY(open("own/file", O_RDWR));
	probe = SVC_TRY(open("own/file", O_RDWR));
	SVC_TRY(fcntl(open_file, F_OFD_SETLK, &f));
	flocked = SVC_TRY(open("own/flocked", O_RDWR | O_CREAT, 0600));
	SVC_TRY(flock(flocked, LOCK_EX));
	return svc_main(argc, argv, &ops);
}
