/* What the PyTorch face knows about its tensors, and what it does with them in one native call.
 *
 * fastadam/torch/roster.py describes the same memory as NumPy structured arrays. Fields named *_object are addresses of
 * Python objects. None of them is a reference: each step finds its objects anew in the optimizer's lists and
 * dicts, and only compares addresses.
 */
#ifndef FASTADAM_TENSORS_H
#define FASTADAM_TENSORS_H

#include <stdint.h>

#include "adam.h"

/* One parameter as it was last seen: the objects, where their numbers lie, and the layout that it shares with its
 * gradient and moments. dims holds ndim lengths, then ndim strides. dtype is DLPack's: code + 2^8 bits + 2^16
 * lanes; device is DLPack's type + 2^32 number. A moment that is not used has the object 0. prints are what tells
 * whether the parameter, the step counter and the moments are what they were, without asking each one: for each a
 * fastadam_print, then the words of its TensorImpl that are its own, and those of its storage from the address to
 * the size. */
typedef struct {
    int64_t param_object, state_object, step_object;
    int64_t exp_avg_object, exp_avg_sq_object, max_exp_avg_sq_object;
    int64_t prints, param, step, exp_avg, exp_avg_sq, max_exp_avg_sq;
    int64_t ndim, dims, dtype, device, size, nbytes, step_is_float64;
} fastadam_entry;

/* Where a TensorImpl is, and where the words that describe its layout and dtype are kept, which many tensors
 * share: the less memory a step reads, the faster it is. */
typedef struct {
    int64_t impl, layout;
} fastadam_print;

/* Where the parts of a tensor lie, in bytes (fastadam/torch/tensor_offsets.py finds them): in its object, in its
 * TensorImpl (the compared bytes: first and how many, of which those from ndim on describe layout and dtype;
 * sizes, strides, and what follows them) and in its storage. All but object_impl are multiples of 8; the first
 * word is the address of the storage. If length is 0, they are not known, and every tensor is asked. */
typedef struct {
    int64_t object_impl, first, length, ndim, sizes, strides, tail, storage_data, storage_size;
} fastadam_tensor_headers;

/* All parameters of an optimizer, with the containers they are found in. state_keys and state_values are what the
 * state dict held, in its order; lists are pairs of a list object and its length. Out: which gradients are present
 * (bytes), each step counter (doubles), and new references to the gradients, until they are released. hints are
 * n_hints addresses for each entry that its reading will probably need: five of its gradient, and those of its
 * state's dict. They are fetched into the cache ahead of time and not used for anything else. */
typedef struct {
    int64_t read_tensor; /* DLPack's function dltensor_from_py_object_no_sync */
    int64_t tensor_type, parameter_type, none_object, grad_name, state_names, is_neg, is_conj;
    int64_t state_object, n_state, state_keys, state_values;
    int64_t lists, n_lists;
    int64_t entries, n;
    int64_t present, steps, grads;
    int64_t hints, n_hints;
    fastadam_tensor_headers headers;
} fastadam_roster;

/* The parameters that have a gradient: each one's span in the plan, or -1; and how many steps each row of
 * coefficients has taken before, which the plan counts with the others. */
typedef struct {
    int64_t plan, span_of, taken;
} fastadam_lineup;

/* Find the function that reads a tensor in what torch.Tensor.__dlpack_c_exchange_api__ holds; 0 if it has none. */
int64_t fastadam_tensor_reader(int64_t capsule_object);

/* Compare everything with what it was, and note the gradients' addresses in the plan. Returns 0 if the plan can
 * run; the caller then calls fastadam_release_tensors. Else the reason why not: 1 something has changed, 2 other
 * gradients are present, 3 other step counters, 4 a gradient needs care. */
int64_t fastadam_read_tensors(const fastadam_roster *roster, const fastadam_lineup *lineup);

/* Let go of the gradients, where they are held. */
void fastadam_release_tensors(const fastadam_roster *roster);

/* Read, run and release, in one call. */
int64_t fastadam_step_tensors(const fastadam_roster *roster, const fastadam_lineup *lineup);

#endif
