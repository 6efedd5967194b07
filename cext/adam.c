/* The C backend: check the gradients, split the work over threads, run the formula of element.inc. */
#include "adam.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "more digits than the type has change results: build with CFLAGS='-msse2 -mfpmath=sse'"
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#elif !defined(__GNUC__) /* GCC and clang take -ffp-contract=off instead */
#pragma STDC FP_CONTRACT OFF
#endif

#if defined(__GNUC__)
#define FASTADAM_INLINE inline __attribute__((always_inline))
#define FASTADAM_RESTRICT restrict
#else
#define FASTADAM_INLINE inline
#define FASTADAM_RESTRICT
#endif

#if defined(__GNUC__) && defined(__x86_64__)
#define FASTADAM_X86 1
#endif

#include "halves.h"

#define REAL float
#define SQRT sqrtf

#define STORED float
#define WIDEN(number) (number)
#define NARROW(number) (number)
#define ELEMENTS elements_float32
#include "element.inc"
#undef STORED
#undef WIDEN
#undef NARROW
#undef ELEMENTS

#define STORED uint16_t
#define WIDEN widen_bfloat16
#define NARROW narrow_bfloat16
#define ELEMENTS elements_bfloat16
#include "element.inc"
#undef WIDEN
#undef NARROW
#undef ELEMENTS

#define WIDEN widen_float16
#define NARROW narrow_float16
#define ELEMENTS elements_float16
#include "element.inc"
#undef STORED
#undef WIDEN
#undef NARROW
#undef ELEMENTS

#undef REAL
#undef SQRT
#define REAL double
#define SQRT sqrt

#define STORED double
#define WIDEN(number) (number)
#define NARROW(number) (number)
#define ELEMENTS elements_float64
#include "element.inc"

/* Elements lo to hi of one span. The kinds are spelled out so that each is compiled with constant flags. */
static FASTADAM_INLINE void piece(int64_t kind, const fastadam_span *span, int64_t lo, int64_t hi,
                                  const fastadam_row *row)
{
#define FASTADAM_CASE(KIND, STORED, ELEMENTS, L2, AMSGRAD)                                                        \
    case KIND:                                                                                                    \
        ELEMENTS((STORED *)(uintptr_t)span->param + lo, (const STORED *)(uintptr_t)span->grad + lo,               \
                 (STORED *)(uintptr_t)span->exp_avg + lo, (STORED *)(uintptr_t)span->exp_avg_sq + lo,             \
                 AMSGRAD ? (STORED *)(uintptr_t)span->max_exp_avg_sq + lo : (STORED *)0, hi - lo, row, L2,        \
                 AMSGRAD);                                                                                        \
        break;
#define FASTADAM_CASES(FORMAT, STORED, ELEMENTS)                                                                  \
    FASTADAM_CASE(4 * FORMAT + 0, STORED, ELEMENTS, 0, 0)                                                         \
    FASTADAM_CASE(4 * FORMAT + 1, STORED, ELEMENTS, 0, 1)                                                         \
    FASTADAM_CASE(4 * FORMAT + 2, STORED, ELEMENTS, 1, 0)                                                         \
    FASTADAM_CASE(4 * FORMAT + 3, STORED, ELEMENTS, 1, 1)
    switch (kind) {
        FASTADAM_CASES(0, float, elements_float32)
        FASTADAM_CASES(1, double, elements_float64)
        FASTADAM_CASES(2, uint16_t, elements_bfloat16)
        FASTADAM_CASES(3, uint16_t, elements_float16)
    }
#undef FASTADAM_CASES
#undef FASTADAM_CASE
}

/* Elements lo to hi of a batch, counted across its spans. */
static FASTADAM_INLINE void pieces(const fastadam_plan *plan, const fastadam_batch *batch, int64_t lo, int64_t hi)
{
    const fastadam_span *span = (const fastadam_span *)(uintptr_t)plan->spans + batch->first;
    const fastadam_row *rows = (const fastadam_row *)(uintptr_t)plan->rows;
    int64_t start = 0;
    for (int64_t i = 0; i < batch->count && start < hi; i++, span++) {
        const int64_t end = start + span->size;
        const int64_t from = lo > start ? lo - start : 0;
        const int64_t to = (hi < end ? hi : end) - start;
        if (from < to) /* empty spans may have no addresses */
            piece(batch->kind, span, from, to, rows + span->row);
        start = end;
    }
}

typedef void (*pieces_function)(const fastadam_plan *, const fastadam_batch *, int64_t, int64_t);

static void pieces_baseline(const fastadam_plan *plan, const fastadam_batch *batch, int64_t lo, int64_t hi)
{
    pieces(plan, batch, lo, hi);
}

#ifdef FASTADAM_X86
__attribute__((target("avx2"))) static void pieces_avx2(const fastadam_plan *plan, const fastadam_batch *batch,
                                                        int64_t lo, int64_t hi)
{
    pieces(plan, batch, lo, hi);
}

__attribute__((target("avx512f"))) static void pieces_avx512(const fastadam_plan *plan,
                                                             const fastadam_batch *batch, int64_t lo, int64_t hi)
{
    pieces(plan, batch, lo, hi);
}

static const pieces_function variants[] = {pieces_baseline, pieces_avx2, pieces_avx512};
#else
static const pieces_function variants[] = {pieces_baseline};
#endif

/* Threads may read it while another one calls fastadam_use. */
#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L && !defined(__STDC_NO_ATOMICS__)
#include <stdatomic.h>
static atomic_int current = -1; /* -1: the best one */
#else
static volatile int current = -1;
#endif

int fastadam_supports(int instruction_set)
{
#ifdef FASTADAM_X86
    __builtin_cpu_init();
    if (instruction_set == 1)
        return __builtin_cpu_supports("avx2") != 0;
    if (instruction_set == 2)
        return __builtin_cpu_supports("avx512f") != 0;
#endif
    return instruction_set == 0;
}

int fastadam_instruction_set(void)
{
    const int chosen = current;
    return chosen >= 0 ? chosen : fastadam_supports(2) ? 2 : fastadam_supports(1) ? 1 : 0;
}

void fastadam_use(int instruction_set)
{
    if (fastadam_supports(instruction_set))
        current = instruction_set;
}

int fastadam_has_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

enum { SHARES_PER_THREAD = 8 };

static void run_batch(const fastadam_plan *plan, const fastadam_batch *batch)
{
    const pieces_function run = variants[fastadam_instruction_set()];
#ifdef _OPENMP
    if (batch->threads > 1) {
        /* More shares than threads, taken as each thread gets to them: one that has to wait for its processor does
         * not hold up the others. Multiples of 16 elements, at least a cache line: no two threads write the same
         * one. */
        const int64_t n = batch->threads * SHARES_PER_THREAD;
        const int64_t share = ((batch->elements + n - 1) / n + 15) / 16 * 16;
#pragma omp parallel for num_threads((int)batch->threads) schedule(dynamic, 1)
        for (int64_t i = 0; i < n; i++) {
            const int64_t lo = share * i;
            const int64_t hi = lo + share < batch->elements ? lo + share : batch->elements;
            if (lo < hi)
                run(plan, batch, lo, hi);
        }
        return;
    }
#endif
    run(plan, batch, 0, batch->elements);
}

static int64_t read_word(int64_t object, int64_t offset)
{
    uintptr_t word; /* unsigned: addresses are compared as numbers */
    memcpy(&word, (const char *)(uintptr_t)object + offset, sizeof word);
    return (int64_t)word;
}

static int read_int(int64_t object, int64_t offset)
{
    int value;
    memcpy(&value, (const char *)(uintptr_t)object + offset, sizeof value);
    return value;
}

/* NumPy's public flag bits (NPY_ARRAY_*). */
enum { C_CONTIGUOUS = 0x1, ALIGNED = 0x100, WRITEABLE = 0x400 };

/* Does [lo, hi) meet one of the sorted, disjoint fences (the memory that the step writes)? */
int fastadam_is_fenced(const fastadam_plan *plan, int64_t lo, int64_t hi, int64_t *below)
{
    const int64_t *starts = (const int64_t *)(uintptr_t)plan->fence_starts;
    const int64_t *ends = (const int64_t *)(uintptr_t)plan->fence_ends;
    const int64_t n = plan->n_fences;
    int64_t found = *below;
    if ((found > 0 && starts[found - 1] >= hi) || (found < n && starts[found] < hi)) {
        int64_t count = n;
        found = 0;
        while (count > 0) {
            const int64_t half = count / 2;
            if (starts[found + half] < hi) {
                found += half + 1;
                count -= half + 1;
            } else {
                count = half;
            }
        }
        *below = found;
    }
    return found > 0 && ends[found - 1] > lo;
}

/* A plain gradient is an exact ndarray of its parameter's dtype and shape, C-contiguous, aligned, and apart from
 * all that the step writes. Its parameter must still be where it was, and writable. */
static int is_plain(const fastadam_plan *plan, const fastadam_span *span)
{
    const fastadam_headers *at = &plan->headers;
    const fastadam_slot *slot = (const fastadam_slot *)(uintptr_t)plan->slots + span->slot;
    const int64_t param = slot->param_object, descr = slot->descr;
    const int64_t grad = ((const int64_t *)(uintptr_t)plan->grad_objects)[span->slot];
    if (read_word(grad, at->type) != at->array_type || read_word(grad, at->descr) != descr ||
        read_word(param, at->descr) != descr || read_word(param, at->data) != span->param)
        return 0;
    const int param_flags = C_CONTIGUOUS | ALIGNED | WRITEABLE, grad_flags = C_CONTIGUOUS | ALIGNED;
    if ((read_int(param, at->flags) & param_flags) != param_flags ||
        (read_int(grad, at->flags) & grad_flags) != grad_flags)
        return 0;
    const int ndim = read_int(grad, at->ndim);
    if (ndim != read_int(param, at->ndim))
        return 0;
    const int64_t grad_dims = read_word(grad, at->dims), param_dims = read_word(param, at->dims);
    for (int i = 0; i < ndim; i++)
        if (read_word(grad_dims, i * (int64_t)sizeof(intptr_t)) !=
            read_word(param_dims, i * (int64_t)sizeof(intptr_t)))
            return 0;
    return 1;
}

static const int64_t itemsizes[] = {4, 8, 2, 2};

/* 1 - beta^step, without cancellation. */
static double bias_correction(double log_beta, double step) { return -expm1(step * log_beta); }

/* The same operations as in fastadam/step/coefficients.py, in the same order: bits must not depend on who computes
 * them. */
static void write_rows(const fastadam_plan *plan)
{
    fastadam_row *row = (fastadam_row *)(uintptr_t)plan->rows;
    const fastadam_pace *pace = (const fastadam_pace *)(uintptr_t)plan->paces;
    for (int64_t i = 0; i < plan->n_paces; i++, row++, pace++) {
        const void *place = (const void *)(uintptr_t)pace->place;
        const double step = pace->type == 0   ? (double)(*(const int64_t *)place + 1)
                            : pace->type == 1 ? *(const double *)place + 1
                                              : (double)*(const float *)place + 1;
        row->step_size = pace->lr / bias_correction(pace->log_beta1, step);
        row->inv_sqrt_bias_correction2 = 1.0 / sqrt(bias_correction(pace->log_beta2, step));
        row->decay = 1.0 - pace->lr * pace->weight_decay;
    }
}

/* Here, in the call that takes the step, so that an interrupt in Python cannot come between the two. */
static void count(const fastadam_plan *plan)
{
    const fastadam_counter *counter = (const fastadam_counter *)(uintptr_t)plan->counters;
    for (int64_t i = 0; i < plan->n_counters; i++, counter++) {
        void *place = (void *)(uintptr_t)counter->place;
        if (counter->type == 0)
            *(int64_t *)place += 1;
        else if (counter->type == 1)
            *(double *)place += 1;
        else
            *(float *)place += 1;
    }
}

int64_t fastadam_step(const fastadam_plan *plan, int check)
{
    fastadam_span *spans = (fastadam_span *)(uintptr_t)plan->spans;
    const fastadam_batch *batches = (const fastadam_batch *)(uintptr_t)plan->batches;
    if (check) {
        int64_t below = 0;
        for (int64_t b = 0; b < plan->n_batches; b++) {
            const int64_t itemsize = itemsizes[batches[b].kind / 4];
            for (int64_t i = batches[b].first; i < batches[b].first + batches[b].count; i++) {
                fastadam_span *span = spans + i;
                if (!is_plain(plan, span))
                    return span->slot;
                const int64_t grad = ((const int64_t *)(uintptr_t)plan->grad_objects)[span->slot];
                span->grad = read_word(grad, plan->headers.data);
                if (span->size > 0 &&
                    fastadam_is_fenced(plan, span->grad, span->grad + span->size * itemsize, &below))
                    return span->slot;
            }
        }
    }
    write_rows(plan);
    for (int64_t b = 0; b < plan->n_batches; b++)
        run_batch(plan, batches + b);
    count(plan);
    return -1;
}
