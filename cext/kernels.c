/* The kernels: kernels.inc, after.inc, measure.inc and scale.inc, once for each instruction set. */
#include "numerics.h"

#include <math.h>

#include "compact.h"
#include "fetch.h"
#include "kernels.h"
#include "kinds.h"
#include "lanes.h"
#include "shares.h"
#include "totals.h"
#include "variants.h"

#define REAL float
#define SQRT sqrtf
#define SIZE_OF fabsf
#define SMALLEST_NORMAL FLT_MIN
#define ELEMENTS elements_float32
#include "element.inc"
#undef REAL
#undef SQRT
#undef SIZE_OF
#undef SMALLEST_NORMAL
#undef ELEMENTS

#define REAL double
#define SQRT sqrt
#define SIZE_OF fabs
#define SMALLEST_NORMAL DBL_MIN
#define ELEMENTS elements_float64
#include "element.inc"
#undef REAL
#undef SQRT
#undef SIZE_OF
#undef SMALLEST_NORMAL
#undef ELEMENTS

/* The upper bits of variants in which all arrays are float32, or all float64, and so is the arithmetic. */
#define ALL_OF(FORMAT)                                                                                            \
    ((int64_t)(FORMAT) * (INT64_C(0x0101010101) << FASTADAM_FORMATS_AT | INT64_C(1) << FASTADAM_COMPUTE_AT))
#define FLAGS ((INT64_C(1) << FASTADAM_COMPUTE_AT) - 1)
/* Beside the flags of a variant: the step sets small moments to zero; of exp_avg_sq, roots are kept. */
#define FLUSH (INT64_C(1) << FASTADAM_COMPUTE_AT)
#define ROOTS (INT64_C(2) << FASTADAM_COMPUTE_AT)

static FASTADAM_INLINE int64_t address_in(const fastadam_span *span, int role)
{
    const int64_t addresses[N_ROLES] = {span->param, span->grad, span->exp_avg, span->exp_avg_sq,
                                        span->max_exp_avg_sq};
    return addresses[role];
}

static FASTADAM_INLINE float *scales_in(const fastadam_span *span, int role, int64_t first)
{
    const int64_t addresses[N_ROLES] = {0, 0, span->exp_avg_scale, span->exp_avg_sq_scale,
                                        span->max_exp_avg_sq_scale};
    return (float *)(uintptr_t)addresses[role] + first / FASTADAM_SCALE_BLOCK;
}

/* Fetch what is read of an array some blocks later, since what is done with numbers in between hides from
 * processors how memory is gone through: without it, steps of int8 state of 16 million take a third longer. */
enum { BLOCKS_AHEAD = 16 };
static FASTADAM_INLINE void fetch_ahead(int64_t array, int64_t element, int format)
{
    const int64_t itemsize = itemsize_of(format);
    const int64_t at = array + (element + BLOCKS_AHEAD * FASTADAM_SCALE_BLOCK) * itemsize;
    for (int64_t byte = 0; byte < FASTADAM_SCALE_BLOCK * itemsize; byte += 64)
        FETCH(at + byte);
}

/* Fetch what is read of short spans while those before them are stepped: rows of a table are scattered over
 * memory, and processors cannot foresee where the next one is. 10,000 random rows of 64 take three fifths of the
 * time so. */
enum { SPANS_AHEAD = 3, MOST_FETCHED = 1024 };
static FASTADAM_INLINE void fetch_span(int64_t variant, const fastadam_span *span)
{
    for (int role = 0; role < N_ROLES; role++) {
        const int64_t array = address_in(span, role), bytes = span->size * itemsize_of(format_in(variant, role));
        if (bytes > MOST_FETCHED || (role == MAX_EXP_AVG_SQ && !(variant & FASTADAM_AMSGRAD)))
            continue;
        for (int64_t byte = 0; byte < bytes; byte += 64)
            FETCH(array + byte);
    }
}

#define TARGET
#define NAMED(NAME) NAME##_baseline
#define AT_ONCE 0 /* whether there are codecs of many numbers at once */
#include "kernels.inc"
#define VECTOR fastadam_narrow
#define VECTOR_LANES FASTADAM_NARROW_LANES
#define OF_FLOATS FASTADAM_NARROW_OF_FLOATS
#define OF_DOUBLES FASTADAM_NARROW_OF_DOUBLES
#include "measure.inc"
#undef VECTOR
#undef VECTOR_LANES
#undef OF_FLOATS
#undef OF_DOUBLES
#include "scale.inc"
#undef TARGET
#undef NAMED

#ifdef FASTADAM_X86
#define VECTOR fastadam_wide
#define VECTOR_LANES FASTADAM_WIDE_LANES
#define OF_FLOATS FASTADAM_WIDE_OF_FLOATS
#define OF_DOUBLES FASTADAM_WIDE_OF_DOUBLES

#define TARGET __attribute__((target("avx2")))
#define NAMED(NAME) NAME##_avx2
#undef AT_ONCE
#define AT_ONCE 1
#include "avx2.h"
#include "kernels.inc"
#include "measure.inc"
#include "scale.inc"
#undef TARGET
#undef NAMED

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define NAMED(NAME) NAME##_avx512
#include "avx512.h"
#include "kernels.inc"
#include "measure.inc"
#include "scale.inc"
#undef TARGET
#undef NAMED

#undef VECTOR
#undef VECTOR_LANES
#undef OF_FLOATS
#undef OF_DOUBLES

const fastadam_kernel fastadam_kernels[] = {kernel_baseline, kernel_avx2, kernel_avx512};
const fastadam_kernel fastadam_measures[] = {measure_baseline, measure_avx2, measure_avx512};
const fastadam_kernel fastadam_scales[] = {scale_baseline, scale_avx2, scale_avx512};
#else
const fastadam_kernel fastadam_kernels[] = {kernel_baseline};
const fastadam_kernel fastadam_measures[] = {measure_baseline};
const fastadam_kernel fastadam_scales[] = {scale_baseline};
#endif
