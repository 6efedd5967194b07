/* Drive the C kernels over random plans, and compare every bit with a scalar reference.
 *
 * No Python is needed, so that sanitizers, valgrind and emulators of other machines see the kernels alone. The
 * bits of all results are folded into one checksum, which is the same on every machine (where NaNs count as one).
 *
 *     steps [--plans N] [--seed S] [--instruction-set I] [--threads T] [--callers C] [--guard] [--mixed]
 *
 * --threads is how many OpenMP threads a batch may ask for at most, --callers how many threads step plans of their
 * own over the same gradients at once, while another one changes the instruction set. --guard lays each array
 * against the end of a page, behind which nothing may be touched. --mixed gives each array of a batch a format of
 * its own.
 */
#if defined(__unix__) || defined(__APPLE__)
#define _DEFAULT_SOURCE
#define HAS_PAGES 1
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adam.h"
#include "reference.h"

enum {
    MOST_STARTS = 3,
    MOST_SPANS = 40,
    MOST_BATCHES = 4,
    MOST_CALLERS = 8,
    N_ROWS = 4,
    STEPS = 2,
    DEFAULT_PLANS = 400
};

/* The checksum of DEFAULT_PLANS plans from the seed 0. */
#define GOLDEN UINT64_C(0xb878e0019744e0ce)

/* What fastadam/step/coefficients.py makes of: the usual options at step 1 (but with small moments set to zero);
 * coupled decay at step 10; decoupled decay, up the gradient, at step 1000; betas, eps and rate of zero. They are
 * written out, so that the kernels are tested apart from what computes them. */
static const fastadam_row rows[N_ROWS] = {
    {.step_size = 0x1.47ae147ae147cp-7,
     .inv_sqrt_bias_correction2 = 0x1.f9f6e4990f224p+4,
     .decay_rate = 0x0.0p+0,
     .tiny = 0x1.0000000000000p+0,
     .beta1 = 0x1.ccccccccccccdp-1,
     .one_minus_beta1 = 0x1.9999999999998p-4,
     .beta2 = 0x1.ff7ced916872bp-1,
     .one_minus_beta2 = 0x1.0624dd2f1aa00p-10,
     .eps = 0x1.5798ee2308c3ap-27,
     .l2 = 0x0.0p+0,
     .grad_scale = 0x1.0000000000000p+0},
    {.step_size = 0x1.f719a5ff71b0ep-7,
     .inv_sqrt_bias_correction2 = 0x1.40b8734fb3f4ep+3,
     .decay_rate = 0x0.0p+0,
     .tiny = 0x0.0p+0,
     .beta1 = 0x1.ccccccccccccdp-1,
     .one_minus_beta1 = 0x1.9999999999998p-4,
     .beta2 = 0x1.ff7ced916872bp-1,
     .one_minus_beta2 = 0x1.0624dd2f1aa00p-10,
     .eps = 0x1.5798ee2308c3ap-27,
     .l2 = 0x1.999999999999ap-4,
     .grad_scale = 0x1.0000000000000p+0},
    {.step_size = 0x1.47ae147ae147bp-7,
     .inv_sqrt_bias_correction2 = 0x1.00016a288cbe2p+0,
     .decay_rate = 0x1.a36e2eb1c432dp-14,
     .tiny = 0x1.0000000000000p+0,
     .beta1 = 0x1.e666666666666p-1,
     .one_minus_beta1 = 0x1.99999999999a0p-5,
     .beta2 = 0x1.fae147ae147aep-1,
     .one_minus_beta2 = 0x1.47ae147ae1480p-7,
     .eps = 0x1.0c6f7a0b5ed8dp-20,
     .l2 = 0x0.0p+0,
     .grad_scale = -0x1.0000000000000p+0},
    {.step_size = 0x0.0p+0,
     .inv_sqrt_bias_correction2 = 0x1.0000000000000p+0,
     .decay_rate = 0x0.0p+0,
     .tiny = 0x0.0p+0,
     .beta1 = 0x0.0p+0,
     .one_minus_beta1 = 0x1.0000000000000p+0,
     .beta2 = 0x0.0p+0,
     .one_minus_beta2 = 0x1.0000000000000p+0,
     .eps = 0x0.0p+0,
     .l2 = 0x1.0000000000000p+1,
     .grad_scale = -0x1.0000000000000p+0},
};

static const fastadam_after nothing_after;
static const int64_t random_keys[N_ROWS]; /* nothing is rounded at random */

/* A page-aligned or an exact piece of memory. */
typedef struct {
    void *block, *at;
    size_t mapped;
} memory;

/* What a NumPy array object holds, in an order of its own. */
typedef struct {
    int flags;
    intptr_t dtype, type, data;
    int ndim;
    intptr_t dims;
    intptr_t shape[2];
} object;

enum {
    DTYPE = 3,
    ARRAY_TYPE = 77,
    PACKED_TYPE = 91,
    PLAIN = FASTADAM_C_CONTIGUOUS | FASTADAM_ALIGNED | FASTADAM_WRITEABLE,
    WHOLE_STEP = FASTADAM_INSPECT | FASTADAM_MEASURE | FASTADAM_REDUCE | FASTADAM_APPLY,
};

/* One span: its arrays, and what they should hold. */
typedef struct {
    int formats[N_ROLES], l2, decoupled, amsgrad;
    int64_t starts[MOST_STARTS];
    memory arrays[N_ROLES];
    void *expected[N_ROLES];
    object param_object, grad_object;
} part;

typedef struct {
    int n, borrows_grads;
    part parts[MOST_SPANS];
    fastadam_span spans[MOST_SPANS];
    fastadam_batch batches[MOST_BATCHES];
    fastadam_slot slots[MOST_SPANS];
    fastadam_row_inputs inputs[N_ROWS];
    int64_t grad_objects[MOST_SPANS], written_starts[4 * MOST_SPANS], written_ends[4 * MOST_SPANS];
    fastadam_norm norm;
    fastadam_plan plan;
} work;

static int guarded, mixed, most_threads = 1;
static long differences;

static int64_t address(const void *place) { return (int64_t)(uintptr_t)place; }

static void fail(const char *what)
{
    fprintf(stderr, "steps: %s\n", what);
    exit(2);
}

static void *allocate(size_t bytes)
{
    void *block = malloc(bytes ? bytes : 1);
    if (block == NULL)
        fail("out of memory");
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

static int64_t below(uint64_t *state, int64_t end) { return (int64_t)(draw(state) % (uint64_t)end); }

static memory take(size_t bytes, size_t offset)
{
#ifdef HAS_PAGES
    if (guarded) {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page + page;
        char *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED || mprotect(block + size - page, page, PROT_NONE) != 0)
            fail("no pages to be had");
        return (memory){block, block + size - page - bytes, size};
    }
#endif
    char *block = allocate(bytes + offset);
    return (memory){block, block + offset, 0};
}

static void give_back(memory taken)
{
#ifdef HAS_PAGES
    if (taken.mapped) {
        munmap(taken.block, taken.mapped);
        return;
    }
#endif
    free(taken.block);
}

/* Half of the numbers are any bits at all, half are of common sizes; second moments are not negative. */
static void fill(uint64_t *state, int format, int role, void *array, int64_t size)
{
    const uint64_t sign = (uint64_t)1 << (8 * itemsize(format) - 1);
    for (int64_t i = 0; i < size; i++) {
        uint64_t bits = draw(state);
        if (bits >> 63)
            bits = bits_from_double(format, (double)(below(state, 4001) - 2000) / 512);
        store_bits(format, array, i, role >= EXP_AVG_SQ ? bits & (sign - 1) : bits);
    }
}

static int64_t draw_size(uint64_t *state)
{
    static const int64_t sizes[] = {0, 0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 1000};
    return sizes[below(state, sizeof sizes / sizeof *sizes)];
}

static int by_first(const void *a, const void *b)
{
    const int64_t first = *(const int64_t *)a, second = *(const int64_t *)b;
    return (first > second) - (first < second);
}

/* The memory that the step writes, sorted. */
static void note_written(work *made)
{
    int64_t pairs[4 * MOST_SPANS][2];
    int n = 0;
    for (int i = 0; i < made->n; i++)
        for (int role = 0; role < N_ROLES; role++) {
            const part *each = &made->parts[i];
            if (role == GRAD || made->spans[i].size == 0 || (role == MAX_EXP_AVG_SQ && !each->amsgrad))
                continue;
            pairs[n][0] = address(each->arrays[role].at);
            pairs[n][1] = pairs[n][0] + made->spans[i].size * (int64_t)itemsize(each->formats[role]);
            n++;
        }
    qsort(pairs, (size_t)n, sizeof *pairs, by_first);
    for (int i = 0; i < n; i++)
        made->written_starts[i] = pairs[i][0], made->written_ends[i] = pairs[i][1];
    made->plan.written_starts = address(made->written_starts);
    made->plan.written_ends = address(made->written_ends);
    made->plan.n_written = n;
}

static void describe(object *array, const memory *numbers, int64_t size, int ndim)
{
    *array = (object){PLAIN, DTYPE, ARRAY_TYPE, (intptr_t)(uintptr_t)numbers->at, ndim, 0, {0, 0}};
    array->shape[0] = ndim == 2 ? 1 : (intptr_t)size;
    array->shape[1] = (intptr_t)size;
    array->dims = (intptr_t)(uintptr_t)array->shape;
}

static int64_t variant_of(const int *formats, int l2, int decoupled, int amsgrad)
{
    const int64_t compute = formats[PARAM] == FLOAT64 ? FLOAT64 : FLOAT32;
    int64_t variant = FASTADAM_L2 * l2 + FASTADAM_DECOUPLED * decoupled + FASTADAM_AMSGRAD * amsgrad +
                      (compute << FASTADAM_COMPUTE_AT);
    for (int role = 0; role < N_ROLES; role++) {
        const int64_t format = formats[role == MAX_EXP_AVG_SQ && !amsgrad ? EXP_AVG_SQ : role];
        variant += format << (FASTADAM_FORMATS_AT + FASTADAM_FORMAT_BITS * role);
    }
    return variant;
}

/* Let parameters begin anywhere in a span, so that threads have where to cut. It draws numbers of its own. */
static void cut(part *each, fastadam_span *span, uint64_t seed)
{
    for (int i = 1; i < MOST_STARTS; i++)
        each->starts[i] = each->starts[i - 1] + below(&seed, span->size - each->starts[i - 1] + 1);
    span->starts = address(each->starts), span->n_starts = MOST_STARTS;
}

/* A plan of the seed; with `lender`, the same one in other memory, but for the gradients. */
static work *make(uint64_t seed, const work *lender)
{
    work *made = allocate(sizeof *made);
    memset(made, 0, sizeof *made);
    made->borrows_grads = lender != NULL;
    uint64_t random = seed, *state = &random;
    const int n_batches = 1 + (int)below(state, MOST_BATCHES);
    for (int b = 0; b < n_batches; b++) {
        fastadam_batch *batch = &made->batches[b];
        const int drawn = (int)below(state, 6 * N_FORMATS), amsgrad = drawn % 2;
        const int l2 = drawn / 2 % 3 == 1, decoupled = drawn / 2 % 3 == 2;
        int formats[N_ROLES];
        for (int role = 0; role < N_ROLES; role++) {
            static const int narrow[] = {FLOAT32, BFLOAT16, FLOAT16};
            formats[role] = mixed ? narrow[below(state, 3)] : drawn / 6;
        }
        batch->variant = variant_of(formats, l2, decoupled, amsgrad);
        batch->first = made->n;
        batch->count = 1 + below(state, MOST_SPANS / MOST_BATCHES);
        batch->threads = batch->most_threads = 1 + below(state, most_threads);
        for (int64_t i = 0; i < batch->count; i++, made->n++) {
            part *each = &made->parts[made->n];
            fastadam_span *span = &made->spans[made->n];
            memcpy(each->formats, formats, sizeof formats);
            each->l2 = l2, each->decoupled = decoupled, each->amsgrad = amsgrad;
            const int64_t size = draw_size(state);
            span->size = span->length = size, span->row = below(state, N_ROWS), span->slot = made->n;
            batch->elements += size;
            const int is_null = size == 0 && below(state, 2);
            for (int role = 0; role < N_ROLES; role++) {
                const size_t item = itemsize(formats[role]), bytes = (size_t)size * item;
                const size_t offset = below(state, 2) ? 0 : item * (size_t)below(state, 16);
                each->expected[role] = allocate(bytes);
                fill(state, formats[role], role, each->expected[role], size);
                if (role == GRAD && lender != NULL) {
                    each->arrays[role] = lender->parts[made->n].arrays[role];
                    continue;
                }
                if (is_null || (role == MAX_EXP_AVG_SQ && !each->amsgrad))
                    continue;
                each->arrays[role] = take(bytes, offset);
                memcpy(each->arrays[role].at, each->expected[role], bytes);
            }
            span->param = address(each->arrays[PARAM].at), span->grad = address(each->arrays[GRAD].at);
            span->exp_avg = address(each->arrays[EXP_AVG].at);
            span->exp_avg_sq = address(each->arrays[EXP_AVG_SQ].at);
            span->max_exp_avg_sq = address(each->arrays[MAX_EXP_AVG_SQ].at);
            cut(each, span, seed + (uint64_t)made->n);
            const int ndim = (int)below(state, 2) + 1;
            describe(&each->param_object, &each->arrays[PARAM], size, ndim);
            describe(&each->grad_object, &each->arrays[GRAD], size, ndim);
            each->grad_object.flags &= ~0x400; /* gradients may be read-only */
            made->slots[made->n] = (fastadam_slot){address(&each->param_object), DTYPE, size, DTYPE};
            made->grad_objects[made->n] = address(&each->grad_object);
        }
    }
    made->plan.spans = address(made->spans), made->plan.rows = address(rows);
    made->plan.row_inputs = address(made->inputs); /* none is in use */
    made->plan.random_keys = address(random_keys);
    made->plan.batches = address(made->batches), made->plan.n_batches = n_batches;
    made->plan.slots = address(made->slots), made->plan.grad_objects = address(made->grad_objects);
    made->plan.offsets = (fastadam_array_offsets){
        ARRAY_TYPE,
        PACKED_TYPE,
        offsetof(object, type),
        offsetof(object, data),
        offsetof(object, ndim),
        offsetof(object, dims),
        offsetof(object, dtype),
        offsetof(object, flags),
    };
    /* The norm is measured, and clips nothing. */
    fastadam_total *totals = allocate((size_t)most_threads * sizeof *totals);
    made->norm = (fastadam_norm){
        .wanted = FASTADAM_MEASURES, .divisor = 1, .max_norm = INFINITY, .totals = address(totals)};
    made->plan.norm = address(&made->norm), made->plan.after = address(&nothing_after);
    note_written(made);
    return made;
}

static void forget(work *made)
{
    for (int i = 0; i < made->n; i++)
        for (int role = 0; role < N_ROLES; role++) {
            free(made->parts[i].expected[role]);
            if (role != GRAD || !made->borrows_grads)
                give_back(made->parts[i].arrays[role]);
        }
    free((void *)(uintptr_t)made->norm.totals);
    free(made);
}

/* Count what differs from what is expected, and fold all bits into the checksum. */
static void compare(const work *made, uint64_t *checksum)
{
    for (int i = 0; i < made->n; i++) {
        const part *each = &made->parts[i];
        for (int role = 0; role < N_ROLES; role++)
            for (int64_t j = 0; each->arrays[role].at != NULL && j < made->spans[i].size; j++) {
                const uint64_t found = load_bits(each->formats[role], each->arrays[role].at, j);
                if (found != load_bits(each->formats[role], each->expected[role], j) && differences++ < 5)
                    fprintf(stderr,
                            "format %d, l2 %d, decoupled %d, amsgrad %d, role %d: element %" PRId64 " of %" PRId64
                            "\n",
                            each->formats[role], each->l2, each->decoupled, each->amsgrad, role, j,
                            made->spans[i].size);
                for (int byte = 0; checksum != NULL && byte < 8; byte++) /* FNV-1a */
                    *checksum = (*checksum ^ (found >> 8 * byte & 0xff)) * UINT64_C(0x100000001b3);
            }
    }
}

/* Something about one array is not as it must be: the step must be refused before anything is written. */
static void spoil(work *made, uint64_t *state)
{
    const int i = (int)below(state, made->n);
    part *each = &made->parts[i];
    const object param = each->param_object, grad = each->grad_object;
    switch (below(state, 9)) {
    case 0:
        each->grad_object.type++;
        break;
    case 1:
        each->grad_object.dtype++;
        break;
    case 2:
        each->param_object.dtype++;
        break;
    case 3:
        each->param_object.data += 8;
        break;
    case 4:
        each->param_object.flags &= ~0x400;
        break;
    case 5:
        each->grad_object.flags &= ~0x1;
        break;
    case 6:
        each->grad_object.ndim++;
        break;
    case 7:
        each->grad_object.shape[0]++;
        break;
    default: /* the last element of the gradient lies in memory that is written */
        if (made->spans[i].size == 0)
            return;
        each->grad_object.data = (intptr_t)made->written_starts[below(state, made->plan.n_written)] -
                                 (intptr_t)((size_t)(made->spans[i].size - 1) * itemsize(each->formats[GRAD]));
    }
    if (fastadam_run(&made->plan, WHOLE_STEP) != made->spans[i].slot)
        differences++, fprintf(stderr, "a spoiled gradient was not noticed\n");
    each->param_object = param, each->grad_object = grad;
    made->spans[i].grad = address(each->arrays[GRAD].at);
    compare(made, NULL);
}

static void expect(work *made)
{
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < made->n; i++)
            reference_step(made->parts[i].formats, made->parts[i].l2, made->parts[i].decoupled,
                           made->parts[i].amsgrad, &rows[made->spans[i].row], made->spans[i].size,
                           made->parts[i].expected);
}

static void *step(void *plan)
{
    for (int i = 0; i < STEPS; i++)
        if (fastadam_run(plan, i % 2 ? WHOLE_STEP : WHOLE_STEP & ~FASTADAM_INSPECT) != FASTADAM_TAKEN)
            fail("a plan was refused");
    return NULL;
}

/* One more step, which leaves out spans. */
static void step_in_part(work *made, uint64_t *state)
{
    static const object none;
    int n = 0;
    for (int i = 0; i < made->n; i++)
        if (below(state, 2))
            made->grad_objects[i] = address(&none);
        else
            n++;
    made->plan.none_object = address(&none), made->plan.n_slots = made->n;
    if (fastadam_run(&made->plan, WHOLE_STEP) != (n ? FASTADAM_TAKEN : 0))
        fail("a plan was refused that leaves out spans");
    for (int i = 0; i < made->n; i++) {
        const part *each = &made->parts[i];
        if (made->grad_objects[i] != address(&none))
            reference_step(each->formats, each->l2, each->decoupled, each->amsgrad, &rows[made->spans[i].row],
                           made->spans[i].length, each->expected);
        made->spans[i].size = made->spans[i].length;
    }
    compare(made, NULL);
}

static void *change_instruction_set(void *unused)
{
    for (int i = 0; i < 50; i++)
        fastadam_use(i % 3);
    return unused;
}

static pthread_t start(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, argument) != 0)
        fail("a thread could not be started");
    return thread;
}

/* One plan after the other, or the same one in as many threads as there are callers. */
static uint64_t run(uint64_t seed, long plans, int callers)
{
    uint64_t checksum = UINT64_C(0xcbf29ce484222325);
    for (long number = 0; number < plans; number++) {
        uint64_t random = seed + (uint64_t)number;
        work *all[MOST_CALLERS] = {make(draw(&random), NULL)};
        for (int i = 1; i < callers; i++) {
            uint64_t again = seed + (uint64_t)number;
            all[i] = make(draw(&again), all[0]);
        }
        spoil(all[0], &random);
        if (callers == 1) {
            step(&all[0]->plan);
        } else {
            pthread_t threads[MOST_CALLERS + 1];
            for (int i = 0; i < callers; i++)
                threads[i] = start(step, &all[i]->plan);
            threads[callers] = start(change_instruction_set, NULL);
            for (int i = 0; i <= callers; i++)
                pthread_join(threads[i], NULL);
        }
        for (int i = 0; i < callers; i++) {
            expect(all[i]);
            compare(all[i], i == 0 ? &checksum : NULL);
            if (memcmp(&all[i]->norm.norm, &all[0]->norm.norm, sizeof(double)) != 0 && differences++ < 5)
                fprintf(stderr, "the norms %a and %a\n", all[i]->norm.norm, all[0]->norm.norm);
        }
        step_in_part(all[0], &random);
        for (int i = callers - 1; i >= 0; i--)
            forget(all[i]);
    }
    return checksum;
}

static int64_t number_after(char **words, int *place, int64_t low, int64_t high)
{
    char *end = NULL;
    const long long number = words[*place + 1] ? strtoll(words[++*place], &end, 10) : 0;
    if (end == NULL || *end != '\0' || number < low || number > high)
        fail("an option lacks its number, or it is out of range");
    return number;
}

int main(int count, char **words)
{
    static const char *const names[] = {"baseline", "avx2", "avx512"};
    int64_t plans = DEFAULT_PLANS, seed = 0, callers = 1, only = -1;
    for (int i = 1; i < count; i++) {
        if (strcmp(words[i], "--plans") == 0)
            plans = number_after(words, &i, 1, 1000000);
        else if (strcmp(words[i], "--seed") == 0)
            seed = number_after(words, &i, 0, INT64_MAX);
        else if (strcmp(words[i], "--instruction-set") == 0)
            only = number_after(words, &i, 0, 2);
        else if (strcmp(words[i], "--threads") == 0)
            most_threads = (int)number_after(words, &i, 1, 256);
        else if (strcmp(words[i], "--callers") == 0)
            callers = number_after(words, &i, 1, MOST_CALLERS);
        else if (strcmp(words[i], "--guard") == 0)
            guarded = 1;
        else if (strcmp(words[i], "--mixed") == 0)
            mixed = 1;
        else
            fail("unknown option; the first lines of steps.c list them");
    }
#ifndef HAS_PAGES
    if (guarded)
        fail("--guard needs mmap");
#endif
    int wrong = 0;
    for (int set = 0; set < 3; set++) {
        if (!fastadam_supports(set) || (only >= 0 && set != only))
            continue;
        fastadam_use(set);
        const uint64_t checksum = run((uint64_t)seed, (long)plans, (int)callers);
        const int is_golden = plans == DEFAULT_PLANS && seed == 0 && !mixed;
        printf("%s: %" PRId64 " plans, checksum %016" PRIx64 "%s\n", names[set], plans, checksum,
               is_golden && checksum != GOLDEN ? ", which is not the one that every machine gives" : "");
        wrong |= is_golden && checksum != GOLDEN;
    }
    if (differences)
        fprintf(stderr, "%ld differences\n", differences);
    return wrong || differences;
}
