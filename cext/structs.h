/* The memory that C and Python share. Written by cext/header.py from structs.py and tensor_structs.py in
 * fastadam/memory: change these, and write this anew. An int64_t may be a number or an address. */
#ifndef FASTADAM_STRUCTS_H
#define FASTADAM_STRUCTS_H

#include <stdint.h>

#include "constants.h"

/* The scalars that a step applies to a set of parameters; kernels narrow each to their compute dtype, once. tiny
 * is in units of its smallest normal number. */
typedef struct {
    double step_size;
    double inv_sqrt_bias_correction2;
    double decay_rate;
    double tiny;
    double grad_scale;
    double beta1;
    double one_minus_beta1;
    double beta2;
    double one_minus_beta2;
    double eps;
    double l2;
} fastadam_row;

/* A step counter: its address, and its type (FASTADAM_COUNTER_*). */
typedef struct {
    int64_t address;
    int64_t type;
} fastadam_counter;

/* What the varying scalars of a row are computed from, with the counter of the steps that it has taken. A step
 * that leaves out the row's spans does not count for it: left_out is 1 then. What is rounded at random depends on
 * the seed. */
typedef struct {
    double lr;
    double log_beta1_high;
    double log_beta1_low;
    double log_beta2_high;
    double log_beta2_low;
    double weight_decay;
    double tiny;
    double sign;
    fastadam_counter counter;
    int64_t left_out;
    int64_t seed;
} fastadam_row_inputs;

/* A contiguous run of real numbers that shares one row: addresses, a length, the row, and the caller's slot. The
 * size is how many of them a step steps: all, or 0 where it leaves the span out. It is one parameter where
 * n_starts is 0; else n_starts of them, one after another, and starts is the address of where each begins, as
 * int64 counted from the span's first element. ema is that of the average, in the dtype that is computed in, where
 * averages are kept. master_param and the scales are addresses, too, where formats of the variant need them; such
 * spans, and those that are rounded at random, are one parameter each, position is the number of it in the
 * optimizer, and first the number of the span's first element in it. */
typedef struct {
    int64_t param;
    int64_t grad;
    int64_t exp_avg;
    int64_t exp_avg_sq;
    int64_t max_exp_avg_sq;
    int64_t size;
    int64_t row;
    int64_t slot;
    int64_t starts;
    int64_t n_starts;
    int64_t ema;
    int64_t length;
    int64_t master_param;
    int64_t exp_avg_scale;
    int64_t exp_avg_sq_scale;
    int64_t max_exp_avg_sq_scale;
    int64_t position;
    int64_t first;
} fastadam_span;

/* Rows that are to be cut into runs (fastadam/step/cutting.py): the numbers of n of them, which row of the
 * gradient each one's is, and which of the rows of coefficients, from the one called row on; of is 0 where all
 * have that one. grad is the gradient's address, and grad_bytes are those of a row; row_steps is the address of
 * the counters of all rows, and counters is 0 where they have none. region is the whole parameter, per_row how
 * many bytes a row has in its arrays and, as first, how many numbers, which is row_size. Out: the spans of the
 * runs, and the rows' counters. */
typedef struct {
    int64_t numbers;
    int64_t places;
    int64_t of;
    int64_t n;
    int64_t row;
    int64_t grad;
    int64_t grad_bytes;
    int64_t row_steps;
    int64_t row_size;
    fastadam_span region;
    fastadam_span per_row;
    int64_t spans;
    int64_t counters;
} fastadam_cut;

/* Consecutive spans that one compiled variant steps, on so many threads: most_threads where no span is left out.
 * next_share is for the threads of the Numba kernels. scattered says that its spans are rows, which lie apart in
 * memory. */
typedef struct {
    int64_t variant;
    int64_t first;
    int64_t count;
    int64_t elements;
    int64_t threads;
    int64_t most_threads;
    int64_t next_share;
    int64_t scattered;
} fastadam_batch;

/* An array that gets one gradient: its object, the dtype objects of both, and their number of elements. */
typedef struct {
    int64_t param_object;
    int64_t dtype_object;
    int64_t elements;
    int64_t grad_dtype_object;
} fastadam_slot;

/* Where the fields of a NumPy array object lie, in bytes from its start, and the addresses of the types ndarray
 * and PackedArray. */
typedef struct {
    int64_t array_type;
    int64_t packed_type;
    int64_t type;
    int64_t data;
    int64_t ndim;
    int64_t dims;
    int64_t dtype;
    int64_t flags;
} fastadam_array_offsets;

/* An exact total of sums of squares (fastadam/step/norm.py): the words from the one called first to the one before
 * end are in use. is_nan and is_infinite say that such numbers were among the squares. */
typedef struct {
    int64_t is_nan;
    int64_t is_infinite;
    int64_t first;
    int64_t end;
    int64_t words[142];
} fastadam_total;

/* What gradients are multiplied by, and their norm. wanted is a sum of MEASURES, SKIPS and REFUSES; gradients are
 * to be divided by divisor, the scale of the loss, and then to have a norm of max_norm at most. Out: the norm of
 * the divided gradients, the coefficient that clips them, which is taken as it is where no norm is wanted, and the
 * scale, which does both. Each thread has one of the totals. */
typedef struct {
    int64_t wanted;
    double divisor;
    double max_norm;
    double norm;
    double coefficient;
    double scale;
    int64_t totals;
} fastadam_norm;

/* What a step does with numbers once it has stepped them: whether averages of the parameters are kept, with which
 * decay, and whether that warms up; and whether gradients become zero. */
typedef struct {
    int64_t averages;
    int64_t warms_up;
    double decay;
    int64_t zeroes;
} fastadam_after;

/* A step: its spans in batches, the rows of scalars, and what is counted when it is taken. The first n_row_inputs
 * rows are computed, the others are taken as they are. ema_weights has how far the averages of each row move
 * towards the parameters, computed with it where averages are kept, and random_keys what the random bits of each
 * row come from (fastadam/step/compact.py). grad_objects has the object of each slot's gradient; the step writes
 * memory between written_starts and written_ends, sorted and apart. Where spans may be left out, none_object is
 * the object of a gradient that is not there, else 0. Then there is a row for each of the n_slots slots and, where
 * averages are kept, another span, which is IDLE, with the slot n_slots further on. */
typedef struct {
    int64_t spans;
    int64_t rows;
    int64_t row_inputs;
    int64_t n_row_inputs;
    int64_t norm;
    int64_t after;
    int64_t ema_weights;
    int64_t batches;
    int64_t n_batches;
    int64_t counters;
    int64_t n_counters;
    int64_t slots;
    int64_t n_slots;
    int64_t grad_objects;
    int64_t none_object;
    int64_t written_starts;
    int64_t written_ends;
    int64_t n_written;
    fastadam_array_offsets offsets;
    int64_t random_keys;
} fastadam_plan;

/* A container of a nesting: whether items are found by key, the first of its children and how many it has, and a
 * subclass of tuple that may take its place, or 0. */
typedef struct {
    int64_t is_mapping;
    int64_t first;
    int64_t n;
    int64_t tuple_type;
} fastadam_container;

/* A container that is to be read: its object, and its number. */
typedef struct {
    int64_t object;
    int64_t number;
} fastadam_pending;

/* Which containers lie in which, the outermost first, and how many leaves there are. children has a leaf's
 * position, or ~n for the n-th container; keys are the string objects by which mappings have them; both are kept
 * in the order of the mappings last read. pending has room for all containers, and leaves for all leaves. */
typedef struct {
    int64_t n;
    int64_t containers;
    int64_t children;
    int64_t keys;
    int64_t pending;
    int64_t leaves;
} fastadam_nesting;

/* Where the parts of a torch tensor lie, in bytes: in its object, in its TensorImpl (the compared bytes: first and
 * how many, of which those from ndim on describe layout and dtype: number of dimensions, sizes, strides, offset
 * into the storage, and more up to the keys) and in its storage. All but object_impl are multiples of 8; the first
 * word is the address of the storage. views has those bits of the keys that are set where memory does not hold the
 * numbers themselves: negated or conjugated on reading, or all zero. */
typedef struct {
    int64_t object_impl;
    int64_t first;
    int64_t length;
    int64_t ndim;
    int64_t sizes;
    int64_t strides;
    int64_t offset;
    int64_t keys;
    int64_t storage_data;
    int64_t storage_size;
    int64_t views;
} fastadam_tensor_offsets;

/* What numbers tensors of one dtype hold: DLPack's dtype, as in cached_param, the format, how many real numbers an
 * element is, and its size in bytes. */
typedef struct {
    int64_t dtype;
    int64_t format;
    int64_t reals;
    int64_t itemsize;
} fastadam_element;

/* What a list of gradients is read with, and the plan whose spans and batches are written, which have room for as
 * many as capacity. most is how many numbers are read or scaled at once, without letting other threads of Python
 * run. */
typedef struct {
    int64_t read_tensor;
    int64_t tensor_type;
    int64_t parameter_type;
    int64_t elements;
    int64_t n_elements;
    int64_t plan;
    int64_t capacity;
    int64_t most;
    fastadam_tensor_offsets offsets;
} fastadam_gradients;

/* What tells whether a tensor is what it was: where its TensorImpl is, and where the words that describe its
 * layout and dtype are kept, which many tensors share: the less memory a step reads, the faster it is. After it
 * stand the words of the TensorImpl that are its own, and those of its storage from the address to the size. */
typedef struct {
    int64_t impl;
    int64_t layout;
} fastadam_fingerprint;

/* A parameter as it was last seen: the objects, where their numbers lie, and the layout that it shares with its
 * gradient and moments. dims holds ndim lengths, then ndim strides. dtype is DLPack's: code + 2^8 bits + 2^16
 * lanes; device is DLPack's type + 2^32 number. A moment that is not used has the object 0. entry_keys are the
 * keys under which the state has the step counter and the moments. fingerprints are those of the parameter, the
 * step counter and the moments, or 0: then each tensor is asked. Where there is more in the state, masters and
 * scales, beside has n_beside objects and then their keys, and there are fingerprints of them; without any, such
 * tensors count as changed. Of a gradient as it was last seen there are dtype and size in bytes, and the words of
 * its layout, or 0. */
typedef struct {
    int64_t param_object;
    int64_t state_object;
    int64_t step_object;
    int64_t exp_avg_object;
    int64_t exp_avg_sq_object;
    int64_t max_exp_avg_sq_object;
    int64_t entry_keys;
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
    int64_t grad_dtype;
    int64_t grad_nbytes;
    int64_t grad_layout;
    int64_t n_beside;
    int64_t beside;
    int64_t beside_fingerprints;
} fastadam_cached_param;

/* The list of a group's parameters, and its length. */
typedef struct {
    int64_t list_object;
    int64_t length;
} fastadam_group_list;

/* All parameters of an optimizer, with the containers that they are found in. read_tensor is DLPack's function
 * dltensor_from_py_object_no_sync. state_keys and state_values are what the state dict held, in its order. Out:
 * which gradients are present (bytes), and each step counter. */
typedef struct {
    int64_t read_tensor;
    int64_t tensor_type;
    int64_t parameter_type;
    int64_t none_object;
    int64_t grad_name;
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
    fastadam_tensor_offsets offsets;
} fastadam_tensor_cache;

/* The parameters that have a gradient: the plan of their step, each one's span in it or -1, its span that is IDLE
 * or -1, how many steps the members of each row have taken before, which the plan counts with the others, and
 * whether the step is so short that other threads of Python wait for it. Where leaves_out is 1, they are all that
 * can have one, each has a row of its own, and those without a gradient are left out. */
typedef struct {
    int64_t plan;
    int64_t span_of;
    int64_t idle_of;
    int64_t steps_taken;
    int64_t keeps_gil;
    int64_t leaves_out;
} fastadam_active_plan;

#endif
