/* The third stage of a step: share the batches out over threads, and count. */
#include "adam.h"
#include "kernels.h"
#include "shares.h"
#include "stages.h"

int fastadam_has_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

int64_t fastadam_share_size(const fastadam_batch *batch)
{
    const int64_t n = batch->threads * FASTADAM_SHARES_PER_THREAD;
    return (batch->elements + n - 1) / n;
}

void fastadam_part_of_span(const fastadam_span *span, int64_t start, int64_t low, int64_t high, int64_t *first,
                           int64_t *last)
{
    part_of_span(span, start, low, high, first, last);
}

static void step_batch(const fastadam_plan *plan, const fastadam_batch *batch)
{
    const fastadam_kernel kernel = fastadam_kernels[fastadam_instruction_set()];
#ifdef _OPENMP
    if (batch->threads > 1) {
        const int64_t size = fastadam_share_size(batch);
#pragma omp parallel for num_threads((int)batch->threads) schedule(dynamic, 1)
        for (int64_t i = 0; i < batch->threads * FASTADAM_SHARES_PER_THREAD; i++)
            kernel(plan, batch, size * i, size * (i + 1));
        return;
    }
#endif
    kernel(plan, batch, 0, batch->elements);
}

/* Here, in the call that takes the step, so that an interrupt in Python cannot come between the two. */
static void count(const fastadam_plan *plan)
{
    const fastadam_counter *counter = (const fastadam_counter *)(uintptr_t)plan->counters;
    for (int64_t i = 0; i < plan->n_counters; i++, counter++) {
        void *steps = (void *)(uintptr_t)counter->address;
        if (counter->type == FASTADAM_COUNTER_INT64)
            *(int64_t *)steps += 1;
        else if (counter->type == FASTADAM_COUNTER_FLOAT64)
            *(double *)steps += 1;
        else
            *(float *)steps += 1;
    }
}

void fastadam_apply(const fastadam_plan *plan)
{
    const fastadam_batch *batches = (const fastadam_batch *)(uintptr_t)plan->batches;
    for (int64_t b = 0; b < plan->n_batches; b++)
        step_batch(plan, batches + b);
    count(plan);
}
