//: doc a file of a private directory that was removed while it is open and mapped
//: object files of a private directory: removed and still open
//: private own
//: engine kmod refused private directory: the same process
#include "svc.h"

static int fd;
static volatile uint64_t *word;

static uint64_t get(void)
{
	uint64_t n = 0;

	SVC_TRY(pread(fd, &n, sizeof(n), 0));
	return n;
}

static void mutate(uint64_t n)
{
	*word += n;
}

static const char *verify(void)
{
	struct stat st;

	SVC_TRY(fstat(fd, &st));
	if (st.st_nlink != 0 || st.st_size != 4096 || (st.st_mode & 0777) != 0604)
		return svc_fail("%d names, %lld bytes, mode %o", (int)st.st_nlink, (long long)st.st_size, st.st_mode & 0777);
	return get() == *word ? NULL : svc_fail("the file holds %llu, the mapping %llu", (unsigned long long)get(), (unsigned long long)*word);
}

static void spoil(void)
{
	SVC_TRY(ftruncate(fd, 8192));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	umask(0);
	fd = SVC_TRY(open("own/short-lived", O_RDWR | O_CREAT, 0604));
	SVC_TRY(ftruncate(fd, 4096));
	SVC_TRY(unlink("own/short-lived"));
	word = SVC_TRY(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	return svc_main(argc, argv, &ops);
}
