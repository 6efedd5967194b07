/* The work list as C sees it. fastadam/step/plan.py, coefficients.py and headers.py describe the same memory as NumPy
 * structured arrays; a test compares every size and offset. All fields are 64 bits wide, so there is no padding.
 */
#ifndef FASTADAM_ADAM_H
#define FASTADAM_ADAM_H

#include <stdint.h>

/* What one step does to one set of parameters: the scalars of the formula, narrowed by the kernel. */
typedef struct {
    double step_size, inv_sqrt_bias_correction2, decay;
    double beta1, one_minus_beta1, beta2, one_minus_beta2, eps, l2, grad_scale;
} fastadam_row;

/* A contiguous run of real numbers that shares one row: five addresses, a length, the row, the caller's slot. */
typedef struct {
    int64_t param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, size, row, slot;
} fastadam_span;

/* Consecutive spans that one compiled variant can take: kind = 4 * format + 2 * l2 + amsgrad, where the formats
 * are 0 float32, 1 float64, 2 bfloat16, 3 float16. The last word is used by the Numba kernels. */
typedef struct {
    int64_t kind, first, count, elements, threads, taken;
} fastadam_batch;

/* An array that gets one gradient: its array object, and the dtype object that it and its gradient must have. */
typedef struct {
    int64_t param_object, descr;
} fastadam_slot;

/* Where the parts of a NumPy array object lie, in bytes from its start (fastadam/memory/array_offsets.py finds them). */
typedef struct {
    int64_t array_type, type, data, ndim, dims, descr, flags;
} fastadam_headers;

/* A step counter: its address, and what it is: 0 int64, 1 float64, 2 float32. */
typedef struct {
    int64_t place, type;
} fastadam_counter;

/* What the scalars of a row that move with the step are computed from, with the counter of the steps taken. */
typedef struct {
    double lr, log_beta1, log_beta2, weight_decay;
    int64_t place, type;
} fastadam_pace;

/* The first n_paces rows have a pace; the other ones are taken as they are. */
typedef struct {
    int64_t spans, rows, paces, n_paces, batches, n_batches, counters, n_counters;
    int64_t slots, grad_objects, fence_starts, fence_ends, n_fences;
    fastadam_headers headers;
} fastadam_plan;

/* Take one step, and count it, after computing the rows that have a pace. With check, look at every gradient's
 * array object first; where one is not plain, write nothing and return its slot. Returns -1 when the step was
 * taken. */
int64_t fastadam_step(const fastadam_plan *plan, int check);

/* Does [lo, hi) meet one of the plan's fences? *below guesses how many of them start below hi, and is set to what
 * was found: neighbours often lie between the same two fences. A first guess of 0 is always allowed. */
int fastadam_is_fenced(const fastadam_plan *plan, int64_t lo, int64_t hi, int64_t *below);

/* Instruction sets: 0 baseline, 1 AVX2, 2 AVX-512. */
int fastadam_supports(int instruction_set);
int fastadam_instruction_set(void);
void fastadam_use(int instruction_set);

int fastadam_has_openmp(void);

#endif
