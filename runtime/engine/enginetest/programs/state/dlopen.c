//: doc dlopen, dlsym and dlclose after the branch and after each restore; one library stays loaded
//: object libraries loaded at run time (dlopen)
//: optional
#include "svc.h"
#include "sum.h"
#include <dlfcn.h>

static const char *library = "libm.so.6";
static double (*kept)(double);

static const char *verify(void)
{
	void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	double (*root)(double);

	if (!handle)
		return svc_fail("dlopen: %s", dlerror());
	root = (double (*)(double))dlsym(handle, "sqrt");
	if (!root || root(49) != 7)
		return "the library's function does not work";
	if (dlclose(handle))
		return svc_fail("dlclose: %s", dlerror());
	if (sum % 2 && !kept) { /* some instances keep it, from some time on */
		handle = dlopen(library, RTLD_NOW);
		kept = handle ? (double (*)(double))dlsym(handle, "sqrt") : NULL;
		if (!kept)
			return "the library cannot be kept";
	}
	return kept && kept(81) != 9 ? "the library that was kept does not work" : NULL;
}

static void spoil(void)
{
	library = "libthere-is-none.so";
}

int main(int argc, char **argv)
{
	static const struct svc_ops ops = { sum_get, sum_mutate, verify, spoil, NULL };
	void *handle = dlopen(library, RTLD_NOW);

	if (!handle)
		svc_lack("libm.so.6");
	dlclose(handle);
	return svc_main(argc, argv, &ops);
}
