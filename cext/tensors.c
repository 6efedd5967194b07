/* PyTorch tensors, read through Python's stable interface and DLPack's exchange functions. */
#ifndef _MSC_VER
#include <pyconfig.h> /* says whether this Python is free-threaded; those have no stable interface */
#endif
#ifndef Py_GIL_DISABLED
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>
#include <string.h>

#include "tensors.h"

/* The parts of DLPack 1 (dmlc.github.io/dlpack) that are used here. */
typedef struct {
    void *data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} dl_tensor;

typedef struct {
    uint32_t major, minor;
    void *older;
    void *allocate, *managed_from_object, *object_from_managed;
    int (*tensor_from_object)(void *object, dl_tensor *out);
    void *current_stream;
} dl_exchange;

typedef int (*tensor_reader)(void *object, dl_tensor *out);

enum { DL_MAJOR = 1, DL_CPU = 1 };
enum { READY, CHANGED, OTHER_GRADIENTS, OTHER_STEPS, NEEDS_CARE };

/* Entries between what is fetched into the cache and what is read. */
enum { AHEAD = 8 };

/* Hints about a gradient; the others are about the state's dict. */
enum { GRADIENT_HINTS = 5 };

enum { LINE = 64 };
#ifdef __GNUC__
#define FETCH(address) __builtin_prefetch((const void *)(uintptr_t)(address))
#else
#define FETCH(address) ((void)(address))
#endif

/* A float32 counts no further than this. */
#define FLOAT32_END 16777216.0

/* An address below this is an offset into a storage that was freed, or needs a closer look. */
#define LOWEST ((int64_t)1 << 32)

#define OBJECT(address) ((PyObject *)(uintptr_t)(address))

int64_t fastadam_tensor_reader(int64_t capsule_object)
{
#ifdef Py_GIL_DISABLED
    /* Without the GIL, another thread could exchange what is read here between two looks at it. */
    (void)capsule_object;
    return 0;
#endif
    const PyGILState_STATE gil = PyGILState_Ensure();
    const dl_exchange *exchange = PyCapsule_GetPointer(OBJECT(capsule_object), "dlpack_exchange_api");
    int64_t reader = 0;
    if (exchange == NULL)
        PyErr_Clear();
    else if (exchange->major == DL_MAJOR)
        reader = (int64_t)(uintptr_t)exchange->tensor_from_object;
    PyGILState_Release(gil);
    return reader;
}

/* Read a tensor; its address, or -1 if it is not on the device, or does not lie in memory, as the entry says.
 * Nothing is waited for: the address of a tensor on a CUDA device is known on the host. */
static int64_t read_tensor(tensor_reader reader, const fastadam_entry *entry, int64_t object)
{
    dl_tensor found;
    if (reader((void *)(uintptr_t)object, &found) != 0) {
        PyErr_Clear();
        return -1;
    }
    const int64_t dtype = found.code | found.bits << 8 | (int64_t)found.lanes << 16;
    const int64_t device = found.device_type | (int64_t)found.device_id << 32;
    if (device != entry->device || dtype != entry->dtype || found.ndim != entry->ndim)
        return -1;
    const int64_t *shape = (const int64_t *)(uintptr_t)entry->dims;
    const int64_t *strides = shape + entry->ndim;
    for (int64_t i = 0; i < entry->ndim; i++) {
        if (found.shape[i] != shape[i])
            return -1;
        /* Where there is only one element on the way, strides mean nothing. */
        if (found.strides[i] != strides[i] && shape[i] > 1 && entry->size > 0)
            return -1;
    }
    return (int64_t)(uintptr_t)found.data + (int64_t)found.byte_offset;
}

/* Read a step counter; can it count on? */
static int value_of(const fastadam_entry *entry, const void *place, double *value)
{
    *value = entry->step_is_float64 ? *(const double *)place : *(const float *)place;
    return entry->step_is_float64 || *value < FLOAT32_END;
}

static int read_step(tensor_reader reader, const fastadam_entry *entry, double *value)
{
    dl_tensor found;
    if (reader((void *)(uintptr_t)entry->step_object, &found) != 0) {
        PyErr_Clear();
        return 0;
    }
    const int bits = entry->step_is_float64 ? 64 : 32;
    const void *place = (const char *)found.data + found.byte_offset;
    if (found.device_type != DL_CPU || found.code != 2 || found.bits != bits || found.ndim != 0 ||
        (int64_t)(uintptr_t)place != entry->step)
        return 0;
    return value_of(entry, place, value);
}

static int64_t read_word(int64_t place, int64_t offset)
{
    int64_t word;
    memcpy(&word, (const char *)(uintptr_t)place + offset, sizeof word);
    return word;
}

/* Are these bytes, whole words, the same? Written out, as calls of memcmp would take most of the time. */
static int same_words(int64_t place, int64_t other, int64_t bytes)
{
    int64_t differ = 0;
    for (int64_t i = 0; i < bytes; i += (int64_t)sizeof(int64_t))
        differ |= read_word(place, i) ^ read_word(other, i);
    return differ == 0;
}

/* How many bytes of a TensorImpl are kept for each tensor alone. */
static int64_t own_bytes(const fastadam_tensor_headers *at) { return at->ndim - at->first; }

/* How many bytes of a storage are compared: the address, what owns the memory, the size. */
static int64_t owner_bytes(const fastadam_tensor_headers *at)
{
    return at->storage_size + (int64_t)sizeof(int64_t) - at->storage_data;
}

/* The place of an entry's print: 0 is the parameter, 1 the step counter, then the moments. */
static const fastadam_print *print_of(const fastadam_tensor_headers *at, const fastadam_entry *entry, int which)
{
    const int64_t size = (int64_t)sizeof(fastadam_print) + own_bytes(at) + owner_bytes(at);
    return (const fastadam_print *)(uintptr_t)(entry->prints + which * size);
}

/* Where the words of a print begin; the first is the address of the storage. */
static int64_t own_words(const fastadam_print *print) { return (int64_t)(uintptr_t)(print + 1); }

/* Do two TensorImpls, or one and a kept copy of its words from ndim on, describe the same layout and dtype? What
 * lies beyond ndim lengths and strides is not in use and may hold anything. */
static int same_layout(const fastadam_tensor_headers *at, int64_t impl, int64_t words)
{
    const int64_t ndim = read_word(words, 0), dims = ndim * (int64_t)sizeof(int64_t);
    return read_word(impl, at->ndim) == ndim && same_words(impl + at->sizes, words + at->sizes - at->ndim, dims) &&
           same_words(impl + at->strides, words + at->strides - at->ndim, dims) &&
           same_words(impl + at->tail, words + at->tail - at->ndim, at->first + at->length - at->tail);
}

/* Is all that a tensor object stands for what it was? */
static int same_print(const fastadam_tensor_headers *at, const fastadam_print *print, int64_t object)
{
    const int64_t own = own_words(print);
    return read_word(object, at->object_impl) == print->impl &&
           same_words(print->impl + at->first, own, own_bytes(at)) &&
           same_layout(at, print->impl, print->layout) &&
           same_words(read_word(own, 0) + at->storage_data, own + own_bytes(at), owner_bytes(at));
}

/* Is dict[name] this object? */
static int holds(PyObject *dict, PyObject *names, Py_ssize_t name, int64_t object)
{
    PyObject *found = PyDict_GetItemWithError(dict, PyTuple_GetItem(names, name));
    if (found == NULL)
        PyErr_Clear();
    return found == OBJECT(object);
}

/* Does a state's dict hold the step counter and the moments that it held? */
static int same_state(PyObject *state, PyObject *names, const int64_t *objects)
{
    PyObject *key, *value;
    Py_ssize_t place = 0;
    int i = 0;
    /* Mostly they stand in it in this order, under the very same strings, and then nothing has to be looked up. */
    while (i <= 3 && objects[i] != 0 && PyDict_Next(state, &place, &key, &value) && value == OBJECT(objects[i]) &&
           key == PyTuple_GetItem(names, i))
        i++;
    for (; i <= 3; i++)
        if (objects[i] != 0 && !holds(state, names, i, objects[i]))
            return 0;
    return 1;
}

/* Do the containers hold what they held? */
static int same_containers(const fastadam_roster *roster)
{
    PyObject *state = OBJECT(roster->state_object), *key, *value;
    const int64_t *keys = (const int64_t *)(uintptr_t)roster->state_keys;
    const int64_t *values = (const int64_t *)(uintptr_t)roster->state_values;
    if (PyDict_Size(state) != roster->n_state)
        return 0;
    Py_ssize_t place = 0;
    for (int64_t i = 0; PyDict_Next(state, &place, &key, &value); i++)
        if (key != OBJECT(keys[i]) || value != OBJECT(values[i]))
            return 0;
    const int64_t *lists = (const int64_t *)(uintptr_t)roster->lists;
    const fastadam_entry *entry = (const fastadam_entry *)(uintptr_t)roster->entries;
    for (int64_t i = 0; i < roster->n_lists; i++) {
        PyObject *list = OBJECT(lists[2 * i]);
        const int64_t length = lists[2 * i + 1];
        if (PyList_Size(list) != length)
            return 0;
        for (int64_t j = 0; j < length; j++, entry++)
            if (PyList_GetItem(list, j) != OBJECT(entry->param_object))
                return 0;
    }
    return 1;
}

/* The truth of tensor.method(), or -1. */
static int ask(int64_t method, PyObject *tensor)
{
    PyObject *answer = PyObject_CallFunctionObjArgs(OBJECT(method), tensor, NULL);
    if (answer == NULL) {
        PyErr_Clear();
        return -1;
    }
    const int truth = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return truth;
}

/* Does memory hold the numbers themselves, not negated or conjugated on reading? */
static int lies_plainly(const fastadam_roster *roster, int64_t object)
{
    return ask(roster->is_neg, OBJECT(object)) == 0 && ask(roster->is_conj, OBJECT(object)) == 0;
}

/* Is the parameter, are its step counter and its moments where they were? */
static int same_entry(const fastadam_roster *roster, const fastadam_entry *entry, double *step)
{
    const tensor_reader reader = (tensor_reader)(uintptr_t)roster->read_tensor;
    PyObject *state = OBJECT(entry->state_object), *names = OBJECT(roster->state_names);
    const int64_t *objects = &entry->step_object, *places = &entry->step;
    if (entry->prints != 0) {
        const fastadam_tensor_headers *at = &roster->headers;
        if (!same_print(at, print_of(at, entry, 0), entry->param_object) || !same_state(state, names, objects))
            return 0;
        for (int i = 0; i <= 3; i++)
            if (objects[i] != 0 && !same_print(at, print_of(at, entry, i + 1), objects[i]))
                return 0;
        return value_of(entry, (const void *)(uintptr_t)entry->step, step);
    }
    if (read_tensor(reader, entry, entry->param_object) != entry->param ||
        !lies_plainly(roster, entry->param_object))
        return 0;
    if (!holds(state, names, 0, entry->step_object) || !read_step(reader, entry, step))
        return 0;
    for (int i = 1; i <= 3; i++)
        if (objects[i] != 0 &&
            (!holds(state, names, i, objects[i]) || read_tensor(reader, entry, objects[i]) != places[i] ||
             !lies_plainly(roster, objects[i])))
            return 0;
    return 1;
}

/* A gradient's address, if the bytes that say what it is are those of its parameter, which is what it was; else 0.
 */
static int64_t place_like_param(const fastadam_tensor_headers *at, const fastadam_entry *entry, int64_t grad)
{
    if (entry->prints == 0 || entry->nbytes == 0)
        return 0;
    const fastadam_print *param = print_of(at, entry, 0);
    const int64_t impl = read_word(grad, at->object_impl);
    if (!same_layout(at, impl, param->layout))
        return 0;
    const int64_t storage = read_word(impl, at->first);
    const int64_t offset = entry->param - read_word(own_words(param), own_bytes(at));
    if (read_word(storage, at->storage_size) < offset + entry->nbytes)
        return 0;
    return read_word(storage, at->storage_data) + offset;
}

/* Can a gradient be read at this address: is it aligned, and apart from all that the step writes? */
static int is_readable(const fastadam_entry *entry, const fastadam_plan *plan, int64_t place, int64_t *below)
{
    /* The size of a number in bytes: of DLPack's types, 5 is complex, a pair of numbers. */
    const int64_t size = (entry->dtype >> 8 & 0xff) / ((entry->dtype & 0xff) == 5 ? 16 : 8);
    return entry->nbytes == 0 ||
           ((place & (size - 1)) == 0 && !fastadam_is_written(plan, place, place + entry->nbytes, below));
}

/* Return the address of a gradient that is a tensor of its parameter's dtype and layout, not negated or
 * conjugated on reading, or -1. */
static int64_t read_gradient(const fastadam_roster *roster, const fastadam_entry *entry, PyObject *grad)
{
    const int64_t type = (int64_t)(uintptr_t)Py_TYPE(grad);
    if (type != roster->tensor_type && type != roster->parameter_type)
        return -1;
    int64_t place = place_like_param(&roster->headers, entry, (int64_t)(uintptr_t)grad);
    if (place == 0) {
        place = read_tensor((tensor_reader)(uintptr_t)roster->read_tensor, entry, (int64_t)(uintptr_t)grad);
        if (place < 0 || (entry->nbytes > 0 && place < LOWEST) || !lies_plainly(roster, (int64_t)(uintptr_t)grad))
            return -1;
    }
    return place;
}

/* Thousands of small tensors are scattered over memory: fetch what one will need while others are read. */
static void fetch_tensor(const fastadam_tensor_headers *at, const fastadam_print *print, int64_t object)
{
    const int64_t storage = read_word(own_words(print), 0);
    FETCH(object + at->object_impl);
    for (int64_t byte = at->first; byte < at->first + at->length; byte += LINE)
        FETCH(print->impl + byte);
    FETCH(storage + at->storage_data);
    FETCH(storage + at->storage_size);
}

static void fetch_hints(const fastadam_roster *roster, int64_t i, int64_t first, int64_t last)
{
    const int64_t *hints = (const int64_t *)(uintptr_t)roster->hints + i * roster->n_hints;
    for (int64_t j = first; j < last; j++)
        FETCH(hints[j]);
}

/* What raising the version of parameter i will need, and what getting its gradient begins with: the parameter, and
 * all that its TensorImpl points to, the version counter and what autograd knows. */
static void fetch_for_version(const fastadam_roster *roster, int64_t i)
{
    const fastadam_tensor_headers *at = &roster->headers;
    const fastadam_entry *entry = (const fastadam_entry *)(uintptr_t)roster->entries + i;
    if (i >= roster->n || entry->prints == 0)
        return;
    const fastadam_print *print = print_of(at, entry, 0);
    FETCH(entry->param_object + at->object_impl);
    FETCH(print->impl + at->first);
    for (int64_t byte = 0; byte < own_bytes(at); byte += (int64_t)sizeof(int64_t))
        FETCH(read_word(own_words(print), byte));
}

static void release(const fastadam_roster *roster)
{
    PyObject **grads = (PyObject **)(uintptr_t)roster->grads;
    for (int64_t i = 0; i < roster->n; i++) {
        fetch_for_version(roster, i + AHEAD); /* torch counts them next */
        PyObject *grad = grads[i];
        grads[i] = NULL;
        Py_XDECREF(grad);
    }
}

/* What getting the gradient of entry i will need. */
static void fetch_for_gradient(const fastadam_roster *roster, int64_t i)
{
    const fastadam_tensor_headers *at = &roster->headers;
    const fastadam_entry *entry = (const fastadam_entry *)(uintptr_t)roster->entries + i;
    if (i >= roster->n || entry->prints == 0)
        return;
    fetch_for_version(roster, i);
    fetch_tensor(at, print_of(at, entry, 0), entry->param_object);
    fetch_hints(roster, i, 0, GRADIENT_HINTS);
}

/* What comparing entry i will need besides. */
static void fetch_for_state(const fastadam_roster *roster, int64_t i)
{
    const fastadam_tensor_headers *at = &roster->headers;
    const fastadam_entry *entry = (const fastadam_entry *)(uintptr_t)roster->entries + i;
    if (i >= roster->n || entry->prints == 0)
        return;
    const int64_t *objects = &entry->step_object;
    FETCH(entry->state_object);
    fetch_hints(roster, i, GRADIENT_HINTS, roster->n_hints);
    FETCH(entry->step);
    for (int which = 0; which <= 3; which++)
        if (objects[which] != 0)
            fetch_tensor(at, print_of(at, entry, which + 1), objects[which]);
    fetch_for_gradient(roster, i);
}

/* The next gradient is often where this one was. */
static void hint_at(const fastadam_roster *roster, int64_t i, int64_t grad)
{
    int64_t *hints = (int64_t *)(uintptr_t)roster->hints + i * roster->n_hints;
    if (hints[0] == grad || roster->headers.length == 0)
        return;
    hints[0] = grad;
    hints[1] = read_word(grad, roster->headers.object_impl);
    hints[2] = hints[1] + roster->headers.tail;
    hints[3] = read_word(hints[1], roster->headers.first);
    hints[4] = read_word(hints[3], roster->headers.storage_data);
}

/* Take references to all gradients. */
static int64_t fetch_gradients(const fastadam_roster *roster, const int64_t *span_of)
{
    const fastadam_entry *entries = (const fastadam_entry *)(uintptr_t)roster->entries;
    PyObject **grads = (PyObject **)(uintptr_t)roster->grads;
    char *present = (char *)(uintptr_t)roster->present;
    int64_t outcome = READY;
    for (int64_t i = 0; i < roster->n; i++) {
        fetch_for_gradient(roster, i + AHEAD);
        grads[i] = PyObject_GetAttr(OBJECT(entries[i].param_object), OBJECT(roster->grad_name));
        if (grads[i] == NULL) {
            PyErr_Clear();
            return CHANGED;
        }
        present[i] = grads[i] != OBJECT(roster->none_object);
        if (present[i] != (span_of[i] >= 0))
            outcome = OTHER_GRADIENTS;
    }
    return outcome;
}

static int64_t read_all(const fastadam_roster *roster, const fastadam_lineup *lineup)
{
    const fastadam_entry *entries = (const fastadam_entry *)(uintptr_t)roster->entries;
    const fastadam_plan *plan = (const fastadam_plan *)(uintptr_t)lineup->plan;
    fastadam_span *spans = (fastadam_span *)(uintptr_t)plan->spans;
    const int64_t *span_of = (const int64_t *)(uintptr_t)lineup->span_of;
    const double *taken = (const double *)(uintptr_t)lineup->taken;
    double *steps = (double *)(uintptr_t)roster->steps;
    PyObject **grads = (PyObject **)(uintptr_t)roster->grads;
    int64_t below = 0;

    if (!same_containers(roster))
        return CHANGED;
    int64_t outcome = fetch_gradients(roster, span_of);
    if (outcome != READY)
        return outcome;
    for (int64_t i = 0; i < roster->n; i++) {
        fetch_for_state(roster, i + AHEAD);
        if (span_of[i] < 0)
            continue;
        fastadam_span *span = spans + span_of[i];
        if (!same_entry(roster, entries + i, steps + i))
            return CHANGED;
        if (steps[i] != taken[span->row])
            outcome = OTHER_STEPS; /* goes before NEEDS_CARE; all counters are read */
        if (outcome != READY)
            continue;
        const int64_t grad = read_gradient(roster, entries + i, grads[i]);
        if (grad < 0 || !is_readable(entries + i, plan, grad, &below)) {
            outcome = NEEDS_CARE;
        } else {
            span->grad = grad;
            hint_at(roster, i, (int64_t)(uintptr_t)grads[i]);
        }
    }
    return outcome;
}

int64_t fastadam_read_tensors(const fastadam_roster *roster, const fastadam_lineup *lineup)
{
    const PyGILState_STATE gil = PyGILState_Ensure();
    const int64_t outcome = read_all(roster, lineup);
    if (outcome != READY)
        release(roster);
    PyGILState_Release(gil);
    return outcome;
}

void fastadam_release_tensors(const fastadam_roster *roster)
{
    const PyGILState_STATE gil = PyGILState_Ensure();
    release(roster);
    PyGILState_Release(gil);
}

int64_t fastadam_step_tensors(const fastadam_roster *roster, const fastadam_lineup *lineup)
{
    const int64_t outcome = fastadam_read_tensors(roster, lineup);
    if (outcome != READY)
        return outcome;
    fastadam_run((const fastadam_plan *)(uintptr_t)lineup->plan, FASTADAM_REDUCE | FASTADAM_APPLY);
    fastadam_release_tensors(roster);
    return READY;
}
