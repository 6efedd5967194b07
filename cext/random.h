/* The random bits that numbers are rounded with; fastadam/step/compact.py has the same in Python, and says more.
 */
#ifndef FASTADAM_RANDOM_H
#define FASTADAM_RANDOM_H

#include "variants.h"

/* The odd whole number nearest to 2^64 divided by the golden ratio. */
#define GOLDEN_64 UINT64_C(0x9e3779b97f4a7c15)

/* The finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). */
static FASTADAM_INLINE uint64_t mix64(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* What the random bits of a row come from in the 1-based step, a whole number. */
static FASTADAM_INLINE uint64_t random_key(int64_t seed, double step)
{
    return mix64(mix64((uint64_t)seed + GOLDEN_64) ^ (uint64_t)step);
}

/* The random bits of an array: element i, counted from the first one of a span, is rounded with the upper 16 bits
 * of start + i * stride. */
typedef struct {
    uint32_t start, stride;
} fastadam_sequence;

static FASTADAM_INLINE fastadam_sequence random_sequence(uint64_t key, const fastadam_span *span, int role)
{
    const uint64_t number = N_ROLES * (uint64_t)span->position + (uint64_t)role + 1;
    const uint64_t hash = mix64(key + number * GOLDEN_64);
    const uint32_t stride = (uint32_t)hash | 1;
    return (fastadam_sequence){(uint32_t)(hash >> 32) + (uint32_t)span->first * stride, stride};
}

static FASTADAM_INLINE int is_rounded_at_random(int format)
{
    return format == FASTADAM_INT8 || format == FASTADAM_ROOT8 || format == FASTADAM_BFLOAT16_STOCHASTIC ||
           format == FASTADAM_FLOAT16_STOCHASTIC;
}

/* Those of the arrays of a parameter that are rounded at random; a running maximum is not, with which it would not
 * stay what it is: it is rounded to nearest. */
static FASTADAM_INLINE void find_sequences(fastadam_sequence *sequences, int64_t variant, uint64_t key,
                                           const fastadam_span *span)
{
    for (int role = 0; role < MAX_EXP_AVG_SQ; role++)
        sequences[role] = is_rounded_at_random(format_in(variant, role)) ? random_sequence(key, span, role)
                                                                         : (fastadam_sequence){0, 0};
    sequences[MAX_EXP_AVG_SQ] = (fastadam_sequence){UINT32_C(0x80000000), 0};
}

#endif
