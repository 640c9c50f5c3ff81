//: doc a shared mapping of a file of a private directory, which is not open any more, and its inode number
//: object files of a private directory: shared mappings, inode numbers
//: private own
//: engine kmod refused private directory: the same process
#include "svc.h"

static volatile uint64_t *word;
static ino_t inode;

static int file(void)
{
	return SVC_TRY(open("own/mapped", O_RDWR | O_CREAT, 0600));
}

static uint64_t get(void)
{
	uint64_t n = 0;
	int fd = file();

	SVC_TRY(pread(fd, &n, sizeof(n), 8));
	close(fd);
	return n;
}

static void mutate(uint64_t n)
{
	word[1] += n;
}

static const char *verify(void)
{
	struct stat st;

	SVC_TRY(stat("own/mapped", &st));
	if (st.st_ino != inode)
		return svc_fail("its inode number was %llu and is %llu", (unsigned long long)inode, (unsigned long long)st.st_ino);
	return get() == word[1] ? NULL : svc_fail("the file holds %llu", (unsigned long long)get());
}

static void spoil(void)
{
	inode++;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	struct stat st;
	int fd = file();

	SVC_TRY(ftruncate(fd, 10000));
	SVC_TRY(fstat(fd, &st));
	inode = st.st_ino;
	word = SVC_TRY(mmap(NULL, 10000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	close(fd);
	return svc_main(argc, argv, &ops);
}
