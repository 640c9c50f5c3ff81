// SPDX-License-Identifier: GPL-2.0
#include "verdict.h"

enum corsa_verdict corsa_verdict(const struct corsa_view *view)
{
	if (view->over)
		return CORSA_RUN;
	if (!view->copies)
		return CORSA_LEAVE;
	if (view->active && view->in_active) {
		if (!view->at_active)
			return CORSA_BECOME;
		return view->still ? CORSA_PARK : CORSA_RUN;
	}
	if (view->parting)
		return CORSA_LEAVE;
	return view->doomed ? CORSA_RETREAT : CORSA_PARK;
}
