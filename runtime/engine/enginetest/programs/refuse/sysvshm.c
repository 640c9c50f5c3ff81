//: doc System V shared memory
//: object System V shared memory
//: refuse SYSV: a copy would share with the original
#include "svc.h"
#include "plain.h"
#include <sys/shm.h>

static void hold(void)
{
	int id = SVC_TRY(shmget(IPC_PRIVATE, 8192, IPC_CREAT | 0600));
	char *p = shmat(id, NULL, 0);

	SVC_TRY(shmctl(id, IPC_RMID, NULL));
	if (p == (char *)-1)
		svc_die("shmat");
}

int main(int argc, char **argv)
{
	return plain_main(argc, argv, hold);
}
