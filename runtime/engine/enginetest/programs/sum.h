/*
 * sum.h: the sum as plain memory, for programs whose state under test is something else, which they verify.
 */
#ifndef SUM_H
#define SUM_H

static uint64_t sum;

static uint64_t sum_get(void)
{
	return sum;
}

static void sum_mutate(uint64_t n)
{
	sum += n;
}

#endif
