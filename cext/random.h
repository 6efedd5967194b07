/* The random bits that numbers are rounded with; fastadam/step/compact.py has the same in Python, and says more.
 */
#ifndef FASTADAM_RANDOM_H
#define FASTADAM_RANDOM_H

#include "structs.h"

/* The whole number nearest to 2^32 divided by the golden ratio, and that of 2^64, both odd. */
#define GOLDEN_32 UINT32_C(0x9e3779b9)
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

/* Where the sequence of a parameter's elements begins; element i is rounded with the upper 16 bits of the start
 * plus i * GOLDEN_32. */
static FASTADAM_INLINE uint32_t random_start(uint64_t key, int64_t position, int stream)
{
    return (uint32_t)(mix64(key + (2 * (uint64_t)position + (uint64_t)stream + 1) * GOLDEN_64) >> 32);
}

#endif
