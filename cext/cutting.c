/* Cutting a parameter into runs of rows, each of which is a span (fastadam/step/cutting.py). */
#include "adam.h"
#include "structs.h"

#include <stddef.h>

enum { WORDS = sizeof(fastadam_span) / sizeof(int64_t) };

/* The run of so many rows that ends before row i of the cut. */
static void write(const fastadam_cut *cut, fastadam_span *span, int64_t i, int64_t length)
{
    const int64_t *numbers = (const int64_t *)(uintptr_t)cut->numbers;
    const int64_t *places = (const int64_t *)(uintptr_t)cut->places;
    const int64_t *of = (const int64_t *)(uintptr_t)cut->of;
    const int64_t *region = (const int64_t *)&cut->region, *per_row = (const int64_t *)&cut->per_row;
    const int64_t first = i - length, start = numbers[first];
    int64_t *words = (int64_t *)span;
    for (int64_t word = 0; word < WORDS; word++)
        words[word] = region[word] + start * per_row[word];
    span->grad = cut->grad + places[first] * cut->grad_bytes;
    span->row = of == NULL ? cut->row : cut->row + of[first];
    span->size = span->length = length * cut->row_size;
}

int64_t fastadam_cut_rows(const fastadam_cut *cut)
{
    const int64_t *numbers = (const int64_t *)(uintptr_t)cut->numbers;
    const int64_t *places = (const int64_t *)(uintptr_t)cut->places;
    const int64_t *of = (const int64_t *)(uintptr_t)cut->of;
    fastadam_span *spans = (fastadam_span *)(uintptr_t)cut->spans;
    fastadam_counter *counters = (fastadam_counter *)(uintptr_t)cut->counters;
    int64_t n_runs = 0, length = 0;
    for (int64_t i = 0; i < cut->n; i++) {
        if (length > 0 && !(numbers[i] == numbers[i - 1] + 1 && places[i] == places[i - 1] + 1 &&
                            (of == NULL || of[i] == of[i - 1]))) {
            write(cut, spans + n_runs++, i, length);
            length = 0;
        }
        length++;
        if (counters != NULL) {
            counters[i].address = cut->row_steps + (int64_t)sizeof(int64_t) * numbers[i];
            counters[i].type = FASTADAM_COUNTER_INT64;
        }
    }
    if (length > 0)
        write(cut, spans + n_runs++, cut->n, length);
    return n_runs;
}
