//: doc tiles of AMX that a thread holds between requests
//: object AMX tiles
//: optional
//: engine fork refused AMX tiles: a new thread could not be given them
//: engine kmod private
#include "svc.h"
#include "sum.h"
#include <cpuid.h>

enum { ARCH_REQ_XCOMP_PERM_ = 0x1023, TILEDATA = 18 };

static struct {
	uint8_t palette, start_row, reserved[14];
	uint16_t colsb[16];
	uint8_t rows[16];
} __attribute__((aligned(64))) config = { .palette = 1, .colsb = { 64 }, .rows = { 16 } };

static uint8_t want[1024] __attribute__((aligned(64))), got[1024] __attribute__((aligned(64)));

static void load(void)
{
	register uint8_t *at __asm__("rax") = want;
	register long stride __asm__("rcx") = 64;

	for (size_t i = 0; i < sizeof(want); i++)
		want[i] = i * 7 + sum;
	__asm__ volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0x07" : : "D"(&config) : "memory"); /* ldtilecfg (%rdi) */
	__asm__ volatile(".byte 0xc4, 0xe2, 0x7b, 0x4b, 0x04, 0x08" : : "r"(at), "r"(stride) : "memory"); /* tileloadd (%rax,%rcx), %tmm0 */
}

static void mutate(uint64_t n)
{
	sum += n;
	load();
}

static const char *verify(void)
{
	register uint8_t *at __asm__("rax") = got;
	register long stride __asm__("rcx") = 64;

	__asm__ volatile(".byte 0xc4, 0xe2, 0x7a, 0x4b, 0x04, 0x08" : : "r"(at), "r"(stride) : "memory"); /* tilestored %tmm0, (%rax,%rcx) */
	return memcmp(want, got, sizeof(want)) ? "the tile has changed" : NULL;
}

static void spoil(void)
{
	want[500]++;
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, mutate, verify, spoil, NULL };
	uint32_t a, b, c, d;

	__cpuid_count(7, 0, a, b, c, d);
	errno = ENOSYS;
	if (!(d & 1 << 24) || syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM_, TILEDATA))
		svc_lack("AMX");
	load();
	return svc_main(argc, argv, &ops);
}
