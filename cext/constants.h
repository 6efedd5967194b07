/* The constants that C and Python share. Written by cext/header.py from structs.py and tensor_structs.py in
 * fastadam/memory: change these, and write this anew. */
#ifndef FASTADAM_CONSTANTS_H
#define FASTADAM_CONSTANTS_H

/* What an attempt at a step returns. TAKEN: all that was asked for is done. From 0 on: the slot, or the parameter,
 * whose gradient Python has to look at. SKIPPED, REFUSED: some gradients are not finite, and such a step is to be
 * left out, or not to be taken. READ: the gradients are in the plan, which was not run. The others are of PyTorch
 * tensors: something is not what it was, other gradients are present, step counters are others than those that the
 * rows were computed for, fetching a gradient has raised an exception. Where it is not TAKEN, nothing was written.
 * */
enum {
    FASTADAM_TAKEN = -1,
    FASTADAM_CHANGED = -2,
    FASTADAM_OTHER_GRADIENTS = -3,
    FASTADAM_OTHER_STEPS = -4,
    FASTADAM_RAISED = -5,
    FASTADAM_SKIPPED = -6,
    FASTADAM_REFUSED = -7,
    FASTADAM_READ = -8,
};

/* The stages of a step, which are run in this order: look at the gradients' objects and note where their numbers
 * are; add up the gradients' squares, if their norm is wanted; compute what has to be known of the whole before
 * the first element is written, the norm and the rows of scalars; step all elements, and count the step. SCALE is
 * no part of a step: multiply the gradients by the scale. */
enum {
    FASTADAM_INSPECT = 1,
    FASTADAM_MEASURE = 2,
    FASTADAM_REDUCE = 4,
    FASTADAM_APPLY = 8,
    FASTADAM_SCALE = 16,
};

/* The types of step counters. */
enum {
    FASTADAM_COUNTER_INT64 = 0,
    FASTADAM_COUNTER_FLOAT64 = 1,
    FASTADAM_COUNTER_FLOAT32 = 2,
};

/* Where a float32 counter ends: it counts no further. */
enum {
    FASTADAM_FLOAT32_END = 16777216,
};

/* The formats of numbers (fastadam/memory/formats.py). */
enum {
    FASTADAM_FLOAT32 = 0,
    FASTADAM_FLOAT64 = 1,
    FASTADAM_BFLOAT16 = 2,
    FASTADAM_FLOAT16 = 3,
    FASTADAM_INT8 = 4,
    FASTADAM_ROOT8 = 5,
    FASTADAM_BFLOAT16_STOCHASTIC = 6,
    FASTADAM_FLOAT16_STOCHASTIC = 7,
    FASTADAM_BFLOAT16_MASTER = 8,
    FASTADAM_FLOAT16_MASTER = 9,
};

/* A compiled variant as one number: flags in the lowest 16 bits (of L2 and DECOUPLED, the two ways of weight
 * decay, there is one at most; spans that are IDLE have no gradient, and only their averages move), then the
 * format that is computed in, then those of the parameter, the gradient and the moments, in the order of the
 * fields of a span. */
enum {
    FASTADAM_AMSGRAD = 1,
    FASTADAM_L2 = 2,
    FASTADAM_DECOUPLED = 4,
    FASTADAM_IDLE = 8,
    FASTADAM_COMPUTE_AT = 16,
    FASTADAM_FORMATS_AT = 24,
    FASTADAM_FORMAT_BITS = 8,
};

/* Elements of a block. Blocks are counted from the first element of each parameter, and threads share out whole
 * ones. A power of two: so large that what is kept for each block is little beside its elements, so small that
 * shares come out even. The smallest share of a batch that has several threads is 16 blocks. */
enum {
    FASTADAM_BLOCK = 1024,
};

/* Shares of a batch for each thread, taken as the threads get to them: one that has to wait for its processor does
 * not hold up the others. */
enum {
    FASTADAM_SHARES_PER_THREAD = 8,
};

/* Elements for which one thread more pays: about half as many do where the threads are awake, and these in any
 * case where they have to be woken; benchmarks/threshold.py measures both curves. */
enum {
    FASTADAM_ELEMENTS_PER_THREAD = 131072,
};

/* Elements that are widened at a time, where they lie in memory in less than they are computed with: the five
 * arrays of them fit the first-level cache, with what they were read from. A divisor of BLOCK. */
enum {
    FASTADAM_CHUNK = 512,
};

/* Elements that share a scale, where state lies in 8 bits. They are counted from the first element of each
 * parameter. A divisor of CHUNK. */
enum {
    FASTADAM_SCALE_BLOCK = 64,
};

/* Elements that are stepped at a time where more is done with each of them afterwards (see the struct after),
 * while they are in the second-level cache: the longer they are, the better memory is read ahead. */
enum {
    FASTADAM_STRIP = 8192,
};

/* Sums of squares that are kept side by side within a block (fastadam/step/norm.py). */
enum {
    FASTADAM_LANES = 8,
};

/* An exact total of sums of squares is a whole number of units of 2^TOTAL_LOWEST, in words of 32 bits each. They
 * reach from less than the square of the smallest float64, with its digits behind, to more than that of the
 * largest. */
enum {
    FASTADAM_TOTAL_WORDS = 142,
    FASTADAM_TOTAL_LOWEST = -2304,
};

/* What is wanted of the norm: that it is computed, and that a step is skipped, or refused, where it is not finite.
 * */
enum {
    FASTADAM_MEASURES = 1,
    FASTADAM_SKIPS = 2,
    FASTADAM_REFUSES = 4,
};

/* NumPy's public flag bits (NPY_ARRAY_*). */
enum {
    FASTADAM_C_CONTIGUOUS = 1,
    FASTADAM_ALIGNED = 256,
    FASTADAM_WRITEABLE = 1024,
};

/* Bytes of a number in each of the formats. */
#define FASTADAM_ITEMSIZES {4, 8, 2, 2, 1, 1, 2, 2, 2, 2}

#endif
