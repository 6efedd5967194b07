/* What is done with gradients alone: the second stage of a step adds up their squares, and they can be scaled. */
#include "adam.h"
#include "kernels.h"
#include "stages.h"
#include "totals.h"

void fastadam_measure(const fastadam_plan *plan)
{
    const fastadam_norm *norm = (const fastadam_norm *)(uintptr_t)plan->norm;
    fastadam_total *totals = (fastadam_total *)(uintptr_t)norm->totals;
    const int64_t n = fastadam_most_threads(plan);
    for (int64_t i = 0; i < n; i++)
        clear_total(totals + i);
    /* Gradients are read from the first one on right after this. */
    fastadam_share_out(plan, fastadam_measures[fastadam_instruction_set()], FASTADAM_BACKWARD);
}

void fastadam_scale(const fastadam_plan *plan)
{
    if (((const fastadam_norm *)(uintptr_t)plan->norm)->scale != 1.0)
        fastadam_share_out(plan, fastadam_scales[fastadam_instruction_set()], FASTADAM_FORWARD);
}
