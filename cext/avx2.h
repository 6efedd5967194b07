/* Codecs of 32 and of 64 numbers in the vectors of AVX2, with the bits of the loops in codecs.inc, of which
 * compilers make half as many instructions again. Numbers that are not any are rare: they are looked for in many
 * at once, and are left to the loops. */
#ifndef FASTADAM_AVX2_H
#define FASTADAM_AVX2_H

#include <immintrin.h>

#include "compact.h"

#define AVX2 static inline __attribute__((always_inline, target("avx2")))

AVX2 __m256i words_at(const void *place) { return _mm256_loadu_si256((const __m256i *)place); }

/* Where the random bits of eight elements are in their sequence, in the upper halves. */
AVX2 __m256i sequence_of_8(uint32_t random, uint32_t stride)
{
    const __m256i each = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_add_epi32(_mm256_mullo_epi32(each, _mm256_set1_epi32((int)stride)),
                            _mm256_set1_epi32((int)random));
}

/* The lower halves of two times eight numbers of 32 bits below 65536, in order. */
AVX2 __m256i lower_halves(__m256i first, __m256i second)
{
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xd8);
}

AVX2 __m256i upper_halves(__m256i first, __m256i second)
{
    return lower_halves(_mm256_srli_epi32(first, 16), _mm256_srli_epi32(second, 16));
}

/* Whether one of 32 numbers is none. */
AVX2 int have_nan_32(const float *numbers)
{
    const __m256 one = _mm256_cmp_ps(_mm256_loadu_ps(numbers), _mm256_loadu_ps(numbers + 8), _CMP_UNORD_Q);
    const __m256 two = _mm256_cmp_ps(_mm256_loadu_ps(numbers + 16), _mm256_loadu_ps(numbers + 24), _CMP_UNORD_Q);
    return _mm256_movemask_ps(_mm256_or_ps(one, two));
}

AVX2 void load_32_bfloat16_avx2(const uint16_t *stored, float *numbers)
{
    for (int i = 0; i < 32; i += 8) {
        const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(stored + i)));
        _mm256_storeu_si256((__m256i *)(numbers + i), _mm256_slli_epi32(words, 16));
    }
}

static FASTADAM_NOINLINE void store_32_with_nan(uint16_t *stored, const float *numbers, uint32_t random,
                                                uint32_t stride)
{
    for (uint32_t i = 0; i < 32; i++)
        stored[i] = narrow_bfloat16_stochastic(numbers[i], (random + i * stride) >> 16);
}

AVX2 void store_32_bfloat16_stochastic_avx2(uint16_t *stored, const float *numbers, uint32_t random,
                                            uint32_t stride)
{
    if (have_nan_32(numbers)) {
        store_32_with_nan(stored, numbers, random, stride);
        return;
    }
    __m256i sequence = sequence_of_8(random, stride);
    const __m256i on = _mm256_set1_epi32((int)(8 * stride));
    for (int i = 0; i < 32; i += 16) {
        const __m256i next = _mm256_add_epi32(sequence, on);
        const __m256i first = _mm256_add_epi32(words_at(numbers + i), _mm256_srli_epi32(sequence, 16));
        const __m256i second = _mm256_add_epi32(words_at(numbers + i + 8), _mm256_srli_epi32(next, 16));
        _mm256_storeu_si256((__m256i *)(stored + i), upper_halves(first, second));
        sequence = _mm256_add_epi32(next, on);
    }
}

AVX2 void load_32_bfloat16_master_avx2(const uint16_t *weights, const int16_t *rests, float *numbers)
{
    for (int i = 0; i < 32; i += 16) {
        const __m256i upper = words_at(weights + i), given = words_at(rests + i);
        const __m256i size = _mm256_and_si256(upper, _mm256_set1_epi16(0x7fff));
        const __m256i below = _mm256_srai_epi16(given, 15);
        const __m256i none = _mm256_and_si256(below, _mm256_cmpeq_epi16(size, _mm256_setzero_si256()));
        const __m256i infinite = _mm256_andnot_si256(below, _mm256_cmpeq_epi16(size, _mm256_set1_epi16(0x7f80)));
        const __m256i rest = _mm256_andnot_si256(_mm256_or_si256(none, infinite), given);
        /* What is below takes one from the upper half, and -1 is what all bits are. */
        const __m256i whole = _mm256_add_epi16(upper, _mm256_andnot_si256(none, below));
        const __m256i lower = _mm256_unpacklo_epi16(rest, whole), higher = _mm256_unpackhi_epi16(rest, whole);
        _mm256_storeu_si256((__m256i *)(numbers + i), _mm256_permute2x128_si256(lower, higher, 0x20));
        _mm256_storeu_si256((__m256i *)(numbers + i + 8), _mm256_permute2x128_si256(lower, higher, 0x31));
    }
}

static FASTADAM_NOINLINE void part_32_with_nan(uint16_t *weights, int16_t *rests, const float *numbers)
{
    for (int i = 0; i < 32; i++)
        part_master(numbers[i], weights + i, rests + i);
}

AVX2 void store_32_bfloat16_master_avx2(uint16_t *weights, int16_t *rests, const float *numbers)
{
    if (have_nan_32(numbers)) {
        part_32_with_nan(weights, rests, numbers);
        return;
    }
    const __m256i lower = _mm256_set1_epi32(0xffff);
    for (int i = 0; i < 32; i += 16) {
        const __m256i first = words_at(numbers + i), second = words_at(numbers + i + 8);
        const __m256i rest = lower_halves(_mm256_and_si256(first, lower), _mm256_and_si256(second, lower));
        _mm256_storeu_si256((__m256i *)(rests + i), rest);
        _mm256_storeu_si256((__m256i *)(weights + i),
                            _mm256_add_epi16(upper_halves(first, second), _mm256_srli_epi16(rest, 15)));
    }
}

AVX2 void load_64_codes_avx2(const void *codes, float scale, float *numbers, int has_sign)
{
    for (int i = 0; i < 64; i += 8) {
        const __m128i part = _mm_loadl_epi64((const __m128i *)((const char *)codes + i));
        const __m256i whole = has_sign ? _mm256_cvtepi8_epi32(part) : _mm256_cvtepu8_epi32(part);
        const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_set1_ps(scale));
        _mm256_storeu_ps(numbers + i, has_sign ? scaled : _mm256_mul_ps(scaled, scaled));
    }
}

AVX2 void store_64_codes_avx2(void *codes, const float *numbers, float factor, uint32_t random, uint32_t stride,
                              int has_sign)
{
    __m256i sequence = sequence_of_8(random, stride);
    const __m256i on = _mm256_set1_epi32((int)(8 * stride));
    const __m256 factors = _mm256_set1_ps(factor);
    for (int i = 0; i < 64; i += 32) {
        __m256i coded[4];
        for (int k = 0; k < 4; k++) {
            const __m256i scaled =
                _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_loadu_ps(numbers + i + 8 * k), factors));
            coded[k] = _mm256_srai_epi32(_mm256_add_epi32(scaled, _mm256_srli_epi32(sequence, 16)), 16);
            sequence = _mm256_add_epi32(sequence, on);
        }
        const __m256i first = _mm256_packs_epi32(coded[0], coded[1]),
                      second = _mm256_packs_epi32(coded[2], coded[3]);
        const __m256i packed = has_sign ? _mm256_packs_epi16(first, second)
                                        : _mm256_max_epu8(_mm256_packus_epi16(first, second), _mm256_set1_epi8(1));
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256((__m256i *)((char *)codes + i), _mm256_permutevar8x32_epi32(packed, order));
    }
}

/* The bits of sizes, of which the eight largest are left. */
AVX2 __m256i largest_8_avx2(const float *numbers)
{
    __m256i largest = _mm256_setzero_si256();
    for (int i = 0; i < 64; i += 8)
        largest =
            _mm256_max_epi32(largest, _mm256_and_si256(words_at(numbers + i), _mm256_set1_epi32((int)SIZE_BITS)));
    return largest;
}

/* See find_scaling: the scaling of exp_avg is computed in the lower half of a vector, that of exp_avg_sq in the
 * upper one, with one division. */
AVX2 void find_scaling_at_once_avx2(const float *exp_avgs, const float *roots, fastadam_scaling *scaling)
{
    const __m256i first = largest_8_avx2(exp_avgs), second = largest_8_avx2(roots);
    __m256i bits = _mm256_max_epi32(_mm256_permute2x128_si256(first, second, 0x20),
                                    _mm256_permute2x128_si256(first, second, 0x31));
    bits = _mm256_max_epi32(bits, _mm256_shuffle_epi32(bits, 0x4e));
    bits = _mm256_max_epi32(bits, _mm256_shuffle_epi32(bits, 0xb1));
    const __m256 enough = _mm256_castsi256_ps(_mm256_cmpgt_epi32(bits, _mm256_set1_epi32(LEAST_SIZE - 1)));
    const __m256 sizes = _mm256_castsi256_ps(bits);
    const __m256 factors = _mm256_setr_ps(factor_of(127), 1, 1, 1, factor_of(255), 1, 1, 1);
    const __m256 above = _mm256_blend_ps(sizes, factors, 0x11);
    const __m256 below = _mm256_blend_ps(_mm256_setr_ps(1, 127, 1, 1, 1, 255, 1, 1), sizes, 0x11);
    _mm256_storeu_ps(scaling->quotients, _mm256_and_ps(enough, _mm256_div_ps(above, below)));
    scaling->marked = _mm256_movemask_ps(
        _mm256_castsi256_ps(_mm256_cmpgt_epi32(bits, _mm256_set1_epi32((int)INFINITE_BITS - 1))));
}

#endif
