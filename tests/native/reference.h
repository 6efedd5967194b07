/* Adam over numbers of the four formats, one at a time, as slow and as plain as can be. */
#ifndef FASTADAM_TEST_REFERENCE_H
#define FASTADAM_TEST_REFERENCE_H

#include <stddef.h>
#include <stdint.h>

#include "adam.h"

enum {
    FLOAT32 = FASTADAM_FLOAT32,
    FLOAT64 = FASTADAM_FLOAT64,
    BFLOAT16 = FASTADAM_BFLOAT16,
    FLOAT16 = FASTADAM_FLOAT16,
    N_FORMATS,
};
enum { PARAM, GRAD, EXP_AVG, EXP_AVG_SQ, MAX_EXP_AVG_SQ, N_ROLES };

size_t itemsize(int format);

/* The bits of an element; every NaN counts as the same one. */
uint64_t load_bits(int format, const void *array, int64_t i);
void store_bits(int format, void *array, int64_t i, uint64_t bits);

/* The bits of a number rounded to a format: to nearest, ties to even. */
uint64_t bits_from_double(int format, double number);

/* Step `size` elements of the arrays, each in a format of its own, in the order of the roles above; all in double
 * precision, or none. */
void reference_step(const int *formats, int l2, int decoupled, int amsgrad, const fastadam_row *row, int64_t size,
                    void *const *arrays);

#endif
