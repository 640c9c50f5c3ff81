//: doc memory marked MADV_DONTFORK, which a plain fork would leave out, and which an instance's own forks leave out
//: object MADV_DONTFORK memory
#include "svc.h"
#include "region.h"
#include <sys/wait.h>

static char *p, *late;

/* verify also has a child tell whether the memory is there. */
static const char *verify(void)
{
	int status;
	pid_t child = SVC_TRY(fork());

	if (child == 0)
		_exit(msync(p, 65536, MS_ASYNC) == -1 && errno == ENOMEM ? 7 : 8);
	SVC_TRY(waitpid(child, &status, 0));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 7)
		return "a fork of the service has the memory";
	return region_verify();
}

/* "mark" keeps another region out of forks, "lock" locks it, "locked" says how much is. */
static int extra(const char *line, char *reply, size_t size)
{
	char text[256];
	FILE *f;

	snprintf(reply, size, "ok");
	if (!strcmp(line, "mark")) {
		late = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		region_add(late, 65536, 64);
		region_mutate(0);
		SVC_TRY(madvise(late, 65536, MADV_DONTFORK));
	} else if (!strcmp(line, "lock")) {
		SVC_TRY(mlock(late, 65536));
	} else if (!strcmp(line, "locked") && (f = fopen("/proc/self/status", "re"))) {
		while (fgets(text, sizeof(text), f))
			if (!strncmp(text, "VmLck:", 6))
				snprintf(reply, size, "%d", atoi(text + 6));
		fclose(f);
	} else {
		return 0;
	}
	return 1;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { region_get, region_mutate, verify, region_spoil, extra };

	p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	region_add(p, 65536, 64);
	SVC_TRY(madvise(p, 65536, MADV_DONTFORK));
	return svc_main(argc, argv, &ops);
}
