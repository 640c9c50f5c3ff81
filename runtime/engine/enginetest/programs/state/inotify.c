//: doc inotify: watches on a directory and on files, under their numbers and with their masks
//: object inotify
//: engine kmod refused inotify: watches and queued events
#include "svc.h"
#include "sum.h"
#include <sys/inotify.h>

/*
 * All instances watch the same files, so verify makes nothing happen to them: it looks at the watches, and tries the
 * queue with a file of its own. "change file", "change dir" and "delete" make something happen; "next" replies with the
 * next event.
 */
enum { LAST = 100 };

static int in;
static char dir[] = "/dev/shm/corsa-inotify-XXXXXX", file[64], doomed[64];
static char watches[1024];

static void touch(const char *path)
{
	close(SVC_TRY(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
}

/* list writes down what the kernel says about the watches. */
static void list(char *out, size_t size)
{
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", in);
	f = fopen(path, "re");
	if (!f)
		svc_die(path);
	for (*out = 0; fgets(line, sizeof(line), f);)
		if (!strncmp(line, "inotify ", 8))
			strncat(out, line, size - strlen(out) - 1);
	fclose(f);
}

/* next is the next event: "WATCH MASK NAME", or "" if there is none. */
static void next(char *out, size_t size)
{
	static char buf[4096] __attribute__((aligned(8)));
	static ssize_t at, end;
	struct inotify_event *e;

	*out = 0;
	if (at >= end) {
		at = 0;
		end = SVC_COUNT(read(in, buf, sizeof(buf)));
		if (end <= 0)
			return;
	}
	e = (struct inotify_event *)(buf + at);
	at += sizeof(*e) + e->len;
	snprintf(out, size, "%d %x %s", e->wd, e->mask, e->len ? e->name : "-");
}

static const char *verify(void)
{
	char now[sizeof(watches)], event[64], mine[64] = "/dev/shm/corsa-own-XXXXXX", want[64];
	int fd, wd;

	list(now, sizeof(now));
	if (strcmp(now, watches))
		return svc_fail("watches %.80s, not %.80s", now, watches);
	fd = SVC_TRY(mkstemp(mine));
	wd = SVC_TRY(inotify_add_watch(in, mine, IN_ATTRIB | IN_ONESHOT));
	unlink(mine);
	close(fd);
	snprintf(want, sizeof(want), "%d %x -", wd, IN_ATTRIB);
	next(event, sizeof(event));
	if (wd <= LAST || strcmp(event, want))
		return svc_fail("a new watch, %d, tells %s, not %s", wd, event, want);
	snprintf(want, sizeof(want), "%d %x -", wd, IN_IGNORED);
	next(event, sizeof(event));
	return strcmp(event, want) ? svc_fail("a new watch ends with %s, not %s", event, want) : NULL;
}

static void spoil(void)
{
	SVC_TRY(inotify_rm_watch(in, LAST));
}

static int extra(const char *line, char *reply, size_t size)
{
	if (!strcmp(line, "change file"))
		SVC_TRY(chmod(file, 0600));
	else if (!strcmp(line, "change dir"))
		SVC_TRY(chmod(dir, 0700));
	else if (!strcmp(line, "delete"))
		SVC_TRY(unlink(doomed));
	else if (!strcmp(line, "forget"))
		list(watches, sizeof(watches));
	else if (strcmp(line, "next"))
		return 0;
	else
		return next(reply, size), 1;
	snprintf(reply, size, "ok");
	return 1;
}

static void tidy(void)
{
	unlink(file);
	unlink(doomed);
	rmdir(dir);
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, extra };
	int wd;

	if (!mkdtemp(dir))
		svc_die(dir);
	snprintf(file, sizeof(file), "%s/file", dir);
	snprintf(doomed, sizeof(doomed), "%s/doomed", dir);
	touch(file);
	touch(doomed);
	in = SVC_TRY(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	SVC_TRY(inotify_add_watch(in, dir, IN_ATTRIB | IN_ONLYDIR));
	/* The numbers of watches that have gone are not given again. */
	while ((wd = SVC_TRY(inotify_add_watch(in, "/dev/shm", IN_DELETE_SELF))) < LAST - 1)
		SVC_TRY(inotify_rm_watch(in, wd));
	SVC_TRY(inotify_rm_watch(in, wd));
	SVC_TRY(inotify_add_watch(in, file, IN_ATTRIB | IN_EXCL_UNLINK));
	SVC_TRY(inotify_add_watch(in, doomed, IN_MODIFY | IN_ONESHOT));
	for (char event[64]; next(event, sizeof(event)), *event;)
		;
	list(watches, sizeof(watches));
	atexit(tidy);
	return svc_main(argc, argv, &ops);
}
