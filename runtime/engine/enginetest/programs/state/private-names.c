//: doc names in a private directory: files made, renamed, linked and removed, directories, symbolic links, attributes
//: object files of a private directory: names, links, modes, attributes
//: private own
//: engine kmod refused private directory: the same process
#include "svc.h"
#include <dirent.h>
#include <sys/xattr.h>

static uint64_t sum, steps;

static const char *name(char *buf, const char *kind, uint64_t n)
{
	sprintf(buf, "own/%s%llu", kind, (unsigned long long)n);
	return buf;
}

/* The sum is in the directory: file fN has the names and the attribute that belong to its value. */
static uint64_t get(void)
{
	DIR *d = opendir("own");
	struct dirent *e;
	uint64_t all = 0, v;
	char path[300];

	if (!d)
		svc_die("opendir");
	while ((e = readdir(d))) {
		if (e->d_name[0] != 'f')
			continue;
		snprintf(path, sizeof(path), "own/%s", e->d_name);
		if (getxattr(path, "user.value", &v, sizeof(v)) == sizeof(v))
			all += v;
	}
	closedir(d);
	return all;
}

static void mutate(uint64_t n)
{
	char a[64], b[64];

	SVC_TRY(mknod(name(a, "new", steps), S_IFREG | 0600, 0));
	SVC_TRY(setxattr(a, "user.value", &n, sizeof(n), 0));
	SVC_TRY(chmod(a, n & 0777));
	SVC_TRY(rename(a, name(b, "f", steps)));
	if (steps) /* the first is made before the adoption, which hard links would prevent */
		SVC_TRY(link(b, name(a, "l", steps)));
	SVC_TRY(symlink(strrchr(b, '/') + 1, name(a, "s", steps)));
	SVC_TRY(mkdir(name(a, "d", steps), 0700));
	if (steps) { /* what was there before goes: names of older layers, too */
		SVC_TRY(unlink(name(a, "s", steps - 1)));
		SVC_TRY(rmdir(name(a, "d", steps - 1)));
		if (steps > 1)
			SVC_TRY(unlink(name(a, "l", steps - 1)));
	}
	sum += n;
	steps++;
}

static const char *verify(void)
{
	char a[64], b[64], to[64];
	struct stat st, other;
	ssize_t n;

	if (!steps)
		return NULL;
	if (stat(name(a, "f", steps - 1), &st) || (steps > 1 && stat(name(b, "l", steps - 1), &other)))
		return svc_fail("%s or %s is missing", a, b);
	if (steps > 1 && (st.st_ino != other.st_ino || st.st_nlink != 2))
		return svc_fail("%s and %s are not one file: %d names", a, b, (int)st.st_nlink);
	n = readlink(name(b, "s", steps - 1), to, sizeof(to) - 1);
	if (n < 0 || (to[n] = 0, strcmp(to, strrchr(a, '/') + 1)))
		return svc_fail("%s leads elsewhere", b);
	if (stat(name(b, "d", steps - 1), &st) || (st.st_mode & 07777) != 0700)
		return svc_fail("%s is not there as it was", b);
	if (steps > 1 && (!lstat(name(a, "s", steps - 2), &st) || !lstat(name(b, "d", steps - 2), &st)))
		return svc_fail("%s or %s has come back", a, b);
	return get() == sum ? NULL : svc_fail("the files say %llu", (unsigned long long)get());
}

static void spoil(void)
{
	char a[64];

	SVC_TRY(unlink(name(a, "f", 0)));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	return svc_main(argc, argv, &ops);
}
