/* The stages of a step, which fastadam_run puts together. */
#ifndef FASTADAM_STAGES_H
#define FASTADAM_STAGES_H

#include "structs.h"

/* Look at the gradients' objects and note where their numbers are; FASTADAM_TAKEN, or the slot of one that is not
 * plain. */
int64_t fastadam_inspect(const fastadam_plan *plan);

/* Add up the squares of the gradients in the totals of the plan's norm. */
void fastadam_measure(const fastadam_plan *plan);

/* Compute what has to be known of the whole before the first element is written; FASTADAM_TAKEN, or what stands in
 * the way: FASTADAM_SKIPPED or FASTADAM_REFUSED. */
int64_t fastadam_reduce(const fastadam_plan *plan);

/* Multiply the gradients by the scale of the plan's norm, in place. */
void fastadam_scale(const fastadam_plan *plan);

/* Step all elements, and count the step. */
void fastadam_apply(const fastadam_plan *plan);

#endif
