/* Exact totals of float64 numbers: the same in whatever order they are added. fastadam/step/norm.py has the same
 * operations. */
#ifndef FASTADAM_TOTALS_H
#define FASTADAM_TOTALS_H

#include "numerics.h"
#include "structs.h"

#include <math.h>
#include <string.h>

enum { FASTADAM_WORD_BITS = 32 };

static FASTADAM_INLINE void clear_total(fastadam_total *total)
{
    memset(total, 0, sizeof *total);
    total->first = FASTADAM_TOTAL_WORDS;
}

/* Add a whole number that is times two to the power of its place, counted from the lowest bit of the total. */
static FASTADAM_INLINE void add_whole(fastadam_total *total, int64_t whole, int64_t bit)
{
    const int64_t word = 0xffffffff, k = bit >> 5;
    const int shift = (int)(bit & 31);
    const int64_t low = (whole & word) << shift, high = (whole >> 32) * (INT64_C(1) << shift);
    total->words[k] += low & word;
    total->words[k + 1] += (low >> 32 & word) + (high & word);
    total->words[k + 2] += high >> 32;
    if (k < total->first)
        total->first = k;
    if (k + 3 > total->end)
        total->end = k + 3;
}

/* Add number * 2^exponent, finite and in the range of a total. */
static FASTADAM_INLINE void add_to_total(fastadam_total *total, double number, int exponent)
{
    int64_t bits;
    if (number == 0)
        return;
    memcpy(&bits, &number, sizeof bits);
    int64_t power = bits >> 52 & 0x7ff, mantissa = bits & ((INT64_C(1) << 52) - 1);
    if (power != 0)
        mantissa |= INT64_C(1) << 52;
    else
        power = 1;
    if (bits < 0)
        mantissa = -mantissa;
    /* The lowest bit of the mantissa is this bit of the total. */
    add_whole(total, mantissa, power - 1075 + exponent - FASTADAM_TOTAL_LOWEST);
}

/* Add another total to one. */
static FASTADAM_INLINE void add_totals(fastadam_total *total, const fastadam_total *other)
{
    total->is_nan |= other->is_nan;
    total->is_infinite |= other->is_infinite;
    for (int64_t k = other->first; k < other->end; k++)
        total->words[k] += other->words[k];
    if (other->first < total->first)
        total->first = other->first;
    if (other->end > total->end)
        total->end = other->end;
}

/* Let each word have 32 bits, and carry the rest. */
static FASTADAM_INLINE void carry_total(fastadam_total *total)
{
    int64_t carried = 0;
    for (int64_t k = total->first; k < total->end || carried != 0; k++) {
        const int64_t sum = total->words[k] + carried;
        total->words[k] = sum & 0xffffffff;
        carried = sum >> 32;
        if (k >= total->end)
            total->end = k + 1;
    }
}

/* The square root of a total that is not negative, from the total rounded to float64. */
static FASTADAM_INLINE double root_of_total(fastadam_total *total)
{
    if (total->is_nan)
        return NAN;
    if (total->is_infinite)
        return INFINITY;
    carry_total(total);
    int64_t k = total->end - 1, below = 0;
    while (k >= total->first && total->words[k] == 0)
        k--;
    if (k < total->first)
        return 0.0;
    const int64_t high = total->words[k];
    const int64_t middle = k >= 1 ? total->words[k - 1] : 0, low = k >= 2 ? total->words[k - 2] : 0;
    for (int64_t i = total->first; i < k - 2; i++)
        below |= total->words[i];
    int n = 0; /* bits of the highest word */
    while (high >> n != 0)
        n++;
    /* The first 62 bits; the last of them says whether there are more, so that rounding goes the right way. */
    int64_t first = high << (62 - n);
    if (n <= 30) {
        first |= middle << (30 - n) | low >> (n + 2);
        below |= low & ((INT64_C(1) << (n + 2)) - 1);
    } else {
        first |= middle >> (n - 30);
        below |= (middle & ((1 << (n - 30)) - 1)) | low;
    }
    double rounded = (double)(first | (below != 0));
    int64_t exponent = FASTADAM_WORD_BITS * k + FASTADAM_TOTAL_LOWEST - (62 - n);
    if (exponent & 1) {
        rounded *= 2.0;
        exponent--;
    }
    const int half = (int)(exponent / 2), quarter = half / 2;
    return sqrt(rounded) * ldexp(1.0, quarter) * ldexp(1.0, half - quarter);
}

#endif
