/* The last stage of a step: step all elements, and count. */
#include "adam.h"
#include "kernels.h"
#include "sharing.h"
#include "stages.h"

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
    fastadam_share_out(plan, fastadam_kernels[fastadam_instruction_set()]);
    count(plan);
}
