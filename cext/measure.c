/* The second stage of a step: add up the squares of the gradients. */
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
    fastadam_share_out(plan, fastadam_measures[fastadam_instruction_set()]);
}
