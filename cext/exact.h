/* Exact sums of squares. */
#ifndef FASTADAM_EXACT_H
#define FASTADAM_EXACT_H

#include <stdint.h>

#include "structs.h"

/* Add the squares of n numbers, float64 or float32, one after the other in memory, to a total: exactly. */
void fastadam_add_squares(fastadam_total *total, const void *numbers, int64_t n, int is_float64);

#endif
