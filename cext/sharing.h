/* Sharing the batches of a plan out over threads. */
#ifndef FASTADAM_SHARING_H
#define FASTADAM_SHARING_H

#include "structs.h"

/* Works on elements low to high of a batch, counted across its spans, or what the borders of blocks make of it.
 * thread is the number of the thread that does it, below that of the plan's most threads. */
typedef void (*fastadam_kernel)(const fastadam_plan *plan, const fastadam_batch *batch, int64_t low, int64_t high,
                                int thread);

/* How many threads the plan's batches are given at most. */
int64_t fastadam_most_threads(const fastadam_plan *plan);

/* Backward: the last share of the last batch first. What is worked on last is in the cache for what follows, which
 * begins with the first share. */
typedef enum { FASTADAM_FORWARD, FASTADAM_BACKWARD } fastadam_order;

/* Run a kernel over all elements of all batches. */
void fastadam_share_out(const fastadam_plan *plan, fastadam_kernel kernel, fastadam_order order);

#endif
