/* Steps that leave out spans of their plan: those whose parameters have no gradient. */
#ifndef FASTADAM_LEAVING_OUT_H
#define FASTADAM_LEAVING_OUT_H

#include "numerics.h"
#include "structs.h"

/* Say whether this step leaves a span out. One that is IDLE leaves the row alone, which it shares. */
static FASTADAM_INLINE void leave_out(const fastadam_plan *plan, fastadam_span *span, int is_idle, int left_out)
{
    span->size = left_out ? 0 : span->length;
    if (!is_idle)
        ((fastadam_row_inputs *)(uintptr_t)plan->row_inputs)[span->row].left_out = left_out;
}

/* Say how many elements of a batch are stepped, and on how many threads. */
static FASTADAM_INLINE void set_elements(fastadam_batch *batch, int64_t elements)
{
    const int64_t threads = elements / FASTADAM_ELEMENTS_PER_THREAD;
    batch->elements = elements;
    batch->threads = threads > batch->most_threads ? batch->most_threads : threads > 1 ? threads : 1;
}

#endif
