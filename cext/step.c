/* A step, put together of its stages. */
#include "adam.h"
#include "stages.h"

int64_t fastadam_run(const fastadam_plan *plan, int64_t stages)
{
    if (stages & FASTADAM_INSPECT) {
        const int64_t outcome = fastadam_inspect(plan);
        if (outcome != FASTADAM_TAKEN)
            return outcome;
    }
    if (stages & FASTADAM_REDUCE)
        fastadam_reduce(plan);
    if (stages & FASTADAM_APPLY)
        fastadam_apply(plan);
    return FASTADAM_TAKEN;
}
