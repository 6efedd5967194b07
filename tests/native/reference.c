#include "reference.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const struct {
    size_t itemsize;
    int mantissa, lowest; /* bits of the mantissa, exponent of the smallest normal number */
    uint64_t infinity, nan, sign;
} formats[] = {
    {4, 23, -126, 0x7f800000, 0x7fc00000, 0x80000000},
    {8, 52, -1022, 0x7ff0000000000000, 0x7ff8000000000000, 0x8000000000000000},
    {2, 7, -126, 0x7f80, 0x7fc0, 0x8000},
    {2, 10, -14, 0x7c00, 0x7e00, 0x8000},
};

size_t itemsize(int format) { return formats[format].itemsize; }

uint64_t load_bits(int format, const void *array, int64_t i)
{
    const char *place = (const char *)array + (size_t)i * itemsize(format);
    uint64_t bits = 0;
    uint32_t word;
    uint16_t half;
    if (itemsize(format) == 8) {
        memcpy(&bits, place, 8);
    } else if (itemsize(format) == 4) {
        memcpy(&word, place, 4);
        bits = word;
    } else {
        memcpy(&half, place, 2);
        bits = half;
    }
    return (bits & ~formats[format].sign) > formats[format].infinity ? formats[format].nan : bits;
}

void store_bits(int format, void *array, int64_t i, uint64_t bits)
{
    char *place = (char *)array + (size_t)i * itemsize(format);
    const uint32_t word = (uint32_t)bits;
    const uint16_t half = (uint16_t)bits;
    if (itemsize(format) == 8)
        memcpy(place, &bits, 8);
    else if (itemsize(format) == 4)
        memcpy(place, &word, 4);
    else
        memcpy(place, &half, 2);
}

/* By the definition of the formats: sign, exponent and mantissa put together by arithmetic. */
static double double_of(int format, uint64_t bits)
{
    const int mantissa = formats[format].mantissa;
    const uint64_t magnitude = bits & ~formats[format].sign,
                   fraction = magnitude & (((uint64_t)1 << mantissa) - 1);
    const int exponent = (int)(magnitude >> mantissa);
    double number;
    if (magnitude > formats[format].infinity)
        return NAN;
    if (magnitude == formats[format].infinity)
        number = INFINITY;
    else if (exponent == 0)
        number = ldexp((double)fraction, formats[format].lowest - mantissa);
    else
        number =
            ldexp((double)(fraction | (uint64_t)1 << mantissa), formats[format].lowest - mantissa + exponent - 1);
    return bits & formats[format].sign ? -number : number;
}

uint64_t bits_from_double(int format, double number)
{
    const int mantissa = formats[format].mantissa, lowest = formats[format].lowest;
    const uint64_t sign = signbit(number) ? formats[format].sign : 0;
    if (isnan(number))
        return formats[format].nan;
    if (isinf(number))
        return sign | formats[format].infinity;
    int exponent;
    frexp(number, &exponent);
    exponent = number == 0 || exponent - 1 < lowest ? lowest : exponent - 1;
    /* In units of the last place; a carry into the exponent, up to infinity, comes out right by addition. */
    const uint64_t units = (uint64_t)nearbyint(ldexp(fabs(number), mantissa - exponent));
    const uint64_t bits = ((uint64_t)(exponent - lowest) << mantissa) + units;
    return sign | (bits > formats[format].infinity ? formats[format].infinity : bits);
}

/* Each operation is a statement of its own, as in the formula of the documentation. */
#define ONE(REAL, ROOT, SMALLEST)                                                                                 \
    static void one_##REAL(REAL numbers[N_ROLES], const fastadam_row *row, int l2, int decoupled, int amsgrad)    \
    {                                                                                                             \
        REAL grad = numbers[GRAD] * (REAL)row->grad_scale;                                                        \
        if (l2) {                                                                                                 \
            const REAL pull = (REAL)row->l2 * numbers[PARAM];                                                     \
            grad += pull;                                                                                         \
        }                                                                                                         \
        numbers[EXP_AVG] *= (REAL)row->beta1;                                                                     \
        const REAL first = (REAL)row->one_minus_beta1 * grad;                                                     \
        numbers[EXP_AVG] += first;                                                                                \
        const REAL tiny = (REAL)row->tiny * SMALLEST;                                                             \
        if (numbers[EXP_AVG] > -tiny && numbers[EXP_AVG] < tiny)                                                  \
            numbers[EXP_AVG] = 0;                                                                                 \
        numbers[EXP_AVG_SQ] *= (REAL)row->beta2;                                                                  \
        REAL square = (REAL)row->one_minus_beta2 * grad;                                                          \
        square *= grad;                                                                                           \
        numbers[EXP_AVG_SQ] += square;                                                                            \
        if (numbers[EXP_AVG_SQ] > -tiny && numbers[EXP_AVG_SQ] < tiny)                                            \
            numbers[EXP_AVG_SQ] = 0;                                                                              \
        if (amsgrad && !isnan(numbers[MAX_EXP_AVG_SQ]) && !(numbers[MAX_EXP_AVG_SQ] >= numbers[EXP_AVG_SQ]))      \
            numbers[MAX_EXP_AVG_SQ] = numbers[EXP_AVG_SQ];                                                        \
        if (amsgrad && numbers[MAX_EXP_AVG_SQ] > -tiny && numbers[MAX_EXP_AVG_SQ] < tiny)                         \
            numbers[MAX_EXP_AVG_SQ] = 0;                                                                          \
        REAL denominator = ROOT(numbers[amsgrad ? MAX_EXP_AVG_SQ : EXP_AVG_SQ]);                                  \
        denominator *= (REAL)row->inv_sqrt_bias_correction2;                                                      \
        denominator += (REAL)row->eps;                                                                            \
        REAL update = (REAL)row->step_size * numbers[EXP_AVG];                                                    \
        update /= denominator;                                                                                    \
        if (decoupled) {                                                                                          \
            const REAL decay = (REAL)row->decay_rate * numbers[PARAM];                                            \
            update += decay;                                                                                      \
        }                                                                                                         \
        numbers[PARAM] -= update;                                                                                 \
    }
ONE(float, sqrtf, FLT_MIN)
ONE(double, sqrt, DBL_MIN)

void reference_step(const int *formats, int l2, int decoupled, int amsgrad, const fastadam_row *row, int64_t size,
                    void *const *arrays)
{
    const int format = formats[PARAM];
    for (int64_t i = 0; i < size; i++) {
        double numbers[N_ROLES];
        float singles[N_ROLES];
        for (int role = 0; role < N_ROLES; role++) {
            numbers[role] = double_of(formats[role], load_bits(formats[role], arrays[role], i));
            singles[role] = (float)numbers[role];
        }
        if (format == FLOAT64)
            one_double(numbers, row, l2, decoupled, amsgrad);
        else
            one_float(singles, row, l2, decoupled, amsgrad);
        for (int role = 0; role < N_ROLES; role++)
            if (role != GRAD && (amsgrad || role != MAX_EXP_AVG_SQ))
                store_bits(formats[role], arrays[role], i,
                           bits_from_double(formats[role], format == FLOAT64 ? numbers[role] : singles[role]));
    }
}
