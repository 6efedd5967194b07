/* The native step over plans. structs.h has the memory that it works on. */
#ifndef FASTADAM_ADAM_H
#define FASTADAM_ADAM_H

#include <stdint.h>

#include "structs.h"

/* Run the stages of a step (a sum of FASTADAM_INSPECT, FASTADAM_MEASURE, FASTADAM_REDUCE and FASTADAM_APPLY).
 * Returns FASTADAM_TAKEN when all of them have been run; else the slot of a gradient that is not plain,
 * FASTADAM_SKIPPED or FASTADAM_REFUSED, and then nothing was written but addresses of gradients and the norm. */
int64_t fastadam_run(const fastadam_plan *plan, int64_t stages);

/* Does [lo, hi) meet memory that the step writes? *below is how many of its intervals started below the last one
 * that was found: neighbours often lie between the same two. A first guess of 0 is always allowed. */
int fastadam_is_written(const fastadam_plan *plan, int64_t lo, int64_t hi, int64_t *below);

/* Cut rows into runs; returns how many there are. There is room for as many as there are rows. */
int64_t fastadam_cut_rows(const fastadam_cut *cut);

/* Elements of one share of a batch, but for the border that it is moved to. */
int64_t fastadam_share_size(const fastadam_batch *batch);

/* The part of a span, which begins at element start of its batch, that belongs to the elements low to high of the
 * batch: from *first to *last, counted from the span's start. Both are its ends, or borders of blocks. */
void fastadam_part_of_span(const fastadam_span *span, int64_t start, int64_t low, int64_t high, int64_t *first,
                           int64_t *last);

/* Instruction sets: 0 baseline, 1 AVX2, 2 AVX-512. */
int fastadam_supports(int instruction_set);
int fastadam_instruction_set(void);
void fastadam_use(int instruction_set);

int fastadam_has_openmp(void);

#endif
