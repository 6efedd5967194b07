/* The last stage of a step: step all elements, and count. */
#include "adam.h"
#include "kernels.h"
#include "shares.h"
#include "sharing.h"
#include "stages.h"
#include "variants.h"

#include <string.h>

/* Here, in the call that takes the step, so that an interrupt in Python cannot come between the two. */
static void count(const fastadam_plan *plan)
{
    const fastadam_counter *counter = (const fastadam_counter *)(uintptr_t)plan->counters;
    const fastadam_row_inputs *inputs = (const fastadam_row_inputs *)(uintptr_t)plan->row_inputs;
    for (int64_t i = 0; i < plan->n_counters; i++, counter++) {
        if (i < plan->n_row_inputs && inputs[i].left_out)
            continue;
        void *steps = (void *)(uintptr_t)counter->address;
        if (counter->type == FASTADAM_COUNTER_INT64)
            *(int64_t *)steps += 1;
        else if (counter->type == FASTADAM_COUNTER_FLOAT64)
            *(double *)steps += 1;
        else
            *(float *)steps += 1;
    }
}

/* See fastadam_kernel: let the gradients be zero. */
static void zero(const fastadam_plan *plan, const fastadam_batch *batch, int64_t low, int64_t high, int thread)
{
    const fastadam_span *span = (const fastadam_span *)(uintptr_t)plan->spans + batch->first;
    const int64_t itemsize = grad_itemsize(batch->variant);
    int64_t start = 0;
    (void)thread;
    if (batch->variant & FASTADAM_IDLE)
        return;
    for (int64_t i = 0; i < batch->count && start < high; i++, span++) {
        if (low < start + span->size) {
            int64_t first, last;
            part_of_span(span, start, low, high, &first, &last);
            if (first < last)
                memset((char *)(uintptr_t)span->grad + first * itemsize, 0, (size_t)((last - first) * itemsize));
        }
        start += span->size;
    }
}

void fastadam_apply(const fastadam_plan *plan)
{
    fastadam_share_out(plan, fastadam_kernels[fastadam_instruction_set()], FASTADAM_FORWARD);
    if (((const fastadam_after *)(uintptr_t)plan->after)->zeroes && !zeroes_at_once(plan))
        fastadam_share_out(plan, zero, FASTADAM_FORWARD);
    count(plan);
}
