// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service_threads.h"

/*
 * Keeps one value in vector registers for as long as it runs, in user mode and
 * across system calls, and reports what it finds there.
 */
static uint64_t vector_wanted, vector_epoch, vector_seen;

static int have_avx(void)
{
	unsigned int a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_AVX) &&
	       (c & bit_OSXSAVE);
}

void *vector_thread(void *unused)
{
	uint64_t epoch = 0, out[16], value;
	int avx = have_avx(), i;

	(void)unused;
	for (;;) {
		uint64_t now = __atomic_load_n(&vector_epoch, __ATOMIC_ACQUIRE);

		if (now != epoch) {
			value = __atomic_load_n(&vector_wanted, __ATOMIC_RELAXED);
			/* All of the loop is one asm: nobody else may use them. */
			if (avx)
				__asm__ volatile("vmovq %0, %%xmm0\n\t"
						 "vpshufd $0x44, %%xmm0, %%xmm0\n\t"
						 "vinsertf128 $1, %%xmm0, %%ymm0, %%ymm7\n\t"
						 "vmovaps %%ymm7, %%ymm15\n\t"
						 : : "r"(value) : "xmm0", "xmm7", "xmm15");
			else
				__asm__ volatile("movq %0, %%xmm7\n\t"
						 "pshufd $0x44, %%xmm7, %%xmm7\n\t"
						 "movaps %%xmm7, %%xmm15\n\t"
						 : : "r"(value) : "xmm7", "xmm15");
			epoch = now;
		}
		/* A long stay in user mode, then a system call. */
		__asm__ volatile("movl $2000, %%ecx\n"
				 "1:\tpause\n\t"
				 "decl %%ecx\n\t"
				 "jnz 1b\n\t"
				 "movl %0, %%eax\n\t"
				 "syscall\n\t"
				 : : "i"(SYS_sched_yield)
				 : "rax", "rcx", "r11", "memory");
		if (avx)
			__asm__ volatile("vmovups %%ymm7, (%0)\n\t"
					 "vmovups %%ymm15, 32(%0)\n\t"
					 : : "r"(out) : "memory");
		else
			__asm__ volatile("movups %%xmm7, (%0)\n\t"
					 "movups %%xmm15, 32(%0)\n\t"
					 "movups %%xmm7, 16(%0)\n\t"
					 "movups %%xmm15, 48(%0)\n\t"
					 : : "r"(out) : "memory");
		value = out[0];
		for (i = 1; i < 8; i++)
			if (out[i] != value)
				value = ~0ULL;
		__atomic_store_n(&vector_seen, value, __ATOMIC_RELAXED);
		usleep(500);
	}
	return NULL;
}

void set_vector(uint64_t value)
{
	__atomic_store_n(&vector_wanted, value, __ATOMIC_RELAXED);
	__atomic_add_fetch(&vector_epoch, 1, __ATOMIC_RELEASE);
	while (__atomic_load_n(&vector_seen, __ATOMIC_RELAXED) != value)
		usleep(500);
}

uint64_t look_at_vector(void)
{
	return __atomic_load_n(&vector_seen, __ATOMIC_RELAXED);
}
