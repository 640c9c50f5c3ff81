// SPDX-License-Identifier: GPL-2.0
#include "cases.h"
const struct test bench_tests[] = { { 0 } };
