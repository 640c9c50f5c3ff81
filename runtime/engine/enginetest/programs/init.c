/*
 * init: what runs as pid 1 of a pid namespace in most containers. It starts the command in its arguments and reaps
 * until that ends.
 */
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	pid_t child = fork(), ended;
	int status = 0;

	if (child < 0 || argc < 2)
		return 126;
	if (child == 0) {
		execv(argv[1], argv + 1);
		_exit(127);
	}
	while ((ended = wait(&status)) != child)
		if (ended < 0)
			return 125;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
