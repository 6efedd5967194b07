/* The third stage of a step: the rows of scalars. */
#include "numerics.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "bias_correction.h"
#include "random.h"
#include "sharing.h"
#include "stages.h"
#include "totals.h"

/* The number of the step that comes after those that were counted. */
static double next_step(const fastadam_counter *counter)
{
    const void *steps = (const void *)(uintptr_t)counter->address;
    if (counter->type == FASTADAM_COUNTER_INT64)
        return (double)(*(const int64_t *)steps + 1);
    if (counter->type == FASTADAM_COUNTER_FLOAT64)
        return *(const double *)steps + 1;
    return (double)*(const float *)steps + 1;
}

/* Whether small moments become zero: in every eighth step. What is added to the eighths, and taken off again,
 * leaves the nearest whole number. */
static int flushes_at(double step)
{
    const double eighths = step * 0.125, to_whole = 0x1.8p52;
    return (eighths + to_whole) - to_whole == eighths;
}

/* The factor that makes a norm at most max_norm; NaN of NaN. */
static double scale_of(double norm, double max_norm)
{
    if (max_norm == INFINITY)
        return 1.0;
    const double coefficient = max_norm / (norm + 1e-6);
    return coefficient > 1.0 ? 1.0 : coefficient;
}

/* What the gradients are multiplied by; FASTADAM_TAKEN, or what stands in the way of the step. The same operations
 * as in fastadam/step/norm.py. */
static int64_t reduce_norm(const fastadam_plan *plan)
{
    fastadam_norm *norm = (fastadam_norm *)(uintptr_t)plan->norm;
    if (norm->wanted & FASTADAM_MEASURES) {
        fastadam_total *totals = (fastadam_total *)(uintptr_t)norm->totals;
        const int64_t n = fastadam_most_threads(plan);
        for (int64_t i = 1; i < n; i++)
            add_totals(totals, totals + i);
        norm->norm = root_of_total(totals) / norm->divisor;
        if (totals->is_nan || totals->is_infinite) {
            if (norm->wanted & FASTADAM_REFUSES)
                return FASTADAM_REFUSED;
            if (norm->wanted & FASTADAM_SKIPS)
                return FASTADAM_SKIPPED;
        }
        norm->coefficient = scale_of(norm->norm, norm->max_norm);
    }
    norm->scale = norm->coefficient / norm->divisor;
    return FASTADAM_TAKEN;
}

/* How far averages move; the same operations as in fastadam/step/after.py. */
static double weight_at(double step, const fastadam_after *after)
{
    if (step == 1)
        return 1.0;
    const double limit = (1.0 + step) / (10.0 + step);
    return 1.0 - (after->warms_up && limit < after->decay ? limit : after->decay);
}

/* The same operations as in fastadam/step/coefficients.py, in the same order: bits must not depend on who computes
 * them. */
int64_t fastadam_reduce(const fastadam_plan *plan)
{
    fastadam_row *row = (fastadam_row *)(uintptr_t)plan->rows;
    const fastadam_row_inputs *inputs = (const fastadam_row_inputs *)(uintptr_t)plan->row_inputs;
    const fastadam_norm *norm = (const fastadam_norm *)(uintptr_t)plan->norm;
    const fastadam_after *after = (const fastadam_after *)(uintptr_t)plan->after;
    double *weights = (double *)(uintptr_t)plan->ema_weights;
    int64_t *random_keys = (int64_t *)(uintptr_t)plan->random_keys;
    int64_t last = -1; /* the row that was computed last */
    double last_step = 0;
    const int64_t outcome = reduce_norm(plan);
    if (outcome != FASTADAM_TAKEN)
        return outcome;
    for (int64_t i = 0; i < plan->n_row_inputs; i++, row++, inputs++) {
        if (inputs->left_out && !after->averages)
            continue;
        const double step = next_step(&inputs->counter);
        if (last >= 0 && step == last_step &&
            memcmp(inputs, inputs - (i - last), offsetof(fastadam_row_inputs, counter)) == 0 &&
            inputs->seed == inputs[last - i].seed) {
            memcpy(row, row - (i - last), offsetof(fastadam_row, beta1));
            weights[i] = weights[last];
            random_keys[i] = random_keys[last];
            continue;
        }
        last = i;
        last_step = step;
        row->step_size = inputs->lr / bias_correction(inputs->log_beta1_high, inputs->log_beta1_low, step);
        row->inv_sqrt_bias_correction2 =
            1.0 / sqrt(bias_correction(inputs->log_beta2_high, inputs->log_beta2_low, step));
        row->decay_rate = inputs->lr * inputs->weight_decay;
        row->tiny = flushes_at(step) ? inputs->tiny : 0.0;
        row->grad_scale = inputs->sign * norm->scale;
        random_keys[i] = (int64_t)random_key(inputs->seed, step);
        if (after->averages)
            weights[i] = weight_at(step, after);
    }
    return FASTADAM_TAKEN;
}
