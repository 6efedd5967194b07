/* Sharing the batches of a plan out over threads. */
#ifdef _OPENMP
#include <omp.h>
#endif

#include "adam.h"
#include "shares.h"
#include "sharing.h"
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

int64_t fastadam_most_threads(const fastadam_plan *plan)
{
    const fastadam_batch *batches = (const fastadam_batch *)(uintptr_t)plan->batches;
    int64_t most = 1;
    for (int64_t b = 0; b < plan->n_batches; b++)
        if (batches[b].threads > most)
            most = batches[b].threads;
    return most;
}

#ifdef _OPENMP
/* On as many threads as the batch of the plan that is given most: a team that shrinks ends the threads that it
 * does not need, which the next batch would have to make again. */
static void share_batch(const fastadam_plan *plan, const fastadam_batch *batch, fastadam_kernel kernel,
                        fastadam_order order, int threads, fastadam_team *team)
{
    const int64_t size = fastadam_share_size(batch), shares = batch->threads * FASTADAM_SHARES_PER_THREAD;
    const fastadam_span *spans = (const fastadam_span *)(uintptr_t)plan->spans + batch->first;
    int granted = 1;
#pragma omp parallel num_threads(threads)
    {
        /* Each thread goes through the spans once, from share to share: there may be very many of them. */
        int64_t at = 0, start = 0; /* a span, and the elements before it */
        if (team != NULL)
            fastadam_join_team(team);
#pragma omp master
        granted = omp_get_num_threads();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < shares; i++) {
            const int64_t share = order == FASTADAM_BACKWARD ? shares - 1 - i : i, low = size * share;
            while (start > low)
                start -= spans[--at].size;
            while (at + 1 < batch->count && start + spans[at].size <= low)
                start += spans[at++].size;
            fastadam_batch rest = *batch;
            rest.first += at;
            rest.count -= at;
            kernel(plan, &rest, low - start, low - start + size, omp_get_thread_num());
        }
    }
    if (team != NULL)
        fastadam_note_team(team, threads, granted);
}

/* How many threads the plan's regions run on: as many as its batches are given, if they can be had. */
static int threads_of(const fastadam_plan *plan, fastadam_team **team)
{
    const int64_t most = fastadam_most_threads(plan);
    if (most == 1)
        return 1;
    *team = fastadam_own_team();
    return *team != NULL || !FASTADAM_HAS_TEAMS ? fastadam_team_size(*team, most) : 1;
}
#endif

void fastadam_share_out(const fastadam_plan *plan, fastadam_kernel kernel, fastadam_order order)
{
    const fastadam_batch *batches = (const fastadam_batch *)(uintptr_t)plan->batches;
#ifdef _OPENMP
    fastadam_team *team = NULL;
    const int threads = threads_of(plan, &team);
#endif
    for (int64_t i = 0; i < plan->n_batches; i++) {
        const fastadam_batch *batch = batches + (order == FASTADAM_BACKWARD ? plan->n_batches - 1 - i : i);
#ifdef _OPENMP
        if (threads > 1 && batch->threads > 1) {
            share_batch(plan, batch, kernel, order, threads, team);
            continue;
        }
#endif
        kernel(plan, batch, 0, batch->elements, 0);
    }
}
