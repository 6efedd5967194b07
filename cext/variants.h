/* What is in the number of a compiled variant. */
#ifndef FASTADAM_VARIANTS_H
#define FASTADAM_VARIANTS_H

#include "numerics.h"
#include "structs.h"

/* The arrays that a span goes through side by side, in the order of its fields. */
enum { PARAM, GRAD, EXP_AVG, EXP_AVG_SQ, MAX_EXP_AVG_SQ, N_ROLES };

static FASTADAM_INLINE int format_in(int64_t variant, int role)
{
    return (int)(variant >> (FASTADAM_FORMATS_AT + FASTADAM_FORMAT_BITS * role)) &
           ((1 << FASTADAM_FORMAT_BITS) - 1);
}

static FASTADAM_INLINE int computes_in_double(int64_t variant)
{
    return ((variant >> FASTADAM_COMPUTE_AT) & ((1 << FASTADAM_FORMAT_BITS) - 1)) == FASTADAM_FLOAT64;
}

/* Bytes of a number in a format. */
static FASTADAM_INLINE int64_t itemsize_of(int format)
{
    static const int64_t itemsizes[] = FASTADAM_ITEMSIZES;
    return itemsizes[format];
}

/* Those of the gradients that a variant reads. */
static FASTADAM_INLINE int64_t grad_itemsize(int64_t variant) { return itemsize_of(format_in(variant, GRAD)); }

#endif
