/* bfloat16 and float16 as kernels read and write them: 16 bits in memory, float32 in arithmetic.
 *
 * Rounding is to nearest, ties to even. All of it is integer arithmetic or exact floating-point arithmetic, so
 * every instruction set gives the same bits; fastadam/step/rounding.py is the same in Python.
 */
#ifndef FASTADAM_FORMATS_H
#define FASTADAM_FORMATS_H

#include <stdint.h>
#include <string.h>

#include "numerics.h"

static FASTADAM_INLINE float float_of(uint32_t bits)
{
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static FASTADAM_INLINE uint32_t bits_of(float number)
{
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

/* A bfloat16 is the upper half of a float32. */
static FASTADAM_INLINE float widen_bfloat16(uint16_t half) { return float_of((uint32_t)half << 16); }

static FASTADAM_INLINE uint16_t narrow_bfloat16(float number)
{
    const uint32_t bits = bits_of(number);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

/* A float16 has 5 bits of exponent and 10 of mantissa. Moved to the place of a float32's, its exponent is too
 * small by 112. A subnormal number is moved to one that is too large by the smallest normal float16, and exactly
 * so: no float32 on the way is subnormal, with which many processors are slow. */
static FASTADAM_INLINE float widen_float16(uint16_t half)
{
    const uint32_t magnitude = half & 0x7fff, sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t shifted = magnitude << 13;
    const uint32_t normal = shifted + (112u << 23);
    const uint32_t subnormal = bits_of(float_of(shifted + (113u << 23)) - 0x1p-14f);
    const uint32_t finite = magnitude < 0x0400 ? subnormal : normal;
    const uint32_t special = shifted | 0x7f800000;
    return float_of(sign | (magnitude >= 0x7c00 ? special : finite));
}

static FASTADAM_INLINE uint16_t narrow_float16(float number)
{
    const uint32_t bits = bits_of(number), magnitude = bits & 0x7fffffff, sign = (bits >> 16) & 0x8000;
    /* Below 2^-14 the result is subnormal, a multiple of 2^-24, as are the float32 numbers from 0.5 to 1. */
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
    const uint32_t normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    uint32_t half = magnitude < 0x38800000 ? subnormal : normal;
    half = magnitude >= 0x477ff000 ? 0x7c00 : half; /* what rounds to 65536 or more */
    half = magnitude > 0x7f800000 ? 0x7e00 : half;  /* NaN */
    return (uint16_t)(sign | half);
}

#endif
