/* Exact sums of squares: nothing is rounded, so that the total is the same however numbers are shared out among
 * processes. fastadam/step/exact.py has the same in Python.
 *
 * The squares of mantissas are whole numbers, added up in bins, one for each exponent (Neal, "Fast exact summation
 * using small and large superaccumulators", arXiv:1505.05571); bins go into the total before they can overflow. */
#include "exact.h"

#include "formats.h"
#include "totals.h"

enum {
    EXPONENTS_FLOAT32 = 256,  /* the last one is that of infinities and NaN */
    EXPONENTS_FLOAT64 = 2047, /* without that one */
    SETS = 4,              /* so that numbers of one exponent, one after the other, do not wait for each other */
    RUN_FLOAT32 = 1 << 15, /* squares below 2^48 */
    RUN_FLOAT64 = 1 << 8,  /* pieces below 2^54 */
    HALF = 27,             /* bits of the lower half of a float64's mantissa */
};

static void add_float32(fastadam_total *total, const float *numbers, int64_t n)
{
    uint64_t bins[SETS][EXPONENTS_FLOAT32];
    for (int64_t start = 0; start < n; start += RUN_FLOAT32) {
        const int64_t end = n - start < RUN_FLOAT32 ? n : start + RUN_FLOAT32;
        memset(bins, 0, sizeof bins);
        for (int64_t i = start; i < end; i += SETS)
            for (int set = 0; set < SETS && i + set < end; set++) {
                const uint32_t bits = bits_of(numbers[i + set]), exponent = bits >> 23 & 0xff;
                const uint64_t mantissa = (bits & 0x7fffff) | (uint32_t)(exponent != 0) << 23;
                bins[set][exponent] += mantissa * mantissa;
            }
        for (int exponent = 0; exponent < EXPONENTS_FLOAT32; exponent++) {
            uint64_t sum = 0;
            for (int set = 0; set < SETS; set++)
                sum += bins[set][exponent];
            if (sum != 0 && exponent < EXPONENTS_FLOAT32 - 1)
                add_whole(total, (int64_t)sum, 2 * ((exponent != 0 ? exponent : 1) - 150) - FASTADAM_TOTAL_LOWEST);
            else if (sum != 0)
                for (int64_t i = start; i < end; i++) {
                    total->is_nan |= isnan(numbers[i]) != 0;
                    total->is_infinite |= isinf(numbers[i]) != 0;
                }
        }
    }
}

static void add_float64(fastadam_total *total, const double *numbers, int64_t n)
{
    uint64_t bins[3][EXPONENTS_FLOAT64]; /* of the squares of the halves of a mantissa, and twice their product */
    memset(bins, 0, sizeof bins);
    for (int64_t start = 0; start < n; start += RUN_FLOAT64) {
        const int64_t end = n - start < RUN_FLOAT64 ? n : start + RUN_FLOAT64;
        int least = EXPONENTS_FLOAT64, most = -1;
        for (int64_t i = start; i < end; i++) {
            uint64_t bits;
            memcpy(&bits, numbers + i, sizeof bits);
            const int exponent = (int)(bits >> 52 & 0x7ff);
            const uint64_t fraction = bits & ((UINT64_C(1) << 52) - 1);
            if (exponent == EXPONENTS_FLOAT64) {
                total->is_nan |= fraction != 0;
                total->is_infinite |= fraction == 0;
                continue;
            }
            const uint64_t mantissa = fraction | (uint64_t)(exponent != 0) << 52;
            const uint64_t high = mantissa >> HALF, low = mantissa & ((UINT64_C(1) << HALF) - 1);
            bins[0][exponent] += low * low;
            bins[1][exponent] += 2 * high * low;
            bins[2][exponent] += high * high;
            least = exponent < least ? exponent : least;
            most = exponent > most ? exponent : most;
        }
        for (int exponent = least; exponent <= most; exponent++) {
            const int bit = 2 * ((exponent != 0 ? exponent : 1) - 1075) - FASTADAM_TOTAL_LOWEST;
            for (int piece = 0; piece < 3; piece++) {
                if (bins[piece][exponent] != 0)
                    add_whole(total, (int64_t)bins[piece][exponent], bit + piece * HALF);
                bins[piece][exponent] = 0;
            }
        }
    }
}

void fastadam_add_squares(fastadam_total *total, const void *numbers, int64_t n, int is_float64)
{
    if (is_float64)
        add_float64(total, numbers, n);
    else
        add_float32(total, numbers, n);
}
