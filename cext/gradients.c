/* A list of PyTorch's gradients as a plan, whose norm is taken. Nothing here runs anyone's code. */
#include "objects.h"

#include "dlpack.h"
#include "gradients.h"

/* Write the spans and batches: neighbours in the same format are one batch. Returns FASTADAM_READ, or the position
 * of a gradient that Python has to look at. */
static int64_t read_all(const fastadam_gradients *known, PyObject *grads)
{
    fastadam_plan *plan = MEMORY(fastadam_plan, known->plan);
    fastadam_span *span = MEMORY(fastadam_span, plan->spans);
    fastadam_batch *batches = MEMORY(fastadam_batch, plan->batches), *batch = batches;
    const Py_ssize_t n = PyList_Size(grads);
    int last = -1;
    plan->n_batches = 0;
    if (n > known->capacity)
        return 0;
    for (Py_ssize_t i = 0; i < n; i++, span++) {
        PyObject *grad = PyList_GetItem(grads, i);
        const int64_t type = ADDRESS(Py_TYPE(grad));
        if (type != known->tensor_type && type != known->parameter_type)
            return i;
        const int format = fastadam_read_gradient(known, ADDRESS(grad), span);
        if (format < 0)
            return i;
        if (format != last) {
            batch = batches + plan->n_batches++;
            batch->variant = (int64_t)format << (FASTADAM_FORMATS_AT + FASTADAM_FORMAT_BITS);
            batch->first = i;
            batch->count = batch->elements = 0;
            batch->threads = 1;
            last = format;
        }
        batch->count++;
        batch->elements += span->size;
    }
    return FASTADAM_READ;
}

int64_t fastadam_run_on_gradients(const fastadam_gradients *known, int64_t grads, int64_t stages)
{
    const fastadam_plan *plan = MEMORY(const fastadam_plan, known->plan);
    const fastadam_batch *batches = MEMORY(const fastadam_batch, plan->batches);
    const PyGILState_STATE gil = PyGILState_Ensure();
    int64_t outcome = read_all(known, OBJECT(grads)), elements = 0;
    for (int64_t b = 0; b < plan->n_batches; b++)
        elements += batches[b].elements;
    if (outcome == FASTADAM_READ && elements <= known->most)
        outcome = fastadam_run(plan, stages);
    PyGILState_Release(gil);
    return outcome;
}
