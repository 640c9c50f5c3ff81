// SPDX-License-Identifier: GPL-2.0
/*
 * verdict() against a model that asks the questions one by one, in the words of
 * uapi/corsa.h, for every combination of facts.
 */
#include <linux/printk.h>

#include "../verdict.h"

static bool horrible_may_run_user_code(const struct corsa_view *view)
{
	if (view->over)
		return true;
	if (!view->active || !view->in_active || !view->at_active)
		return false;
	if (view->copies == 0)
		return false;
	return !view->still;
}

static bool horrible_must_end(const struct corsa_view *view)
{
	bool has_a_home = view->copies > 0;
	bool will_ever_run = !view->parting || (view->active && view->in_active);

	if (view->over)
		return false;
	return !has_a_home || !will_ever_run;
}

static bool horrible_must_move(const struct corsa_view *view, bool *to_active)
{
	*to_active = view->active && view->in_active;
	if (view->over || horrible_must_end(view))
		return false;
	if (*to_active)
		return !view->at_active;
	return view->doomed;
}

static enum corsa_verdict horrible_verdict(const struct corsa_view *view)
{
	bool to_active;

	if (horrible_may_run_user_code(view))
		return CORSA_RUN;
	if (horrible_must_end(view))
		return CORSA_LEAVE;
	if (horrible_must_move(view, &to_active))
		return to_active ? CORSA_BECOME : CORSA_RETREAT;
	return CORSA_PARK;
}

bool corsa_verdict_selftest(void)
{
	unsigned int bits, copies, tried = 0;

	for (bits = 0; bits < 1 << 7; bits++) {
		for (copies = 0; copies < 3; copies++) {
			struct corsa_view view = {
				.over = bits & 1,
				.parting = bits & 2,
				.active = bits & 4,
				.still = bits & 8,
				.in_active = bits & 16,
				.at_active = bits & 32,
				.doomed = bits & 64,
				.copies = copies,
			};
			enum corsa_verdict got = corsa_verdict(&view);
			enum corsa_verdict want = horrible_verdict(&view);

			tried++;
			if (got == want)
				continue;
			pr_err("corsa: selftest verdict: facts %#x, %u copies: %d, want %d\n",
			       bits, copies, got, want);
			return false;
		}
	}
	pr_info("corsa: selftest verdict: %u passed\n", tried);
	return true;
}
