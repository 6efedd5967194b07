/* Codecs of 32 and of 64 numbers in the vectors of AVX-512, with the bits of the loops in codecs.inc, of which
 * compilers make two or three times as many instructions: here, halves of numbers go to their places as words. */
#ifndef FASTADAM_AVX512_H
#define FASTADAM_AVX512_H

#include <immintrin.h>

#include "compact.h"

#define AVX512 static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512vl,avx512dq")))

typedef uint16_t fastadam_words __attribute__((vector_size(64)));
static const fastadam_words each_word = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                         16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
#define LOWER_WORDS ((__m512i)(each_word * 2))
#define UPPER_WORDS ((__m512i)(each_word * 2 + 1))
/* Of 32 words, number i gets number FIRST + i of them in its upper half. */
#define AS_UPPER(FIRST) ((__m512i)(each_word / 2 + (FIRST)))
/* The same, with words of a second vector in the upper half and those of the first in the lower one. */
#define AS_HALVES(FIRST) ((__m512i)(each_word / 2 + (each_word & 1) * 32 + (FIRST)))
#define IN_UPPER 0xaaaaaaaa

/* 16 numbers with NaN as the one that is stored. */
AVX512 __m512i with_one_nan(__m512i bits, __m512 numbers)
{
    return _mm512_mask_mov_epi32(bits, _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q),
                                 _mm512_set1_epi32((int)NAN_BITS));
}

/* Whole numbers from 0 to 65535 at random, of elements first to first + 15. */
AVX512 __m512i random_words(uint32_t random, uint32_t stride, uint32_t first)
{
    const __m512i each = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i strides =
        _mm512_mullo_epi32(_mm512_add_epi32(each, _mm512_set1_epi32((int)first)), _mm512_set1_epi32((int)stride));
    return _mm512_srli_epi32(_mm512_add_epi32(strides, _mm512_set1_epi32((int)random)), 16);
}

AVX512 void load_32_bfloat16_avx512(const uint16_t *stored, float *numbers)
{
    const __m512i words = _mm512_loadu_si512(stored);
    _mm512_storeu_si512(numbers, _mm512_maskz_permutexvar_epi16(IN_UPPER, AS_UPPER(0), words));
    _mm512_storeu_si512(numbers + 16, _mm512_maskz_permutexvar_epi16(IN_UPPER, AS_UPPER(16), words));
}

AVX512 __m512i rounded_16(const float *numbers, __m512i random)
{
    const __m512 loaded = _mm512_loadu_ps(numbers);
    return with_one_nan(_mm512_add_epi32(_mm512_castps_si512(loaded), random), loaded);
}

AVX512 void store_32_bfloat16_stochastic_avx512(uint16_t *stored, const float *numbers, uint32_t random,
                                                uint32_t stride)
{
    const __m512i first = rounded_16(numbers, random_words(random, stride, 0));
    const __m512i second = rounded_16(numbers + 16, random_words(random, stride, 16));
    _mm512_storeu_si512(stored, _mm512_permutex2var_epi16(first, UPPER_WORDS, second));
}

AVX512 void load_32_bfloat16_master_avx512(const uint16_t *weights, const int16_t *rests, float *numbers)
{
    const __m512i upper = _mm512_loadu_si512(weights), size = _mm512_and_si512(upper, _mm512_set1_epi16(0x7fff));
    const __m512i given = _mm512_loadu_si512(rests);
    const __mmask32 below = _mm512_movepi16_mask(given);
    const __mmask32 none = _mm512_mask_testn_epi16_mask(below, size, size);
    const __mmask32 infinite = _mm512_mask_cmpeq_epi16_mask(~below, size, _mm512_set1_epi16(0x7f80));
    const __m512i rest = _mm512_maskz_mov_epi16(~(none | infinite), given);
    const __m512i whole = _mm512_mask_add_epi16(upper, below & ~none, upper, _mm512_set1_epi16(-1));
    _mm512_storeu_si512(numbers, _mm512_permutex2var_epi16(rest, AS_HALVES(0), whole));
    _mm512_storeu_si512(numbers + 16, _mm512_permutex2var_epi16(rest, AS_HALVES(16), whole));
}

AVX512 void store_32_bfloat16_master_avx512(uint16_t *weights, int16_t *rests, const float *numbers)
{
    const __m512 one = _mm512_loadu_ps(numbers), two = _mm512_loadu_ps(numbers + 16);
    const __m512i first = with_one_nan(_mm512_castps_si512(one), one);
    const __m512i second = with_one_nan(_mm512_castps_si512(two), two);
    const __m512i rest = _mm512_permutex2var_epi16(first, LOWER_WORDS, second);
    const __m512i upper = _mm512_permutex2var_epi16(first, UPPER_WORDS, second);
    _mm512_storeu_si512(rests, rest);
    _mm512_storeu_si512(weights, _mm512_add_epi16(upper, _mm512_srli_epi16(rest, 15)));
}

AVX512 __m512 whole_16(__m128i codes, int has_sign)
{
    return _mm512_cvtepi32_ps(has_sign ? _mm512_cvtepi8_epi32(codes) : _mm512_cvtepu8_epi32(codes));
}

AVX512 void load_64_codes_avx512(const void *codes, float scale, float *numbers, int has_sign)
{
    for (int i = 0; i < 64; i += 16) {
        const __m128i part = _mm_loadu_si128((const __m128i *)((const char *)codes + i));
        const __m512 scaled = _mm512_mul_ps(whole_16(part, has_sign), _mm512_set1_ps(scale));
        _mm512_storeu_ps(numbers + i, has_sign ? scaled : _mm512_mul_ps(scaled, scaled));
    }
}

/* Of 16 numbers, the codes in the upper halves. */
AVX512 __m512i coded_16(const float *numbers, float factor, __m512i random)
{
    return _mm512_add_epi32(_mm512_cvttps_epi32(_mm512_mul_ps(_mm512_loadu_ps(numbers), _mm512_set1_ps(factor))),
                            random);
}

AVX512 __m512i coded_32(const float *numbers, float factor, uint32_t random, uint32_t stride, uint32_t first)
{
    const __m512i one = coded_16(numbers + first, factor, random_words(random, stride, first));
    const __m512i two = coded_16(numbers + first + 16, factor, random_words(random, stride, first + 16));
    return _mm512_permutex2var_epi16(one, UPPER_WORDS, two);
}

AVX512 void store_64_codes_avx512(void *codes, const float *numbers, float factor, uint32_t random,
                                  uint32_t stride, int has_sign)
{
    const __m512i one = coded_32(numbers, factor, random, stride, 0);
    const __m512i two = coded_32(numbers, factor, random, stride, 32);
    const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
    const __m512i packed = has_sign ? _mm512_packs_epi16(one, two)
                                    : _mm512_max_epu8(_mm512_packus_epi16(one, two), _mm512_set1_epi8(1));
    _mm512_storeu_si512(codes, _mm512_permutexvar_epi64(order, packed));
}

/* The bits of sizes, of which the four largest quarters are left. */
AVX512 __m256i largest_8(const float *numbers)
{
    __m512i largest = _mm512_setzero_si512();
    for (int i = 0; i < 64; i += 16) {
        const __m512i bits = _mm512_loadu_si512(numbers + i);
        largest = _mm512_max_epi32(largest, _mm512_and_si512(bits, _mm512_set1_epi32((int)SIZE_BITS)));
    }
    return _mm256_max_epi32(_mm512_castsi512_si256(largest), _mm512_extracti64x4_epi64(largest, 1));
}

/* See find_scaling: the scaling of exp_avg is computed in the lower half of a vector, that of exp_avg_sq in the
 * upper one, with one division. */
AVX512 void find_scaling_at_once_avx512(const float *exp_avgs, const float *roots, fastadam_scaling *scaling)
{
    const __m256i first = largest_8(exp_avgs), second = largest_8(roots);
    __m256i bits = _mm256_max_epi32(_mm256_permute2x128_si256(first, second, 0x20),
                                    _mm256_permute2x128_si256(first, second, 0x31));
    bits = _mm256_max_epi32(bits, _mm256_shuffle_epi32(bits, 0x4e));
    bits = _mm256_max_epi32(bits, _mm256_shuffle_epi32(bits, 0xb1));
    const __mmask8 enough = _mm256_cmpge_epi32_mask(bits, _mm256_set1_epi32(LEAST_SIZE));
    const __m256 sizes = _mm256_castsi256_ps(bits);
    const __m256 factors = _mm256_setr_ps(factor_of(127), 1, 1, 1, factor_of(255), 1, 1, 1);
    const __m256 above = _mm256_mask_mov_ps(sizes, 0x11, factors);
    const __m256 below = _mm256_mask_mov_ps(_mm256_setr_ps(1, 127, 1, 1, 1, 255, 1, 1), 0x11, sizes);
    _mm256_storeu_ps(scaling->quotients, _mm256_maskz_div_ps(enough, above, below));
    scaling->marked = _mm256_cmpge_epi32_mask(bits, _mm256_set1_epi32((int)INFINITE_BITS));
}

#endif
