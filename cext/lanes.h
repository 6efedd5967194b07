/* Lanes of float64 numbers that are computed with side by side (fastadam/step/norm.py), some in one vector: what
 * compilers make of loops over arrays of lanes takes half as long again. FASTADAM_WIDE are vectors of AVX2's,
 * FASTADAM_NARROW what there is on any processor; where the compiler has no vectors, one is a number. Each has a
 * type, LANES of it, and what loads it from floats and from doubles. */
#ifndef FASTADAM_LANES_H
#define FASTADAM_LANES_H

#include "fetch.h"
#include "kernels.h"

#include <string.h>

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 9)
typedef double fastadam_narrow __attribute__((vector_size(16)));
typedef double fastadam_narrow_doubles __attribute__((vector_size(16), aligned(8), may_alias));
typedef float fastadam_narrow_floats __attribute__((vector_size(8), aligned(4), may_alias));
#define FASTADAM_NARROW_LANES 2
#define FASTADAM_NARROW_OF_DOUBLES(ADDRESS) (*(const fastadam_narrow_doubles *)(ADDRESS))
#define FASTADAM_NARROW_OF_FLOATS(ADDRESS)                                                                        \
    __builtin_convertvector(*(const fastadam_narrow_floats *)(ADDRESS), fastadam_narrow)
#else
typedef double fastadam_narrow;
#define FASTADAM_NARROW_LANES 1
#define FASTADAM_NARROW_OF_DOUBLES(ADDRESS) (*(ADDRESS))
#define FASTADAM_NARROW_OF_FLOATS(ADDRESS) ((double)*(ADDRESS))
#endif

#ifdef FASTADAM_X86
#include <immintrin.h>
typedef __m256d fastadam_wide;
#define FASTADAM_WIDE_LANES 4
#define FASTADAM_WIDE_OF_DOUBLES(ADDRESS) _mm256_loadu_pd(ADDRESS)
#define FASTADAM_WIDE_OF_FLOATS(ADDRESS) _mm256_cvtps_pd(_mm_loadu_ps(ADDRESS))
#endif

/* The two lines of the cache of a group of numbers that is read soon: 16 groups are on their way at once. Without
 * it, reading what is in no cache takes a third longer. */
#define FETCH_AHEAD(NUMBERS, GROUP)                                                                               \
    do {                                                                                                          \
        FETCH((NUMBERS) + 16 * (GROUP));                                                                          \
        FETCH((NUMBERS) + 16 * (GROUP) + (GROUP) / 2);                                                            \
    } while (0)

#endif
