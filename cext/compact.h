/* The formats that only a step writes, number by number; fastadam/step/compact.py has the same in Python, and says
 * why. Bits at random are whole numbers from 0 to 65535.
 */
#ifndef FASTADAM_COMPACT_H
#define FASTADAM_COMPACT_H

#include "formats.h"
#include "random.h"

/* Bits of the size of a float32. */
#define SIZE_BITS UINT32_C(0x7fffffff)
#define INFINITE_BITS UINT32_C(0x7f800000)
#define NAN_BITS UINT32_C(0x7fc00000)

static FASTADAM_INLINE uint16_t narrow_bfloat16_stochastic(float number, uint32_t random)
{
    const uint32_t bits = bits_of(number);
    return (uint16_t)(number != number ? NAN_BITS >> 16 : (bits + random) >> 16);
}

static FASTADAM_INLINE uint16_t narrow_float16_stochastic(float number, uint32_t random)
{
    const uint32_t bits = bits_of(number), magnitude = bits & SIZE_BITS, sign = (bits >> 16) & 0x8000;
    /* Below 2^-14 the result is a multiple of 2^-24; elsewhere 13 digits go. */
    const float below = magnitude < 0x38800000 ? float_of(magnitude) : 0;
    const uint32_t subnormal = ((uint32_t)(int32_t)(below * 0x1p40f) + random) >> 16;
    const uint32_t normal = (magnitude - 0x38000000 + (random >> 3)) >> 13;
    uint32_t half = magnitude < 0x38800000 ? subnormal : normal;
    half = magnitude >= 0x47800000 || half > 0x7c00 ? 0x7c00 : half;
    half = magnitude > INFINITE_BITS ? 0x7e00 : half;
    return (uint16_t)(sign | half);
}

/* A float32 is the upper half of its bits, rounded up from the middle on, and what that differs by. */
static FASTADAM_INLINE void part_master(float number, uint16_t *weight, int16_t *rest)
{
    uint32_t bits = bits_of(number);
    bits = number != number ? NAN_BITS : bits;
    *weight = (uint16_t)((bits + 0x8000) >> 16);
    *rest = (int16_t)(uint16_t)bits;
}

static FASTADAM_INLINE float join_master(uint16_t weight, int16_t rest)
{
    const uint32_t size = weight & 0x7fff;
    int32_t more = rest;
    /* Rests that no number has, beside 0 and infinity: somebody else has written the weight. */
    more = size == 0 && more < 0 ? 0 : more;
    more = size == 0x7f80 && more > 0 ? 0 : more;
    return float_of(((uint32_t)weight << 16) + (uint32_t)more);
}

/* The master beside a float16, unless somebody else has written the weight. */
static FASTADAM_INLINE float join_float16_master(uint16_t weight, float master)
{
    return narrow_float16(master) == weight ? master : widen_float16(weight);
}

/* Codes of 8 bits. Where the size of the largest number of a block is less than 2^-100, all of it becomes zero:
 * its factor would be too large. Else the largest code, times 65536, is just below what has to be rounded to it.
 */
#define LEAST_SIZE INT32_C(0x0d800000)

static FASTADAM_INLINE float factor_of(int most) { return (float)(most * 65536 - 4); }

/* The number whose size has these bits. */
static FASTADAM_INLINE float size_of(int32_t bits) { return bits >= LEAST_SIZE ? float_of((uint32_t)bits) : 0; }

/* What the moments of a block are stored with in 8 bits, by FACTOR and SCALE of exp_avg and, a half further on, of
 * exp_avg_sq. The bit MARKED << half says that not all of its numbers are finite. */
enum { FACTOR = 0, SCALE = 1, HALF = 4, MARKED = 1 };
typedef struct {
    float quotients[2 * HALF];
    int marked;
} fastadam_scaling;

static FASTADAM_INLINE int64_t in_block(int64_t n) { return n < FASTADAM_SCALE_BLOCK ? n : FASTADAM_SCALE_BLOCK; }

/* Blocks with numbers that are not finite: what stands for those is the code that no number has, and the codes of
 * the largest sizes. */
static FASTADAM_NOINLINE void load_marked_int8(const int8_t *codes, float scale, float *numbers, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        numbers[i] = codes[i] == -128   ? float_of(NAN_BITS)
                     : codes[i] == 127  ? INFINITY
                     : codes[i] == -127 ? -INFINITY
                                        : (float)codes[i] * scale;
}

static FASTADAM_NOINLINE void load_marked_root8(const uint8_t *codes, float scale, float *numbers, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const float root = (float)codes[i] * scale;
        numbers[i] = codes[i] == 255 ? float_of(NAN_BITS) : codes[i] == 254 ? INFINITY : root * root;
    }
}

/* The bits of the largest finite size, or 0 where it is too small. */
static FASTADAM_INLINE float largest_finite(const float *numbers, int64_t n)
{
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t size = bits_of(numbers[i]) & SIZE_BITS;
        largest = size < INFINITE_BITS && size > largest ? size : largest;
    }
    return largest >= (uint32_t)LEAST_SIZE ? float_of(largest) : 0;
}

static FASTADAM_NOINLINE float store_marked_int8(int8_t *codes, const float *numbers, int64_t n, uint32_t random,
                                                 uint32_t stride)
{
    const float largest = largest_finite(numbers, n), factor = largest > 0 ? factor_of(126) / largest : 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t size = bits_of(numbers[i]) & SIZE_BITS;
        if (size < INFINITE_BITS)
            codes[i] =
                (int8_t)(((int32_t)(numbers[i] * factor) + (int32_t)((random + (uint32_t)i * stride) >> 16)) >>
                         16);
        else
            codes[i] = size > INFINITE_BITS ? -128 : numbers[i] > 0 ? 127 : -127;
    }
    return -(largest / 126);
}

static FASTADAM_NOINLINE float store_marked_root8(uint8_t *codes, const float *roots, int64_t n, uint32_t random,
                                                  uint32_t stride)
{
    const float largest = largest_finite(roots, n), factor = largest > 0 ? factor_of(253) / largest : 0;
    for (int64_t i = 0; i < n; i++) {
        if ((bits_of(roots[i]) & SIZE_BITS) < INFINITE_BITS) {
            const int32_t code =
                ((int32_t)(roots[i] * factor) + (int32_t)((random + (uint32_t)i * stride) >> 16)) >> 16;
            codes[i] = (uint8_t)(code > 1 ? code : 1);
        } else
            codes[i] = roots[i] > 0 ? 254 : 255;
    }
    return -(largest / 253);
}

#endif
