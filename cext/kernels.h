/* The kernels, one for each instruction set. */
#ifndef FASTADAM_KERNELS_H
#define FASTADAM_KERNELS_H

#include "sharing.h"

#if defined(__GNUC__) && defined(__x86_64__)
#define FASTADAM_X86 1
#endif

/* What steps elements, what adds up the squares of their gradients in the thread's total, and what multiplies
 * their gradients by the scale; by the number of the instruction set. */
extern const fastadam_kernel fastadam_kernels[];
extern const fastadam_kernel fastadam_measures[];
extern const fastadam_kernel fastadam_scales[];

#endif
