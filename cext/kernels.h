/* The kernels, one for each instruction set. */
#ifndef FASTADAM_KERNELS_H
#define FASTADAM_KERNELS_H

#include "structs.h"

#if defined(__GNUC__) && defined(__x86_64__)
#define FASTADAM_X86 1
#endif

/* Steps elements low to high of a batch, counted across its spans, or what the borders of blocks make of it. */
typedef void (*fastadam_kernel)(const fastadam_plan *plan, const fastadam_batch *batch, int64_t low, int64_t high);

/* By the number of the instruction set. */
extern const fastadam_kernel fastadam_kernels[];

#endif
