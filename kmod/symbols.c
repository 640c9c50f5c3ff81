// SPDX-License-Identifier: GPL-2.0
#include <linux/kprobes.h>
#include <linux/module.h>

#include "symbols.h"

#define CORSA_DEFINE_SYMBOL(ret, name, ...)                                    \
	DEFINE_STATIC_CALL_NULL(corsa_##name, corsa_proto_##name);
CORSA_REQUIRED_SYMBOLS(CORSA_DEFINE_SYMBOL)
CORSA_OPTIONAL_SYMBOLS(CORSA_DEFINE_SYMBOL)

bool corsa_symbol_present[CORSA_HAS_COUNT];

/*
 * kallsyms_lookup_name() is itself not exported; kprobes resolve any name. A
 * probe per symbol would do as well, but not for data and assembly labels.
 */
static unsigned long find_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long address;

	if (register_kprobe(&probe) < 0)
		return 0;
	address = (unsigned long)probe.addr;
	unregister_kprobe(&probe);
	return address;
}

static unsigned long (*lookup)(const char *name);

unsigned long corsa_symbols_find(const char *name)
{
	return lookup(name);
}

int corsa_symbols_init(void)
{
	int missing = 0;
	void *address;

	lookup = (void *)find_lookup();
	if (!lookup) {
		pr_err("corsa: cannot find kernel symbols: kprobes do not work\n");
		return -ENOENT;
	}
#define CORSA_RESOLVE(ret, name, ...)                                          \
	address = (void *)lookup(#name);                                       \
	if (address)                                                           \
		static_call_update(corsa_##name,                               \
				   (typeof(&corsa_proto_##name))address);
#define CORSA_RESOLVE_REQUIRED(ret, name, ...)                                 \
	CORSA_RESOLVE(ret, name, __VA_ARGS__)                                  \
	if (!address) {                                                        \
		pr_err("corsa: this kernel has no symbol " #name "\n");        \
		missing++;                                                     \
	}
#define CORSA_RESOLVE_OPTIONAL(ret, name, ...)                                 \
	CORSA_RESOLVE(ret, name, __VA_ARGS__)                                  \
	corsa_symbol_present[CORSA_HAS_##name] = address;

	CORSA_REQUIRED_SYMBOLS(CORSA_RESOLVE_REQUIRED)
	CORSA_OPTIONAL_SYMBOLS(CORSA_RESOLVE_OPTIONAL)
	return missing ? -ENOENT : 0;
}
