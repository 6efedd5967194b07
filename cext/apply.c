/* The third stage of a step: share the batches out over threads, and count. */
#ifdef _OPENMP
#include <omp.h>
#endif

#include "adam.h"
#include "kernels.h"
#include "shares.h"
#include "stages.h"
#include "teams.h"

#include <stddef.h>

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

#ifdef _OPENMP
/* On as many threads as the batch of the plan that is given most: a team that shrinks ends the threads that it
 * does not need, which the next batch would have to make again. */
static void share_out(const fastadam_plan *plan, const fastadam_batch *batch, int threads, fastadam_team *team)
{
    const fastadam_kernel kernel = fastadam_kernels[fastadam_instruction_set()];
    const int64_t size = fastadam_share_size(batch);
    int granted = 1;
#pragma omp parallel num_threads(threads)
    {
        if (team != NULL)
            fastadam_join_team(team);
#pragma omp master
        granted = omp_get_num_threads();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < batch->threads * FASTADAM_SHARES_PER_THREAD; i++)
            kernel(plan, batch, size * i, size * (i + 1));
    }
    if (team != NULL)
        fastadam_note_team(team, threads, granted);
}

/* How many threads the plan's regions run on: as many as its batches are given, if they can be had. */
static int threads_of(const fastadam_plan *plan, fastadam_team **team)
{
    const fastadam_batch *batches = (const fastadam_batch *)(uintptr_t)plan->batches;
    int64_t most = 1;
    for (int64_t b = 0; b < plan->n_batches; b++)
        if (batches[b].threads > most)
            most = batches[b].threads;
    if (most == 1)
        return 1;
    *team = fastadam_own_team();
    return *team != NULL || !FASTADAM_HAS_TEAMS ? fastadam_team_size(*team, most) : 1;
}
#endif

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
    const fastadam_kernel kernel = fastadam_kernels[fastadam_instruction_set()];
    const fastadam_batch *batches = (const fastadam_batch *)(uintptr_t)plan->batches;
#ifdef _OPENMP
    fastadam_team *team = NULL;
    const int threads = threads_of(plan, &team);
#endif
    for (int64_t b = 0; b < plan->n_batches; b++) {
#ifdef _OPENMP
        if (threads > 1 && batches[b].threads > 1) {
            share_out(plan, batches + b, threads, team);
            continue;
        }
#endif
        kernel(plan, batches + b, 0, batches[b].elements);
    }
    count(plan);
}
