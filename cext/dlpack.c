/* Tensors read through DLPack's exchange functions. */
#include "objects.h"

#include "dlpack.h"

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

enum { DL_MAJOR = 1, DL_CPU = 1, DL_FLOAT = 2 };

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
        reader = ADDRESS(exchange->tensor_from_object);
    PyGILState_Release(gil);
    return reader;
}

static int read_object(int64_t read_tensor, int64_t object, dl_tensor *found)
{
    const tensor_reader reader = (tensor_reader)(uintptr_t)read_tensor;
    if (reader(MEMORY(void, object), found) == 0)
        return 1;
    PyErr_Clear();
    return 0;
}

/* Does the storage of a tensor object hold these bytes? DLPack does not look. */
static int is_in_storage(const fastadam_tensor_offsets *at, int64_t object, int64_t address, int64_t nbytes)
{
    const int64_t storage = read_word(read_word(object, at->object_impl), at->first);
    if (storage == 0)
        return 0;
    const int64_t start = read_word(storage, at->storage_data);
    return address >= start && address + nbytes <= start + read_word(storage, at->storage_size);
}

/* Does memory hold the numbers themselves? DLPack does not say. */
static int lies_plainly(const fastadam_tensor_offsets *at, int64_t object)
{
    return (read_word(read_word(object, at->object_impl), at->keys) & at->views) == 0;
}

int64_t fastadam_read_tensor(const fastadam_tensor_cache *cache, const fastadam_cached_param *param,
                             int64_t object, int64_t wanted_dtype, int64_t nbytes)
{
    dl_tensor found;
    if (!read_object(cache->read_tensor, object, &found))
        return -1;
    const int64_t dtype = found.code | found.bits << 8 | (int64_t)found.lanes << 16;
    const int64_t device = found.device_type | (int64_t)found.device_id << 32;
    if (device != param->device || dtype != wanted_dtype || found.ndim != param->ndim)
        return -1;
    const int64_t *shape = MEMORY(const int64_t, param->dims), *strides = shape + param->ndim;
    for (int64_t i = 0; i < param->ndim; i++) {
        if (found.shape[i] != shape[i])
            return -1;
        /* Where there is only one element on the way, strides mean nothing. */
        if (found.strides[i] != strides[i] && shape[i] > 1 && param->size > 0)
            return -1;
    }
    const int64_t address = ADDRESS(found.data) + (int64_t)found.byte_offset;
    if (!lies_plainly(&cache->offsets, object) ||
        (nbytes > 0 && !is_in_storage(&cache->offsets, object, address, nbytes)))
        return -1;
    return address;
}

/* The elements of a tensor that fill one run of memory, each address once; or -1. */
static int64_t dense_elements(const dl_tensor *found)
{
    int64_t elements = 1, filled = 1;
    for (int i = 0; i < found->ndim; i++)
        elements *= found->shape[i];
    for (int i = found->ndim - 1; i >= 0 && filled != 0; i--) /* mostly in this order */
        if (found->shape[i] != 1)
            filled = found->strides[i] == filled ? filled * found->shape[i] : 0;
    if (elements == 0 || filled != 0)
        return elements;
    /* One dimension after the other, by rising stride. */
    for (filled = 1; filled < elements;) {
        int next = -1;
        for (int i = 0; i < found->ndim; i++)
            if (found->shape[i] != 1 && found->strides[i] == filled)
                next = i;
        if (next < 0)
            return -1;
        filled *= found->shape[next];
    }
    return elements;
}

int fastadam_read_gradient(const fastadam_gradients *known, int64_t object, fastadam_span *span)
{
    const fastadam_element *element = MEMORY(const fastadam_element, known->elements);
    dl_tensor found;
    if (!read_object(known->read_tensor, object, &found) || found.device_type != DL_CPU)
        return -1;
    const int64_t dtype = found.code | found.bits << 8 | (int64_t)found.lanes << 16;
    const int64_t elements = dense_elements(&found), address = ADDRESS(found.data) + (int64_t)found.byte_offset;
    for (int64_t i = 0; i < known->n_elements; i++, element++) {
        if (element->dtype != dtype)
            continue;
        if (elements < 0 || address % (element->itemsize / element->reals) != 0 ||
            !lies_plainly(&known->offsets, object) ||
            (elements > 0 && !is_in_storage(&known->offsets, object, address, elements * element->itemsize)))
            return -1;
        span->grad = address;
        span->size = elements * element->reals;
        return (int)element->format;
    }
    return -1;
}

int fastadam_is_same_counter(const fastadam_tensor_cache *cache, const fastadam_cached_param *param)
{
    dl_tensor found;
    const int bits = param->step_is_float64 ? 64 : 32;
    return read_object(cache->read_tensor, param->step_object, &found) && found.device_type == DL_CPU &&
           found.code == DL_FLOAT && found.bits == bits && found.ndim == 0 &&
           ADDRESS(found.data) + (int64_t)found.byte_offset == param->step &&
           is_in_storage(&cache->offsets, param->step_object, param->step, bits / 8);
}
