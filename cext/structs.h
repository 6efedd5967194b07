/* The memory that C and Python share, of PyTorch's tensors: fastadam/memory/structs.py has the same as NumPy
 * dtypes. An int64_t may be a number or an address. */
#ifndef FASTADAM_STRUCTS_H
#define FASTADAM_STRUCTS_H

#include <stdint.h>

/* What an attempt at a step returns, beside the position of a parameter whose gradient needs care. */
enum {
    FASTADAM_TAKEN = -1,
    FASTADAM_CHANGED = -2,
    FASTADAM_OTHER_GRADIENTS = -3,
    FASTADAM_OTHER_STEPS = -4,
};

/* Where a float32 counter ends: it counts no further. */
enum {
    FASTADAM_FLOAT32_END = 16777216,
};

/* Where the parts of a torch tensor lie, in bytes: in its object, in its TensorImpl (the compared bytes: first and
 * how many, of which those from ndim on describe layout and dtype; sizes, strides, and what follows them) and in
 * its storage. All but object_impl are multiples of 8; the first word is the address of the storage. If length is
 * 0, they are not known, and every tensor is asked. */
typedef struct {
    int64_t object_impl;
    int64_t first;
    int64_t length;
    int64_t ndim;
    int64_t sizes;
    int64_t strides;
    int64_t tail;
    int64_t storage_data;
    int64_t storage_size;
} fastadam_tensor_offsets;

/* What tells whether a tensor is what it was: where its TensorImpl is, and where the words that describe its
 * layout and dtype are kept, which many tensors share: the less memory a step reads, the faster it is. After it
 * stand the words of the TensorImpl that are its own, and those of its storage from the address to the size. */
typedef struct {
    int64_t impl;
    int64_t layout;
} fastadam_fingerprint;

/* A parameter as it was last seen: the objects, where their numbers lie, and the layout that it shares with its
 * gradient and moments. dims holds ndim lengths, then ndim strides. dtype is DLPack's: code + 2^8 bits + 2^16
 * lanes; device is DLPack's type + 2^32 number. A moment that is not used has the object 0. fingerprints are those
 * of the parameter, the step counter and the moments, or 0: then each tensor is asked. */
typedef struct {
    int64_t param_object;
    int64_t state_object;
    int64_t step_object;
    int64_t exp_avg_object;
    int64_t exp_avg_sq_object;
    int64_t max_exp_avg_sq_object;
    int64_t fingerprints;
    int64_t param;
    int64_t step;
    int64_t exp_avg;
    int64_t exp_avg_sq;
    int64_t max_exp_avg_sq;
    int64_t ndim;
    int64_t dims;
    int64_t dtype;
    int64_t device;
    int64_t size;
    int64_t nbytes;
    int64_t step_is_float64;
} fastadam_cached_param;

/* The list of a group's parameters, and its length. */
typedef struct {
    int64_t list_object;
    int64_t length;
} fastadam_group_list;

/* All parameters of an optimizer, with the containers that they are found in. read_tensor is DLPack's function
 * dltensor_from_py_object_no_sync. state_keys and state_values are what the state dict held, in its order. Out:
 * which gradients are present (bytes), each step counter, and new references to the gradients, until they are
 * released. */
typedef struct {
    int64_t read_tensor;
    int64_t tensor_type;
    int64_t parameter_type;
    int64_t none_object;
    int64_t grad_name;
    int64_t state_names;
    int64_t is_neg;
    int64_t is_conj;
    int64_t state_object;
    int64_t n_state;
    int64_t state_keys;
    int64_t state_values;
    int64_t lists;
    int64_t n_lists;
    int64_t params;
    int64_t n;
    int64_t present;
    int64_t steps;
    int64_t grads;
    fastadam_tensor_offsets offsets;
} fastadam_tensor_cache;

/* The parameters that have a gradient: the plan of their step, each one's span in it or -1, and how many steps the
 * members of each row have taken before, which the plan counts with the others. */
typedef struct {
    int64_t plan;
    int64_t span_of;
    int64_t steps_taken;
} fastadam_active_plan;

#endif
