//: doc working directory and umask
//: object working directory and umask
#include "svc.h"
#include <limits.h>

static uint64_t sum;
static char home[PATH_MAX];

static void expect(char *path, size_t size)
{
	snprintf(path, size, "%s/d%llu", home, (unsigned long long)sum % 4);
}

static void apply(void)
{
	char path[PATH_MAX + 32];

	expect(path, sizeof(path));
	SVC_TRY(chdir(path));
	umask(sum & 0777);
}

static uint64_t get(void)
{
	return sum;
}

static void mutate(uint64_t n)
{
	sum += n;
	apply();
}

static const char *verify(void)
{
	char want[PATH_MAX + 32], now[PATH_MAX];
	mode_t mask = umask(0);

	umask(mask);
	expect(want, sizeof(want));
	if (mask != (sum & 0777))
		return svc_fail("the umask is %o", mask);
	if (!getcwd(now, sizeof(now)) || strcmp(now, want))
		return svc_fail("it is in %.150s", now);
	return NULL;
}

static void spoil(void)
{
	SVC_TRY(chdir("/"));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };
	char path[16];

	for (int i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "d%d", i);
		SVC_TRY(mkdir(path, 0755));
	}
	if (!getcwd(home, sizeof(home)))
		svc_die("getcwd");
	apply();
	return svc_main(argc, argv, &ops);
}
