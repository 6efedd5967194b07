/* Which instruction sets there are here, and which one is in use. */
#include "adam.h"
#include "kernels.h"

/* Threads may read it while another one calls fastadam_use. */
#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L && !defined(__STDC_NO_ATOMICS__)
#include <stdatomic.h>
static atomic_int current = -1; /* -1: the best one */
#else
static volatile int current = -1;
#endif

int fastadam_supports(int instruction_set)
{
#ifdef FASTADAM_X86
    __builtin_cpu_init();
    if (instruction_set == 1)
        return __builtin_cpu_supports("avx2") != 0;
    if (instruction_set == 2)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
    return instruction_set == 0;
}

int fastadam_instruction_set(void)
{
    const int chosen = current;
    return chosen >= 0 ? chosen : fastadam_supports(2) ? 2 : fastadam_supports(1) ? 1 : 0;
}

void fastadam_use(int instruction_set)
{
    if (fastadam_supports(instruction_set))
        current = instruction_set;
}
