/* The step over PyTorch's tensors. structs.h has what is cached of them: the memory that it works on. */
#ifndef FASTADAM_TENSORS_H
#define FASTADAM_TENSORS_H

#include <stdint.h>

#include "adam.h"
#include "structs.h"

/* Find the function that reads a tensor in what torch.Tensor.__dlpack_c_exchange_api__ holds; 0 if it has none. */
int64_t fastadam_tensor_reader(int64_t capsule_object);

/* Compare everything with what it was, and note the gradients' addresses in the plan. Returns FASTADAM_TAKEN if
 * the plan can be run; the caller then calls fastadam_release_tensors. Else what stands in the way:
 * FASTADAM_CHANGED, FASTADAM_OTHER_GRADIENTS, FASTADAM_OTHER_STEPS, or the position of a parameter whose gradient
 * needs care. */
int64_t fastadam_read_tensors(const fastadam_tensor_cache *cache, const fastadam_active_plan *active);

/* Let go of the gradients, where they are held. */
void fastadam_release_tensors(const fastadam_tensor_cache *cache);

/* Read, run and release, in one call. */
int64_t fastadam_step_tensors(const fastadam_tensor_cache *cache, const fastadam_active_plan *active);

#endif
