//: doc a daemon that was started by root and has dropped its privileges
//: object credentials
#include "svc.h"
#include "sum.h"
#include "workers.h"
#include <grp.h>

static uid_t user = 65534;

static const char *check(struct worker *w)
{
	uid_t r, e, s;

	SVC_TRY(getresuid(&r, &e, &s));
	if (r != user || e != user || s != user)
		return svc_fail("uids %u, %u, %u", r, e, s);
	SVC_TRY(getresgid(&r, &e, &s));
	if (r != user || e != user || s != user || getgroups(0, NULL))
		return svc_fail("gids %u, %u, %u and %d groups", r, e, s, getgroups(0, NULL));
	if (setuid(0) == 0)
		return "it can become root again";
	return NULL;
}

static const char *verify(void)
{
	return workers_and_main(check);
}

static void spoil(void)
{
	user = 1;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };

	svc_bind(argc, argv, &ops);
	SVC_TRY(setgroups(0, NULL));
	SVC_TRY(setresgid(user, user, user));
	SVC_TRY(setresuid(user, user, user));
	workers_start(2, NULL);
	svc_epoll(0);
}
