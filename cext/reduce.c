/* The second stage of a step: the rows of scalars. */
#include "numerics.h"

#include <math.h>

#include "bias_correction.h"
#include "stages.h"

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

/* The same operations as in fastadam/step/coefficients.py, in the same order: bits must not depend on who computes
 * them. */
void fastadam_reduce(const fastadam_plan *plan)
{
    fastadam_row *row = (fastadam_row *)(uintptr_t)plan->rows;
    const fastadam_row_inputs *inputs = (const fastadam_row_inputs *)(uintptr_t)plan->row_inputs;
    for (int64_t i = 0; i < plan->n_row_inputs; i++, row++, inputs++) {
        const double step = next_step(&inputs->counter);
        row->step_size = inputs->lr / bias_correction(inputs->log_beta1_high, inputs->log_beta1_low, step);
        row->inv_sqrt_bias_correction2 =
            1.0 / sqrt(bias_correction(inputs->log_beta2_high, inputs->log_beta2_low, step));
        row->decay_rate = inputs->lr * inputs->weight_decay;
        row->tiny = flushes_at(step) ? inputs->tiny : 0.0;
    }
}
