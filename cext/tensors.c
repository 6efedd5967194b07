/* The attempt at a step over PyTorch's tensors: all that it needs is compared with what it was, and nothing is
 * written unless it still is.
 *
 * There are two parts. The first fetches the gradients, which may run anyone's code: properties, function modes,
 * finalizers. In the second nothing runs any: no attribute is got, no key compared but by address, nothing of
 * Python's allocated. So what it compared is still so when the step begins. The cache holds a reference to every
 * object that is read, the caller's list one to every gradient. Of parameters that a plan more is over, the caller
 * has compared all before, and keeps views that hold the memory. */
#include "objects.h"

#include "dlpack.h"
#include "fingerprints.h"
#include "leaving_out.h"
#include "prefetch.h"
#include "sharing.h"
#include "stages.h"
#include "tensors.h"
#include "totals.h"

/* The moments and the step counter before them. */
enum { STATES = 4 };

/* Does a parameter's state hold these objects, those that are not 0, under the same keys? Other entries are left
 * alone. Keys are compared by their addresses, as comparing them may be anyone's code. */
static inline int holds(int64_t state, const int64_t *keys, const int64_t *objects, int n)
{
    int wanted = 0, found = 0, expected = 0;
    for (int i = 0; i < n; i++)
        wanted += objects[i] != 0;
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (found < wanted && PyDict_Next(OBJECT(state), &position, &key, &value)) {
        for (int tried = 0; tried < n; tried++) {
            const int i = (expected + tried) % n; /* mostly they stand in this order */
            if (key != OBJECT(keys[i]) || objects[i] == 0)
                continue;
            if (value != OBJECT(objects[i]))
                return 0;
            found++;
            expected = i + 1;
            break;
        }
    }
    return found == wanted;
}

/* Does it hold the step counter and the moments that it held? */
static int holds_what_it_held(const fastadam_cached_param *param)
{
    return holds(param->state_object, MEMORY(const int64_t, param->entry_keys), &param->step_object, STATES);
}

/* Is what compact state has beside the moments, masters and scales, what and where it was? */
static int same_beside(const fastadam_tensor_offsets *at, const fastadam_cached_param *param)
{
    const int n = (int)param->n_beside;
    const int64_t *objects = MEMORY(const int64_t, param->beside);
    if (!holds(param->state_object, objects + n, objects, n))
        return 0;
    for (int i = 0; i < n; i++)
        if (!is_as_noted(at, fingerprint_at(at, param->beside_fingerprints, i), objects[i]))
            return 0;
    return 1;
}

/* Do the optimizer's state and the groups' lists hold what they held? */
static int same_containers(const fastadam_tensor_cache *cache)
{
    PyObject *state = OBJECT(cache->state_object), *key, *value;
    const int64_t *keys = MEMORY(const int64_t, cache->state_keys);
    const int64_t *values = MEMORY(const int64_t, cache->state_values);
    if (PyDict_Size(state) != cache->n_state)
        return 0;
    Py_ssize_t position = 0;
    for (int64_t i = 0; PyDict_Next(state, &position, &key, &value); i++)
        if (key != OBJECT(keys[i]) || value != OBJECT(values[i]))
            return 0;
    const fastadam_group_list *list = MEMORY(const fastadam_group_list, cache->lists);
    const fastadam_cached_param *param = MEMORY(const fastadam_cached_param, cache->params);
    for (int64_t i = 0; i < cache->n_lists; i++, list++) {
        if (PyList_Size(OBJECT(list->list_object)) != list->length)
            return 0;
        for (int64_t j = 0; j < list->length; j++, param++)
            if (PyList_GetItem(OBJECT(list->list_object), j) != OBJECT(param->param_object))
                return 0;
    }
    return 1;
}

/* Are the parameter, its step counter and its moments what and where they were, as their fingerprints tell? */
static int same_by_fingerprints(const fastadam_tensor_cache *cache, const fastadam_cached_param *param)
{
    const fastadam_tensor_offsets *at = &cache->offsets;
    const int64_t *objects = &param->step_object;
    if (!is_as_noted(at, fingerprint_of(at, param, 0), param->param_object) || !holds_what_it_held(param))
        return 0;
    for (int i = 0; i < STATES; i++)
        if (objects[i] != 0 && !is_as_noted(at, fingerprint_of(at, param, i + 1), objects[i]))
            return 0;
    return param->n_beside == 0 || same_beside(at, param);
}

/* The same, with each of them asked. */
static int same_by_dlpack(const fastadam_tensor_cache *cache, const fastadam_cached_param *param)
{
    const int64_t *objects = &param->step_object, *addresses = &param->step;
    const int64_t dtype = param->dtype, nbytes = param->nbytes;
    if (param->n_beside != 0 || !holds_what_it_held(param) ||
        fastadam_read_tensor(cache, param, param->param_object, dtype, nbytes) != param->param ||
        !fastadam_is_same_counter(cache, param))
        return 0;
    for (int i = 1; i < STATES; i++)
        if (objects[i] != 0 && fastadam_read_tensor(cache, param, objects[i], dtype, nbytes) != addresses[i])
            return 0;
    return 1;
}

/* Are they what they were, and can the step counter, which is read, count on? */
static int same_param(const fastadam_tensor_cache *cache, const fastadam_cached_param *param, double *step)
{
    if (param->fingerprints != 0 ? !same_by_fingerprints(cache, param) : !same_by_dlpack(cache, param))
        return 0;
    *step = param->step_is_float64 ? *MEMORY(const double, param->step) : *MEMORY(const float, param->step);
    return param->step_is_float64 || *step < FASTADAM_FLOAT32_END;
}

/* Return the address of a gradient that is a tensor of the noted dtype and its parameter's layout, not negated or
 * conjugated on reading, with a storage that reaches to its end; or -1. */
static int64_t read_gradient(const fastadam_tensor_cache *cache, const fastadam_cached_param *param,
                             PyObject *grad)
{
    const int64_t type = ADDRESS(Py_TYPE(grad)), object = ADDRESS(grad);
    if (type != cache->tensor_type && type != cache->parameter_type)
        return -1;
    const int64_t address = address_like_param(&cache->offsets, param, object);
    if (address != 0)
        return address;
    return fastadam_read_tensor(cache, param, object, param->grad_dtype, param->grad_nbytes);
}

/* Can a gradient be read at this address: is it aligned, and apart from all that the step writes? */
static int is_readable(const fastadam_cached_param *param, const fastadam_plan *plan, int64_t address,
                       int64_t *below)
{
    /* The size of a number in bytes: of DLPack's types, 5 is complex, a pair of numbers. */
    const int64_t dtype = param->grad_dtype, nbytes = param->grad_nbytes;
    const int64_t size = (dtype >> 8 & 0xff) / ((dtype & 0xff) == 5 ? 16 : 8);
    return nbytes == 0 ||
           ((address & (size - 1)) == 0 && !fastadam_is_written(plan, address, address + nbytes, below));
}

/* Take the exception that was raised, and append it to the list. */
static void keep_exception(PyObject *list)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    if (PyList_Append(list, value) != 0)
        PyErr_Clear(); /* the caller finds no exception there, and says so */
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

static int64_t fetch_gradients(const fastadam_tensor_cache *cache, PyObject *grads)
{
    const fastadam_cached_param *params = MEMORY(const fastadam_cached_param, cache->params);
    for (int64_t i = 0; i < cache->n; i++) {
        fetch_for_gradient(cache, i + AHEAD);
        PyObject *grad = PyObject_GetAttr(OBJECT(params[i].param_object), OBJECT(cache->grad_name));
        if (grad == NULL || PyList_SetItem(grads, i, grad) != 0) {
            keep_exception(grads);
            return FASTADAM_RAISED;
        }
    }
    return FASTADAM_TAKEN;
}

static void leave_out_those_without_gradient(const fastadam_tensor_cache *cache,
                                             const fastadam_active_plan *active)
{
    const fastadam_plan *plan = MEMORY(const fastadam_plan, active->plan);
    fastadam_batch *batches = MEMORY(fastadam_batch, plan->batches);
    fastadam_span *spans = MEMORY(fastadam_span, plan->spans);
    const int64_t *span_of = MEMORY(const int64_t, active->span_of);
    const int64_t *idle_of = MEMORY(const int64_t, active->idle_of);
    const char *present = MEMORY(const char, cache->present);
    for (int64_t i = 0; i < cache->n; i++) {
        if (span_of[i] >= 0)
            leave_out(plan, spans + span_of[i], 0, !present[i]);
        if (idle_of[i] >= 0)
            leave_out(plan, spans + idle_of[i], 1, present[i]);
    }
    for (int64_t b = 0; b < plan->n_batches; b++) {
        int64_t elements = 0;
        for (int64_t i = batches[b].first; i < batches[b].first + batches[b].count; i++)
            elements += spans[i].size;
        set_elements(batches + b, elements);
    }
}

static int64_t read_all(const fastadam_tensor_cache *cache, const fastadam_active_plan *active, PyObject *grads,
                        int64_t are_given)
{
    const fastadam_cached_param *params = MEMORY(const fastadam_cached_param, cache->params);
    const fastadam_plan *plan = MEMORY(const fastadam_plan, active->plan);
    fastadam_span *spans = MEMORY(fastadam_span, plan->spans);
    const int64_t *span_of = MEMORY(const int64_t, active->span_of);
    const int64_t *idle_of = MEMORY(const int64_t, active->idle_of);
    const double *steps_taken = MEMORY(const double, active->steps_taken);
    double *steps = MEMORY(double, cache->steps);
    char *present = MEMORY(char, cache->present);
    const int leaves_out = active->leaves_out != 0;
    int64_t outcome = are_given ? FASTADAM_TAKEN : fetch_gradients(cache, grads), below = 0, found = 0;

    if (outcome != FASTADAM_TAKEN)
        return outcome;
    if (!same_containers(cache) || PyList_Size(grads) != cache->n)
        return FASTADAM_CHANGED;
    for (int64_t i = 0; i < cache->n; i++) {
        present[i] = PyList_GetItem(grads, i) != OBJECT(cache->none_object);
        found |= present[i];
        if (present[i] ? span_of[i] < 0 : span_of[i] >= 0 && !leaves_out)
            outcome = FASTADAM_OTHER_GRADIENTS;
    }
    if (outcome != FASTADAM_TAKEN || !found)
        return FASTADAM_OTHER_GRADIENTS;
    if (leaves_out)
        leave_out_those_without_gradient(cache, active);
    for (int64_t i = 0; i < cache->n; i++) {
        fetch_for_state(cache, grads, i + AHEAD);
        const int idle = !present[i];
        const int64_t at = idle ? idle_of[i] : span_of[i];
        if (at < 0)
            continue;
        fastadam_span *span = spans + at;
        if (!same_param(cache, params + i, steps + i))
            return FASTADAM_CHANGED;
        if (leaves_out) {
            if (!(steps[i] >= 0 && steps[i] < 0x1p53))
                return FASTADAM_CHANGED;
        } else if (steps[i] != steps_taken[span->row])
            outcome = FASTADAM_OTHER_STEPS; /* goes before a gradient that needs care; all counters are read */
        if (outcome != FASTADAM_TAKEN || idle)
            continue;
        const int64_t grad = read_gradient(cache, params + i, PyList_GetItem(grads, i));
        if (grad < 0 || !is_readable(params + i, plan, grad, &below))
            outcome = i;
        else
            span->grad = grad;
    }
    return outcome;
}

int64_t fastadam_read_tensors(const fastadam_tensor_cache *cache, const fastadam_active_plan *active,
                              int64_t grads, int64_t are_given)
{
    const PyGILState_STATE gil = PyGILState_Ensure();
    const int64_t outcome = read_all(cache, active, OBJECT(grads), are_given);
    PyGILState_Release(gil);
    return outcome;
}

/* Compute what the gradients of both plans are multiplied by, and the scalars of their rows; FASTADAM_TAKEN, or
 * what stands in the way of the step. */
static int64_t reduce_both(const fastadam_plan *plan, const fastadam_plan *more, const fastadam_plan *measured)
{
    fastadam_norm *norm = MEMORY(fastadam_norm, plan->norm), *norm_of_more = MEMORY(fastadam_norm, more->norm);
    if (norm->wanted && measured == NULL)
        return FASTADAM_CHANGED;
    if (norm->wanted) {
        fastadam_total *totals = MEMORY(fastadam_total, norm->totals);
        const fastadam_norm *others = MEMORY(const fastadam_norm, measured->norm);
        const int64_t n = fastadam_most_threads(measured);
        fastadam_measure(plan);
        for (int64_t i = 0; i < n; i++)
            add_totals(totals, MEMORY(const fastadam_total, others->totals) + i);
    }
    const int64_t outcome = fastadam_reduce(plan);
    if (outcome != FASTADAM_TAKEN)
        return outcome;
    norm_of_more->coefficient = norm->coefficient;
    norm_of_more->divisor = norm->divisor;
    return fastadam_reduce(more);
}

/* Run the plan, and compute the scalars of more, unless that is NULL. */
static int64_t run_with(const fastadam_plan *plan, const fastadam_plan *more, const fastadam_plan *measured)
{
    if (more == NULL)
        return fastadam_run(plan, FASTADAM_MEASURE | FASTADAM_REDUCE | FASTADAM_APPLY);
    const int64_t outcome = reduce_both(plan, more, measured);
    return outcome == FASTADAM_TAKEN ? fastadam_run(plan, FASTADAM_APPLY) : outcome;
}

static int64_t step(const fastadam_tensor_cache *cache, const fastadam_active_plan *active, int64_t grads,
                    int64_t are_given, const fastadam_plan *more, const fastadam_plan *measured)
{
    const fastadam_plan *plan = MEMORY(const fastadam_plan, active->plan);
    const PyGILState_STATE gil = PyGILState_Ensure();
    int64_t outcome = read_all(cache, active, OBJECT(grads), are_given);
    if (outcome == FASTADAM_TAKEN && active->keeps_gil)
        outcome = run_with(plan, more, measured);
    PyGILState_Release(gil);
    if (outcome == FASTADAM_TAKEN && !active->keeps_gil)
        outcome = run_with(plan, more, measured);
    if (outcome == FASTADAM_TAKEN && more != NULL)
        outcome = fastadam_run(more, FASTADAM_APPLY);
    for (int64_t i = 0; outcome == FASTADAM_TAKEN && i < cache->n; i++)
        fetch_for_version(cache, i); /* torch counts them next */
    return outcome;
}

int64_t fastadam_step_tensors(const fastadam_tensor_cache *cache, const fastadam_active_plan *active,
                              int64_t grads, int64_t are_given)
{
    return step(cache, active, grads, are_given, NULL, NULL);
}

int64_t fastadam_step_tensors_and_more(const fastadam_tensor_cache *cache, const fastadam_active_plan *active,
                                       int64_t grads, const fastadam_plan *more, const fastadam_plan *measured)
{
    return step(cache, active, grads, 1, more, measured);
}
