/* What every file with floating-point arithmetic includes first: each operation rounds on its own. */
#ifndef FASTADAM_NUMERICS_H
#define FASTADAM_NUMERICS_H

#include <float.h>

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error "more digits than the type has change results: build with CFLAGS='-msse2 -mfpmath=sse'"
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#elif !defined(__GNUC__) /* GCC and clang take -ffp-contract=off instead */
#pragma STDC FP_CONTRACT OFF
#endif

#if defined(__GNUC__)
#define FASTADAM_INLINE inline __attribute__((always_inline))
#define FASTADAM_NOINLINE __attribute__((noinline))
#define FASTADAM_RESTRICT restrict
#else
#define FASTADAM_INLINE inline
#define FASTADAM_NOINLINE
#define FASTADAM_RESTRICT
#endif

#endif
