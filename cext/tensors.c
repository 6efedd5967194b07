/* The attempt at a step over PyTorch's tensors: all that it needs is compared with what it was, and nothing is
 * written unless it still is. */
#include "objects.h"

#include "dlpack.h"
#include "fingerprints.h"
#include "prefetch.h"
#include "tensors.h"

/* An address below this is an offset into a storage that was freed, or needs a closer look. */
#define LOWEST ((int64_t)1 << 32)

/* The moments and the step counter before them. */
enum { STATES = 4 };

/* Is dict[name] this object? */
static int holds(PyObject *dict, PyObject *names, Py_ssize_t name, int64_t object)
{
    PyObject *found = PyDict_GetItemWithError(dict, PyTuple_GetItem(names, name));
    if (found == NULL)
        PyErr_Clear();
    return found == OBJECT(object);
}

/* Does a parameter's state hold the step counter and the moments that it held? */
static int holds_what_it_held(PyObject *state, PyObject *names, const int64_t *objects)
{
    PyObject *key, *value;
    Py_ssize_t position = 0;
    int i = 0;
    /* Mostly they stand in it in this order, under the very same strings, and then nothing has to be looked up. */
    while (i < STATES && objects[i] != 0 && PyDict_Next(state, &position, &key, &value) &&
           value == OBJECT(objects[i]) && key == PyTuple_GetItem(names, i))
        i++;
    for (; i < STATES; i++)
        if (objects[i] != 0 && !holds(state, names, i, objects[i]))
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
    if (!is_as_noted(at, fingerprint_of(at, param, 0), param->param_object) ||
        !holds_what_it_held(OBJECT(param->state_object), OBJECT(cache->state_names), objects))
        return 0;
    for (int i = 0; i < STATES; i++)
        if (objects[i] != 0 && !is_as_noted(at, fingerprint_of(at, param, i + 1), objects[i]))
            return 0;
    return 1;
}

/* The same, with each of them asked. */
static int same_by_dlpack(const fastadam_tensor_cache *cache, const fastadam_cached_param *param)
{
    const int64_t *objects = &param->step_object, *addresses = &param->step;
    if (fastadam_read_tensor(cache, param, param->param_object) != param->param ||
        !fastadam_lies_plainly(cache, param->param_object))
        return 0;
    for (int i = 0; i < STATES; i++) {
        if (objects[i] == 0)
            continue;
        /* Again before each: a method that was asked may be anyone's code. */
        if (!holds(OBJECT(param->state_object), OBJECT(cache->state_names), i, objects[i]))
            return 0;
        if (i == 0 ? !fastadam_is_same_counter(cache, param)
                   : fastadam_read_tensor(cache, param, objects[i]) != addresses[i] ||
                         !fastadam_lies_plainly(cache, objects[i]))
            return 0;
    }
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

/* Return the address of a gradient that is a tensor of its parameter's dtype and layout, not negated or conjugated
 * on reading; or -1. */
static int64_t read_gradient(const fastadam_tensor_cache *cache, const fastadam_cached_param *param,
                             PyObject *grad)
{
    const int64_t type = ADDRESS(Py_TYPE(grad)), object = ADDRESS(grad);
    if (type != cache->tensor_type && type != cache->parameter_type)
        return -1;
    int64_t address = address_like_param(&cache->offsets, param, object);
    if (address == 0) {
        address = fastadam_read_tensor(cache, param, object);
        if (address < 0 || (param->nbytes > 0 && address < LOWEST) || !fastadam_lies_plainly(cache, object))
            return -1;
    }
    return address;
}

/* Can a gradient be read at this address: is it aligned, and apart from all that the step writes? */
static int is_readable(const fastadam_cached_param *param, const fastadam_plan *plan, int64_t address,
                       int64_t *below)
{
    /* The size of a number in bytes: of DLPack's types, 5 is complex, a pair of numbers. */
    const int64_t size = (param->dtype >> 8 & 0xff) / ((param->dtype & 0xff) == 5 ? 16 : 8);
    return param->nbytes == 0 ||
           ((address & (size - 1)) == 0 && !fastadam_is_written(plan, address, address + param->nbytes, below));
}

static void release(const fastadam_tensor_cache *cache)
{
    PyObject **grads = MEMORY(PyObject *, cache->grads);
    for (int64_t i = 0; i < cache->n; i++) {
        fetch_for_version(cache, i + AHEAD); /* torch counts them next */
        PyObject *grad = grads[i];
        grads[i] = NULL;
        Py_XDECREF(grad);
    }
}

/* Take references to all gradients. */
static int64_t take_gradients(const fastadam_tensor_cache *cache, const int64_t *span_of)
{
    const fastadam_cached_param *params = MEMORY(const fastadam_cached_param, cache->params);
    PyObject **grads = MEMORY(PyObject *, cache->grads);
    char *present = MEMORY(char, cache->present);
    int64_t outcome = FASTADAM_TAKEN;
    for (int64_t i = 0; i < cache->n; i++) {
        fetch_for_gradient(cache, i + AHEAD);
        grads[i] = PyObject_GetAttr(OBJECT(params[i].param_object), OBJECT(cache->grad_name));
        if (grads[i] == NULL) {
            PyErr_Clear();
            return FASTADAM_CHANGED;
        }
        present[i] = grads[i] != OBJECT(cache->none_object);
        if (present[i] != (span_of[i] >= 0))
            outcome = FASTADAM_OTHER_GRADIENTS;
    }
    return outcome;
}

static int64_t read_all(const fastadam_tensor_cache *cache, const fastadam_active_plan *active)
{
    const fastadam_cached_param *params = MEMORY(const fastadam_cached_param, cache->params);
    const fastadam_plan *plan = MEMORY(const fastadam_plan, active->plan);
    fastadam_span *spans = MEMORY(fastadam_span, plan->spans);
    const int64_t *span_of = MEMORY(const int64_t, active->span_of);
    const double *steps_taken = MEMORY(const double, active->steps_taken);
    double *steps = MEMORY(double, cache->steps);
    PyObject **grads = MEMORY(PyObject *, cache->grads);
    int64_t below = 0;

    if (!same_containers(cache))
        return FASTADAM_CHANGED;
    int64_t outcome = take_gradients(cache, span_of);
    if (outcome != FASTADAM_TAKEN)
        return outcome;
    for (int64_t i = 0; i < cache->n; i++) {
        fetch_for_state(cache, i + AHEAD);
        if (span_of[i] < 0)
            continue;
        fastadam_span *span = spans + span_of[i];
        if (!same_param(cache, params + i, steps + i))
            return FASTADAM_CHANGED;
        if (steps[i] != steps_taken[span->row])
            outcome = FASTADAM_OTHER_STEPS; /* goes before a gradient that needs care; all counters are read */
        if (outcome != FASTADAM_TAKEN)
            continue;
        const int64_t grad = read_gradient(cache, params + i, grads[i]);
        if (grad < 0 || !is_readable(params + i, plan, grad, &below))
            outcome = i;
        else
            span->grad = grad;
    }
    return outcome;
}

int64_t fastadam_read_tensors(const fastadam_tensor_cache *cache, const fastadam_active_plan *active)
{
    const PyGILState_STATE gil = PyGILState_Ensure();
    const int64_t outcome = read_all(cache, active);
    if (outcome != FASTADAM_TAKEN)
        release(cache);
    PyGILState_Release(gil);
    return outcome;
}

void fastadam_release_tensors(const fastadam_tensor_cache *cache)
{
    const PyGILState_STATE gil = PyGILState_Ensure();
    release(cache);
    PyGILState_Release(gil);
}

int64_t fastadam_step_tensors(const fastadam_tensor_cache *cache, const fastadam_active_plan *active)
{
    const int64_t outcome = fastadam_read_tensors(cache, active);
    if (outcome != FASTADAM_TAKEN)
        return outcome;
    fastadam_run(MEMORY(const fastadam_plan, active->plan), FASTADAM_REDUCE | FASTADAM_APPLY);
    fastadam_release_tensors(cache);
    return FASTADAM_TAKEN;
}
