/* Drive the C kernels over plans in compact formats, whose bits tests/step/test_compact.py compares with a
 * reference: here, sanitizers see the kernels alone, and every instruction set and number of threads has to give
 * the same bits.
 *
 *     compact [--plans N] [--threads T]
 */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adam.h"

enum { PARAM, GRAD, EXP_AVG, EXP_AVG_SQ, MAX_EXP_AVG_SQ, N_ROLES };
enum { MOST_SPANS = 6, STEPS = 3, N_KINDS = 12, DEFAULT_PLANS = 300 };

/* Formats of the parameter, the gradient and exp_avg; those of the others follow. */
static const int kinds[N_KINDS][3] = {
    {FASTADAM_FLOAT32, FASTADAM_FLOAT32, FASTADAM_BFLOAT16_STOCHASTIC},
    {FASTADAM_FLOAT32, FASTADAM_FLOAT32, FASTADAM_INT8},
    {FASTADAM_FLOAT32, FASTADAM_BFLOAT16, FASTADAM_INT8},
    {FASTADAM_FLOAT64, FASTADAM_FLOAT64, FASTADAM_INT8},
    {FASTADAM_BFLOAT16_STOCHASTIC, FASTADAM_BFLOAT16, FASTADAM_FLOAT32},
    {FASTADAM_BFLOAT16_STOCHASTIC, FASTADAM_BFLOAT16, FASTADAM_BFLOAT16_STOCHASTIC},
    {FASTADAM_BFLOAT16_STOCHASTIC, FASTADAM_BFLOAT16, FASTADAM_INT8},
    {FASTADAM_BFLOAT16_MASTER, FASTADAM_BFLOAT16, FASTADAM_FLOAT32},
    {FASTADAM_BFLOAT16_MASTER, FASTADAM_BFLOAT16, FASTADAM_BFLOAT16_STOCHASTIC},
    {FASTADAM_BFLOAT16_MASTER, FASTADAM_BFLOAT16, FASTADAM_INT8},
    {FASTADAM_FLOAT16_STOCHASTIC, FASTADAM_FLOAT16, FASTADAM_BFLOAT16_STOCHASTIC},
    {FASTADAM_FLOAT16_MASTER, FASTADAM_FLOAT16, FASTADAM_INT8},
};

static const fastadam_row rows[2] = {
    {.step_size = 0.01,
     .inv_sqrt_bias_correction2 = 3,
     .decay_rate = 0.001,
     .tiny = 1,
     .beta1 = 0.9,
     .one_minus_beta1 = 0.1,
     .beta2 = 0.999,
     .one_minus_beta2 = 0.001,
     .eps = 1e-8,
     .l2 = 0.1,
     .grad_scale = 1},
    {.step_size = 0.001,
     .inv_sqrt_bias_correction2 = 1,
     .decay_rate = 0.01,
     .beta1 = 0,
     .one_minus_beta1 = 1,
     .beta2 = 0.5,
     .one_minus_beta2 = 0.5,
     .grad_scale = -1},
};
static const int64_t random_keys[2] = {INT64_C(0x123456789abcdef), -5};
static const fastadam_after nothing_after;

static void *allocate(size_t bytes)
{
    void *block = malloc(bytes ? bytes : 1);
    if (block == NULL)
        exit(2);
    return block;
}

/* splitmix64 (Steele, Lea and Flood 2014). */
static uint64_t draw(uint64_t *state)
{
    uint64_t bits = *state += UINT64_C(0x9e3779b97f4a7c15);
    bits = (bits ^ bits >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    bits = (bits ^ bits >> 27) * UINT64_C(0x94d049bb133111eb);
    return bits ^ bits >> 31;
}

static size_t itemsize(int format)
{
    static const size_t itemsizes[] = {4, 8, 2, 2, 1, 1, 2, 2, 2, 2};
    return itemsizes[format];
}

/* Bytes of what lies beside numbers: scales, or what makes masters. */
static size_t bytes_beside(int format, int64_t size)
{
    if (format == FASTADAM_INT8 || format == FASTADAM_ROOT8)
        return (size_t)((size + FASTADAM_SCALE_BLOCK - 1) / FASTADAM_SCALE_BLOCK) * sizeof(float);
    return (size_t)size * (format == FASTADAM_BFLOAT16_MASTER ? 2 : format == FASTADAM_FLOAT16_MASTER ? 4 : 0);
}

/* Half of the floating-point numbers are any bits at all, those of second moments but for the sign. */
static void fill(uint64_t *state, int format, int role, char *numbers, size_t bytes)
{
    const size_t item = itemsize(format);
    for (size_t i = 0; i < bytes / item; i++) {
        uint64_t bits = draw(state);
        const double usual = (double)(int64_t)bits * 0x1p-63;
        const float narrow = (float)usual;
        uint32_t word;
        memcpy(&word, &narrow, sizeof word);
        if (draw(state) % 2 && item == 8)
            memcpy(&bits, &usual, sizeof bits);
        else if (draw(state) % 2 && item > 1)
            bits = item == 4 ? word : word >> 16;
        if (role >= EXP_AVG_SQ && item > 1)
            bits &= ((uint64_t)1 << (8 * item - 1)) - 1;
        const uint32_t lower = (uint32_t)bits;
        const uint16_t half = (uint16_t)bits;
        const uint8_t byte = (uint8_t)bits;
        memcpy(numbers + i * item,
               item == 8   ? (void *)&bits
               : item == 4 ? (void *)&lower
               : item == 2 ? (void *)&half
                           : (void *)&byte,
               item);
    }
}

/* Scales, some of which are marked, zero or large. */
static void fill_scales(uint64_t *state, float *scales, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint64_t bits = draw(state);
        scales[i] = ldexpf((float)(bits % 1024), (int)(bits >> 10) % 60 - 40) * (bits >> 62 ? 1 : -1);
    }
}

static uint64_t fold(uint64_t checksum, int format, const char *numbers, size_t bytes)
{
    const size_t item = itemsize(format);
    for (size_t i = 0; i < bytes; i += item) {
        uint64_t bits = 0;
        float single;
        double number;
        for (size_t byte = 0; byte < item; byte++)
            bits |= (uint64_t)(unsigned char)numbers[i + byte] << 8 * byte;
        /* Every NaN counts as the same one. */
        if (format == FASTADAM_FLOAT32 && (memcpy(&single, numbers + i, sizeof single), isnan(single)))
            bits = 1;
        if (format == FASTADAM_FLOAT64 && (memcpy(&number, numbers + i, sizeof number), isnan(number)))
            bits = 1;
        const int is_half = format == FASTADAM_FLOAT16_STOCHASTIC || format == FASTADAM_FLOAT16_MASTER;
        if (is_half && (bits & 0x7fff) > 0x7c00)
            bits = 1;
        checksum = (checksum ^ bits) * UINT64_C(0x100000001b3);
    }
    return checksum;
}

/* Step a plan of the seed; return a checksum of what it wrote. */
static uint64_t run(uint64_t seed, int threads)
{
    static const int64_t sizes[] = {0, 1, 2, 63, 64, 65, 127, 128, 129, 200, 511, 513, 1023, 1025, 3000};
    static const int flags[] = {0, FASTADAM_L2, FASTADAM_DECOUPLED};
    uint64_t random = seed, *state = &random, checksum = UINT64_C(0xcbf29ce484222325);
    const int *kind = kinds[draw(state) % N_KINDS];
    const int amsgrad = draw(state) % 4 == 0;
    const int second = kind[EXP_AVG] == FASTADAM_INT8 ? FASTADAM_ROOT8 : kind[EXP_AVG];
    const int formats[N_ROLES] = {kind[PARAM], kind[GRAD], kind[EXP_AVG], second,
                                  second == FASTADAM_BFLOAT16_STOCHASTIC ? FASTADAM_BFLOAT16 : second};
    const int64_t compute = kind[PARAM] == FASTADAM_FLOAT64 ? FASTADAM_FLOAT64 : FASTADAM_FLOAT32;
    fastadam_batch batch = {
        .count = 1 + (int64_t)(draw(state) % MOST_SPANS), .threads = threads, .most_threads = threads};
    batch.variant = (compute << FASTADAM_COMPUTE_AT) + flags[draw(state) % 3] + (amsgrad ? FASTADAM_AMSGRAD : 0);
    for (int role = 0; role < N_ROLES; role++)
        batch.variant += (int64_t)formats[role] << (FASTADAM_FORMATS_AT + FASTADAM_FORMAT_BITS * role);
    fastadam_span spans[MOST_SPANS];
    memset(spans, 0, sizeof spans);
    char *numbers[MOST_SPANS][N_ROLES], *beside[MOST_SPANS][N_ROLES];
    for (int64_t i = 0; i < batch.count; i++) {
        fastadam_span *span = &spans[i];
        span->size = span->length = sizes[draw(state) % (sizeof sizes / sizeof *sizes)];
        span->row = (int64_t)(draw(state) % 2), span->position = i;
        batch.elements += span->size;
        for (int role = 0; role < N_ROLES; role++) {
            const size_t bytes = (size_t)span->size * itemsize(formats[role]);
            const size_t more = bytes_beside(formats[role], span->size);
            numbers[i][role] = allocate(bytes), beside[i][role] = allocate(more);
            fill(state, formats[role], role, numbers[i][role], bytes);
            if (role == PARAM)
                fill(state, formats[PARAM] == FASTADAM_FLOAT16_MASTER ? FASTADAM_FLOAT32 : FASTADAM_BFLOAT16,
                     PARAM, beside[i][role], more);
            else
                fill_scales(state, (float *)(void *)beside[i][role], more / sizeof(float));
        }
#define AT(PLACES, ROLE) ((int64_t)(uintptr_t)PLACES[i][ROLE])
        span->param = AT(numbers, PARAM), span->grad = AT(numbers, GRAD), span->exp_avg = AT(numbers, EXP_AVG);
        span->exp_avg_sq = AT(numbers, EXP_AVG_SQ), span->max_exp_avg_sq = AT(numbers, MAX_EXP_AVG_SQ);
        span->master_param = AT(beside, PARAM), span->exp_avg_scale = AT(beside, EXP_AVG);
        span->exp_avg_sq_scale = AT(beside, EXP_AVG_SQ), span->max_exp_avg_sq_scale = AT(beside, MAX_EXP_AVG_SQ);
#undef AT
    }
    fastadam_plan plan;
    memset(&plan, 0, sizeof plan);
    plan.spans = (int64_t)(uintptr_t)spans, plan.rows = (int64_t)(uintptr_t)rows;
    plan.random_keys = (int64_t)(uintptr_t)random_keys, plan.after = (int64_t)(uintptr_t)&nothing_after;
    plan.batches = (int64_t)(uintptr_t)&batch, plan.n_batches = 1;
    for (int step = 0; step < STEPS; step++)
        if (fastadam_run(&plan, FASTADAM_APPLY) != FASTADAM_TAKEN)
            exit(2);
    for (int64_t i = 0; i < batch.count; i++)
        for (int role = 0; role < N_ROLES; role++) {
            const size_t more = bytes_beside(formats[role], spans[i].size);
            checksum =
                fold(checksum, formats[role], numbers[i][role], (size_t)spans[i].size * itemsize(formats[role]));
            checksum = fold(checksum, more % 4 ? FASTADAM_BFLOAT16 : FASTADAM_FLOAT32, beside[i][role], more);
            free(numbers[i][role]), free(beside[i][role]);
        }
    return checksum;
}

int main(int count, char **words)
{
    long plans = DEFAULT_PLANS;
    int threads = 1, wrong = 0;
    for (int i = 1; i + 1 < count; i += 2)
        if (strcmp(words[i], "--plans") == 0)
            plans = strtol(words[i + 1], NULL, 10);
        else if (strcmp(words[i], "--threads") == 0)
            threads = (int)strtol(words[i + 1], NULL, 10);
        else
            return fprintf(stderr, "compact: unknown option %s\n", words[i]), 2;
    for (long seed = 0; seed < plans; seed++) {
        fastadam_use(0);
        const uint64_t expected = run((uint64_t)seed, 1);
        for (int set = 0; set < 3; set++) {
            if (!fastadam_supports(set))
                continue;
            fastadam_use(set);
            if (run((uint64_t)seed, threads) != expected && wrong++ < 5)
                fprintf(stderr, "plan %ld: instruction set %d has other bits\n", seed, set);
        }
    }
    printf("%ld plans in compact formats, %d differences\n", plans, wrong);
    return wrong != 0;
}
