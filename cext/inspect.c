/* The first stage of a step: look at the gradients' array objects. */
#include "adam.h"
#include "leaving_out.h"
#include "stages.h"
#include "variants.h"

#include <string.h>

static int64_t read_word(int64_t object, int64_t offset)
{
    uintptr_t word; /* unsigned: addresses are compared as numbers */
    memcpy(&word, (const char *)(uintptr_t)object + offset, sizeof word);
    return (int64_t)word;
}

static int read_int(int64_t object, int64_t offset)
{
    int value;
    memcpy(&value, (const char *)(uintptr_t)object + offset, sizeof value);
    return value;
}

int fastadam_is_written(const fastadam_plan *plan, int64_t lo, int64_t hi, int64_t *below)
{
    const int64_t *starts = (const int64_t *)(uintptr_t)plan->written_starts;
    const int64_t *ends = (const int64_t *)(uintptr_t)plan->written_ends;
    const int64_t n = plan->n_written;
    int64_t found = *below;
    if ((found > 0 && starts[found - 1] >= hi) || (found < n && starts[found] < hi)) {
        int64_t count = n;
        found = 0;
        while (count > 0) {
            const int64_t half = count / 2;
            if (starts[found + half] < hi) {
                found += half + 1;
                count -= half + 1;
            } else {
                count = half;
            }
        }
        *below = found;
    }
    return found > 0 && ends[found - 1] > lo;
}

/* Whether a parameter without a gradient is where it was, of the size that its average has. */
static int is_there(const fastadam_plan *plan, const fastadam_span *span)
{
    const fastadam_array_offsets *at = &plan->offsets;
    const fastadam_slot *slot = (const fastadam_slot *)(uintptr_t)plan->slots + span->slot;
    const int64_t param = slot->param_object, dims = read_word(param, at->dims);
    if (read_word(param, at->dtype) != slot->dtype_object || read_word(param, at->data) != span->param ||
        !(read_int(param, at->flags) & FASTADAM_C_CONTIGUOUS))
        return 0;
    int64_t elements = 1;
    for (int i = 0; i < read_int(param, at->ndim); i++)
        elements *= read_word(dims, i * (int64_t)sizeof(intptr_t));
    return elements == slot->elements;
}

/* A plain gradient is an exact ndarray or PackedArray of the dtype that the plan is for and its parameter's shape,
 * C-contiguous, aligned, apart from all that the step writes, and writable if it is to become zero. Its parameter
 * must still be where it was, of the size that the moments have, and writable. */
static int is_plain(const fastadam_plan *plan, const fastadam_span *span, int64_t grad)
{
    const fastadam_array_offsets *at = &plan->offsets;
    const fastadam_slot *slot = (const fastadam_slot *)(uintptr_t)plan->slots + span->slot;
    const int64_t param = slot->param_object, type = read_word(grad, at->type);
    if ((type != at->array_type && type != at->packed_type) ||
        read_word(grad, at->dtype) != slot->grad_dtype_object ||
        read_word(param, at->dtype) != slot->dtype_object || read_word(param, at->data) != span->param)
        return 0;
    const int param_flags = FASTADAM_C_CONTIGUOUS | FASTADAM_ALIGNED | FASTADAM_WRITEABLE;
    const int zeroes = ((const fastadam_after *)(uintptr_t)plan->after)->zeroes != 0;
    const int grad_flags = zeroes ? param_flags : FASTADAM_C_CONTIGUOUS | FASTADAM_ALIGNED;
    if ((read_int(param, at->flags) & param_flags) != param_flags ||
        (read_int(grad, at->flags) & grad_flags) != grad_flags)
        return 0;
    const int ndim = read_int(grad, at->ndim);
    if (ndim != read_int(param, at->ndim))
        return 0;
    const int64_t grad_dims = read_word(grad, at->dims), param_dims = read_word(param, at->dims);
    int64_t elements = 1;
    for (int i = 0; i < ndim; i++) {
        const int64_t dim = read_word(param_dims, i * (int64_t)sizeof(intptr_t));
        if (read_word(grad_dims, i * (int64_t)sizeof(intptr_t)) != dim)
            return 0;
        elements *= dim;
    }
    return elements == slot->elements;
}

int64_t fastadam_inspect(const fastadam_plan *plan)
{
    fastadam_span *spans = (fastadam_span *)(uintptr_t)plan->spans;
    fastadam_batch *batches = (fastadam_batch *)(uintptr_t)plan->batches;
    const int64_t *grad_objects = (const int64_t *)(uintptr_t)plan->grad_objects;
    const int64_t none = plan->none_object;
    int64_t below = 0, found = 0;
    for (int64_t b = 0; b < plan->n_batches; b++) {
        const int64_t itemsize = grad_itemsize(batches[b].variant);
        const int is_idle = (batches[b].variant & FASTADAM_IDLE) != 0;
        int64_t elements = 0;
        for (int64_t i = batches[b].first; i < batches[b].first + batches[b].count; i++) {
            fastadam_span *span = spans + i;
            if (none != 0) {
                const int left_out = (grad_objects[span->slot - (is_idle ? plan->n_slots : 0)] == none) != is_idle;
                leave_out(plan, span, is_idle, left_out);
                elements += span->size;
                if (left_out)
                    continue;
            }
            found |= !is_idle;
            if (is_idle) {
                if (!is_there(plan, span))
                    return span->slot;
                continue;
            }
            const int64_t grad = grad_objects[span->slot];
            if (!is_plain(plan, span, grad))
                return span->slot;
            span->grad = read_word(grad, plan->offsets.data);
            if (span->size > 0 &&
                fastadam_is_written(plan, span->grad, span->grad + span->size * itemsize, &below))
                return span->slot;
        }
        if (none != 0)
            set_elements(batches + b, elements);
    }
    return found || none == 0 ? FASTADAM_TAKEN : 0; /* without any gradient, there is no step */
}
