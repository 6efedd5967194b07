/* The norm of a list of PyTorch's gradients, and their scaling. */
#ifndef FASTADAM_GRADIENTS_H
#define FASTADAM_GRADIENTS_H

#include <stdint.h>

#include "adam.h"
#include "structs.h"

/* Read a list of gradients, whose address is grads, into a plan, and run stages over it, if they have no more
 * numbers than known->most; the caller keeps the list until that is over. Returns what fastadam_run does;
 * FASTADAM_READ, if the plan is ready to be run; or, if nothing was written, the position of a gradient that
 * Python has to look at. */
int64_t fastadam_run_on_gradients(const fastadam_gradients *known, int64_t grads, int64_t stages);

#endif
