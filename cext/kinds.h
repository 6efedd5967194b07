/* The formats that have kernels of their own (blocks.inc): of the parameter, the gradient and exp_avg. */
#ifndef FASTADAM_KINDS_H
#define FASTADAM_KINDS_H

#include "variants.h"

enum { NO_DECAY = 0 };

#define KINDS_OF_DECAY(KIND, PARAM_FORMAT, GRAD_FORMAT, STATE_FORMAT)                                             \
    KIND(PARAM_FORMAT, GRAD_FORMAT, STATE_FORMAT, NO_DECAY)                                                       \
    KIND(PARAM_FORMAT, GRAD_FORMAT, STATE_FORMAT, FASTADAM_L2)                                                    \
    KIND(PARAM_FORMAT, GRAD_FORMAT, STATE_FORMAT, FASTADAM_DECOUPLED)
#define FOR_KINDS(KIND)                                                                                           \
    KINDS_OF_DECAY(KIND, FASTADAM_FLOAT32, FASTADAM_FLOAT32, FASTADAM_BFLOAT16_STOCHASTIC)                        \
    KINDS_OF_DECAY(KIND, FASTADAM_FLOAT32, FASTADAM_FLOAT32, FASTADAM_INT8)                                       \
    KINDS_OF_DECAY(KIND, FASTADAM_BFLOAT16_STOCHASTIC, FASTADAM_BFLOAT16, FASTADAM_FLOAT32)                       \
    KINDS_OF_DECAY(KIND, FASTADAM_BFLOAT16_STOCHASTIC, FASTADAM_BFLOAT16, FASTADAM_BFLOAT16_STOCHASTIC)           \
    KINDS_OF_DECAY(KIND, FASTADAM_BFLOAT16_STOCHASTIC, FASTADAM_BFLOAT16, FASTADAM_INT8)                          \
    KINDS_OF_DECAY(KIND, FASTADAM_BFLOAT16_MASTER, FASTADAM_BFLOAT16, FASTADAM_FLOAT32)                           \
    KINDS_OF_DECAY(KIND, FASTADAM_BFLOAT16_MASTER, FASTADAM_BFLOAT16, FASTADAM_BFLOAT16_STOCHASTIC)               \
    KINDS_OF_DECAY(KIND, FASTADAM_BFLOAT16_MASTER, FASTADAM_BFLOAT16, FASTADAM_INT8)

/* exp_avg_sq lies in the format of exp_avg, or in its own of 8 bits. */
#define FORMAT_BESIDE(STATE_FORMAT) ((STATE_FORMAT) == FASTADAM_INT8 ? FASTADAM_ROOT8 : (STATE_FORMAT))

/* The variants, but for the format of the running maximum, which they do not have. */
#define FORMAT_AT(FORMAT, ROLE) ((int64_t)(FORMAT) << (FASTADAM_FORMATS_AT + FASTADAM_FORMAT_BITS * (ROLE)))
#define KIND_OF(PARAM_FORMAT, GRAD_FORMAT, STATE_FORMAT, DECAY)                                                   \
    ((DECAY) + FORMAT_AT(PARAM_FORMAT, PARAM) + FORMAT_AT(GRAD_FORMAT, GRAD) + FORMAT_AT(STATE_FORMAT, EXP_AVG) + \
     FORMAT_AT(FORMAT_BESIDE(STATE_FORMAT), EXP_AVG_SQ))
#define WITHOUT_MAXIMUM(VARIANT) ((VARIANT) & (FORMAT_AT(1, MAX_EXP_AVG_SQ) - 1))

#endif
