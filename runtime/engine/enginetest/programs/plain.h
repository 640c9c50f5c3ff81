/*
 * plain.h: a service with a plain counter, for programs that matter for what else they hold. plain_main calls
 * hold() before the service listens.
 */
#ifndef PLAIN_H
#define PLAIN_H

static uint64_t plain_sum;
static const char *(*plain_check)(void); /* optional: what else verify looks at */

static uint64_t plain_get(void)
{
	return plain_sum;
}

static void plain_mutate(uint64_t n)
{
	plain_sum += n;
}

static const char *plain_verify(void)
{
	return plain_check ? plain_check() : NULL;
}

static void plain_spoil(void)
{
	plain_check = NULL;
}

static const struct svc_ops plain_ops = { plain_get, plain_mutate, plain_verify, plain_spoil, NULL };

static int plain_main(int argc, char **argv, void (*hold)(void))
{
	hold();
	svc_bind(argc, argv, &plain_ops);
	svc_epoll(0);
	return 0;
}

#endif
