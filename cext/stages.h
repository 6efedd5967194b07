/* The stages of a step, which fastadam_run puts together. */
#ifndef FASTADAM_STAGES_H
#define FASTADAM_STAGES_H

#include "structs.h"

/* Look at the gradients' objects and note where their numbers are; FASTADAM_TAKEN, or the slot of one that is not
 * plain. */
int64_t fastadam_inspect(const fastadam_plan *plan);

/* Compute what has to be known of the whole before the first element is written. */
void fastadam_reduce(const fastadam_plan *plan);

/* Step all elements, and count the step. */
void fastadam_apply(const fastadam_plan *plan);

#endif
