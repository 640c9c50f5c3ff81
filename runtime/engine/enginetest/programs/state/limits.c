//: doc resource limits, changed after the branch
//: object resource limits
#include "svc.h"
#include <sys/resource.h>

static uint64_t sum;

static struct rlimit want(int which)
{
	return (struct rlimit){ 600 + (sum * (which + 1)) % 300, 1000 };
}

static void set(void)
{
	struct rlimit files = want(RLIMIT_NOFILE), core = want(RLIMIT_CORE);

	SVC_TRY(setrlimit(RLIMIT_NOFILE, &files));
	SVC_TRY(setrlimit(RLIMIT_CORE, &core));
}

static const char *check(int which)
{
	struct rlimit now, then = want(which);

	SVC_TRY(getrlimit(which, &now));
	return now.rlim_cur == then.rlim_cur && now.rlim_max == then.rlim_max ?
		       NULL :
		       svc_fail("limit %d is %llu of %llu, not %llu of %llu", which, (unsigned long long)now.rlim_cur,
				(unsigned long long)now.rlim_max, (unsigned long long)then.rlim_cur,
				(unsigned long long)then.rlim_max);
}

static uint64_t get(void)
{
	return sum;
}

static void mutate(uint64_t n)
{
	sum += n;
	set();
}

static const char *verify(void)
{
	const char *bad = check(RLIMIT_NOFILE);

	return bad ? bad : check(RLIMIT_CORE);
}

static void spoil(void)
{
	struct rlimit r = { 10, 1000 };

	SVC_TRY(setrlimit(RLIMIT_CORE, &r));
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { get, mutate, verify, spoil, NULL };

	set();
	return svc_main(argc, argv, &ops);
}
