/* Tensors read through DLPack's exchange functions, which any version of torch that has them keeps. */
#ifndef FASTADAM_DLPACK_H
#define FASTADAM_DLPACK_H

#include "tensors.h"

/* Return the address of a tensor's numbers, or -1 if it is not of this dtype and size in bytes, is not on the
 * device, does not lie in memory as the cached parameter says, is not what memory holds (but negated or
 * conjugated), or has a storage that was freed or shrunk. Nothing is waited for: the address of a tensor on a CUDA
 * device is known on the host. */
int64_t fastadam_read_tensor(const fastadam_tensor_cache *cache, const fastadam_cached_param *param,
                             int64_t object, int64_t wanted_dtype, int64_t nbytes);

/* Read a gradient that lies densely in the host's memory, its numbers one after the other in whatever order, into
 * a span: its address, and how many real numbers there are. Returns their format, or -1 if it is otherwise. */
int fastadam_read_gradient(const fastadam_gradients *known, int64_t object, fastadam_span *span);

/* Is the step counter a number of the type, and at the address, that the cached parameter says? */
int fastadam_is_same_counter(const fastadam_tensor_cache *cache, const fastadam_cached_param *param);

#endif
