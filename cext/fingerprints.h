/* Whether a tensor is what it was, from the words of its TensorImpl and its storage: a few nanoseconds for each.
 *
 * All here is inlined into the attempt, which does it five times for each parameter. */
#ifndef FASTADAM_FINGERPRINTS_H
#define FASTADAM_FINGERPRINTS_H

#include "objects.h"

#include "tensors.h"

/* How many bytes of a TensorImpl are kept for each tensor alone. */
static inline int64_t own_bytes(const fastadam_tensor_offsets *at) { return at->ndim - at->first; }

/* How many bytes of a storage are compared: the address, what owns the memory, the size. */
static inline int64_t owner_bytes(const fastadam_tensor_offsets *at)
{
    return at->storage_size + WORD - at->storage_data;
}

/* One of several fingerprints, of which the first is at an address. */
static inline const fastadam_fingerprint *fingerprint_at(const fastadam_tensor_offsets *at, int64_t first,
                                                         int which)
{
    const int64_t size = (int64_t)sizeof(fastadam_fingerprint) + own_bytes(at) + owner_bytes(at);
    return MEMORY(const fastadam_fingerprint, first + which * size);
}

/* One of a parameter's fingerprints: 0 is the parameter's, 1 the step counter's, then the moments'. */
static inline const fastadam_fingerprint *fingerprint_of(const fastadam_tensor_offsets *at,
                                                         const fastadam_cached_param *param, int which)
{
    return fingerprint_at(at, param->fingerprints, which);
}

/* Where the words after a fingerprint begin; the first is the address of the storage. */
static inline int64_t own_words(const fastadam_fingerprint *noted) { return ADDRESS(noted + 1); }

/* Do the words of a TensorImpl from `from` to the end, and a kept copy of those from ndim on, describe the same
 * sizes, strides and more? What lies beyond ndim lengths and strides is not in use and may hold anything. */
static inline int same_layout(const fastadam_tensor_offsets *at, int64_t impl, int64_t words, int64_t from)
{
    const int64_t ndim = read_word(words, 0), dims = ndim * WORD;
    return read_word(impl, at->ndim) == ndim && same_words(impl + at->sizes, words + at->sizes - at->ndim, dims) &&
           same_words(impl + at->strides, words + at->strides - at->ndim, dims) &&
           same_words(impl + from, words + from - at->ndim, at->first + at->length - from);
}

/* Is all that a tensor object stands for what it was? */
static inline int is_as_noted(const fastadam_tensor_offsets *at, const fastadam_fingerprint *noted, int64_t object)
{
    const int64_t own = own_words(noted);
    return read_word(object, at->object_impl) == noted->impl &&
           same_words(noted->impl + at->first, own, own_bytes(at)) &&
           same_layout(at, noted->impl, noted->layout, at->offset) &&
           same_words(read_word(own, 0) + at->storage_data, own + own_bytes(at), owner_bytes(at));
}

/* The address of a gradient's numbers, if the words that say what it is are those that were noted, which are its
 * parameter's where both are of one dtype, but for where in its storage it begins; else 0. */
static inline int64_t address_like_param(const fastadam_tensor_offsets *at, const fastadam_cached_param *param,
                                         int64_t grad)
{
    if (param->grad_layout == 0 || param->grad_nbytes == 0)
        return 0;
    const int64_t impl = read_word(grad, at->object_impl);
    if (!same_layout(at, impl, param->grad_layout, at->offset + WORD))
        return 0;
    const int64_t itemsize = param->grad_dtype >> 8 & 0xff; /* in bits */
    const int64_t storage = read_word(impl, at->first), offset = read_word(impl, at->offset) * (itemsize / 8);
    if (read_word(storage, at->storage_size) < offset + param->grad_nbytes)
        return 0;
    return read_word(storage, at->storage_data) + offset;
}

#endif
