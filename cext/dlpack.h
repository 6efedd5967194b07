/* Tensors read through DLPack's exchange functions, which any version of torch that has them keeps. */
#ifndef FASTADAM_DLPACK_H
#define FASTADAM_DLPACK_H

#include "tensors.h"

/* Return the address of a tensor's numbers, or -1 if it is not on the device, does not lie in memory as the cached
 * parameter says, is not what memory holds (but negated or conjugated), or has a storage that was freed or shrunk.
 * Nothing is waited for: the address of a tensor on a CUDA device is known on the host. */
int64_t fastadam_read_tensor(const fastadam_tensor_cache *cache, const fastadam_cached_param *param,
                             int64_t object);

/* Is the step counter a number of the type, and at the address, that the cached parameter says? */
int fastadam_is_same_counter(const fastadam_tensor_cache *cache, const fastadam_cached_param *param);

#endif
