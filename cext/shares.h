/* How a batch is shared out: where its spans may be cut. */
#ifndef FASTADAM_SHARES_H
#define FASTADAM_SHARES_H

#include "numerics.h"
#include "structs.h"

/* Whether gradients become zero right where they have been read. Where there are several, which may share memory,
 * they do when all of them have been. */
static FASTADAM_INLINE int zeroes_at_once(const fastadam_plan *plan)
{
    const fastadam_batch *batches = (const fastadam_batch *)(uintptr_t)plan->batches;
    if (plan->n_batches != 1 || batches->count != 1 || batches->variant & FASTADAM_IDLE)
        return 0;
    return ((const fastadam_after *)(uintptr_t)plan->after)->zeroes != 0;
}

/* Which of a span's parameters an element belongs to; there are at least two. */
static FASTADAM_INLINE int64_t param_at(const fastadam_span *span, int64_t element)
{
    const int64_t *starts = (const int64_t *)(uintptr_t)span->starts;
    int64_t low = 0, high = span->n_starts;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (starts[middle] <= element)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The last border of a block at or before an element of a span. Blocks are counted from the start of the parameter
 * that the element belongs to. */
static FASTADAM_INLINE int64_t border(const fastadam_span *span, int64_t element)
{
    const int64_t *starts = (const int64_t *)(uintptr_t)span->starts;
    const int64_t start = span->n_starts > 1 ? starts[param_at(span, element)] : 0;
    return start + (element - start) / FASTADAM_BLOCK * FASTADAM_BLOCK;
}

/* See fastadam_part_of_span. Both ends of a share go to the border before them, so that it begins where the one
 * before it ends. */
static FASTADAM_INLINE void part_of_span(const fastadam_span *span, int64_t start, int64_t low, int64_t high,
                                         int64_t *first, int64_t *last)
{
    *first = low > start ? border(span, low - start) : 0;
    *last = high < start + span->size ? border(span, high - start) : span->size;
}

#endif
