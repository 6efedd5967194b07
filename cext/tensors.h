/* The step over PyTorch's tensors. structs.h has what is cached of them: the memory that it works on. */
#ifndef FASTADAM_TENSORS_H
#define FASTADAM_TENSORS_H

#include <stdint.h>

#include "adam.h"
#include "structs.h"

/* Find the function that reads a tensor in what torch.Tensor.__dlpack_c_exchange_api__ holds; 0 if it has none. */
int64_t fastadam_tensor_reader(int64_t capsule_object);

/* Fetch the gradients, compare everything with what it was, and note the gradients' addresses in the plan. grads
 * is the address of a list of as many items as there are parameters, which the caller keeps until the step is
 * over; it gets the gradients. Returns FASTADAM_TAKEN if the plan can be run, else what stands in the way:
 * FASTADAM_CHANGED, FASTADAM_OTHER_GRADIENTS, FASTADAM_OTHER_STEPS, the position of a parameter whose gradient
 * needs care, or FASTADAM_RAISED: then the exception is the last item of the list. */
int64_t fastadam_read_tensors(const fastadam_tensor_cache *cache, const fastadam_active_plan *active,
                              int64_t grads, int64_t are_given);

/* Read, and run the plan if it can be run, in one call. Returns what fastadam_read_tensors does, or
 * FASTADAM_SKIPPED or FASTADAM_REFUSED. */
int64_t fastadam_step_tensors(const fastadam_tensor_cache *cache, const fastadam_active_plan *active,
                              int64_t grads, int64_t are_given);

/* The same, of gradients that are given, and one plan more, of other parameters: the caller keeps what it has the
 * addresses of. Where the norm of all gradients is wanted, the squares of these are in the totals of the plan
 * called measured; where that is NULL, FASTADAM_CHANGED is returned. */
int64_t fastadam_step_tensors_and_more(const fastadam_tensor_cache *cache, const fastadam_active_plan *active,
                                       int64_t grads, const fastadam_plan *more, const fastadam_plan *measured);

#endif
