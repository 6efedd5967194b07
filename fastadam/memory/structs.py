"""The memory that Python and native code share: one table of structs and constants.

The dtypes of NumPy's structured arrays are made from it here, ``cext/constants.h`` and ``cext/structs.h`` are
written from it by ``python cext/header.py --write`` (a test compares them), and Numba's kernels read structs
through the same dtypes. Every field is 64 bits wide, so that no compiler has anything to pad.
"""

from __future__ import annotations

from typing import NamedTuple

from fastadam.memory.formats import ALL_FORMATS
from fastadam.memory.native import FLOAT64, INT64, Field, Struct, constants, reals

TAKEN, CHANGED, OTHER_GRADIENTS, OTHER_STEPS, RAISED, SKIPPED, REFUSED, READ = constants(
    "What an attempt at a step returns. TAKEN: all that was asked for is done. From 0 on: the slot, or the "
    "parameter, whose gradient Python has to look at. SKIPPED, REFUSED: some gradients are not finite, and such a "
    "step is to be left out, or not to be taken. READ: the gradients are in the plan, which was not run. The "
    "others are of PyTorch tensors: something is not what it was, other gradients are present, step counters are "
    "others than those that the rows were computed for, fetching a gradient has raised an exception. Where it is "
    "not TAKEN, nothing was written.",
    TAKEN=-1,
    CHANGED=-2,
    OTHER_GRADIENTS=-3,
    OTHER_STEPS=-4,
    RAISED=-5,
    SKIPPED=-6,
    REFUSED=-7,
    READ=-8,
)

INSPECT, MEASURE, REDUCE, APPLY, SCALE = constants(
    "The stages of a step, which are run in this order: look at the gradients' objects and note where their "
    "numbers are; add up the gradients' squares, if their norm is wanted; compute what has to be known of the "
    "whole before the first element is written, the norm and the rows of scalars; step all elements, and count "
    "the step. SCALE is no part of a step: multiply the gradients by the scale.",
    INSPECT=1,
    MEASURE=2,
    REDUCE=4,
    APPLY=8,
    SCALE=16,
)

COUNTER_INT64, COUNTER_FLOAT64, COUNTER_FLOAT32 = constants(
    "The types of step counters.", COUNTER_INT64=0, COUNTER_FLOAT64=1, COUNTER_FLOAT32=2
)
(FLOAT32_END,) = constants("Where a float32 counter ends: it counts no further.", FLOAT32_END=2**24)

constants(
    "The formats of numbers (fastadam/memory/formats.py).",
    **{each.name.upper(): each.code for each in ALL_FORMATS},
)

# fastadam/step/variants.py packs and unpacks them.
AMSGRAD, L2, DECOUPLED, IDLE, COMPUTE_AT, FORMATS_AT, FORMAT_BITS = constants(
    "A compiled variant as one number: flags in the lowest 16 bits (of L2 and DECOUPLED, the two ways of weight "
    "decay, there is one at most; spans that are IDLE have no gradient, and only their averages move), then the "
    "format that is computed in, then "
    "those of the parameter, the gradient and the moments, in the order of the fields of a span.",
    AMSGRAD=1,
    L2=2,
    DECOUPLED=4,
    IDLE=8,
    COMPUTE_AT=16,
    FORMATS_AT=24,
    FORMAT_BITS=8,
)

(BLOCK,) = constants(
    "Elements of a block. Blocks are counted from the first element of each parameter, and threads share out "
    "whole ones. A power of two: so large that what is kept for each block is little beside its elements, so "
    "small that shares come out even. The smallest share of a batch that has several threads is 16 blocks.",
    BLOCK=1024,
)
(SHARES_PER_THREAD,) = constants(
    "Shares of a batch for each thread, taken as the threads get to them: one that has to wait for its processor "
    "does not hold up the others.",
    SHARES_PER_THREAD=8,
)
(ELEMENTS_PER_THREAD,) = constants(
    "Elements for which one thread more pays: about half as many do where the threads are awake, and these in any "
    "case where they have to be woken; benchmarks/threshold.py measures both curves.",
    ELEMENTS_PER_THREAD=131_072,
)
(CHUNK,) = constants(
    "Elements that are widened at a time, where they lie in memory in less than they are computed with: the five "
    "arrays of them fit the first-level cache, with what they were read from. A divisor of BLOCK.",
    CHUNK=512,
)
(SCALE_BLOCK,) = constants(
    "Elements that share a scale, where state lies in 8 bits. They are counted from the first element of each "
    "parameter. A divisor of CHUNK.",
    SCALE_BLOCK=64,
)
(STRIP,) = constants(
    "Elements that are stepped at a time where more is done with each of them afterwards (see the struct after), "
    "while they are in the second-level cache: the longer they are, the better memory is read ahead.",
    STRIP=8192,
)

(LANES,) = constants(
    "Sums of squares that are kept side by side within a block (fastadam/step/norm.py).",
    LANES=8,
)
TOTAL_WORDS, TOTAL_LOWEST = constants(
    "An exact total of sums of squares is a whole number of units of 2^TOTAL_LOWEST, in words of 32 bits each. "
    "They reach from less than the square of the smallest float64, with its digits behind, to more than that of "
    "the largest.",
    TOTAL_WORDS=142,
    TOTAL_LOWEST=-2304,
)
MEASURES, SKIPS, REFUSES = constants(
    "What is wanted of the norm: that it is computed, and that a step is skipped, or refused, where it is not "
    "finite.",
    MEASURES=1,
    SKIPS=2,
    REFUSES=4,
)

C_CONTIGUOUS, ALIGNED, WRITEABLE = constants(
    "NumPy's public flag bits (NPY_ARRAY_*).", C_CONTIGUOUS=0x1, ALIGNED=0x100, WRITEABLE=0x400
)


class Varying(NamedTuple):
    """The scalars of the formula that move with the step.

    A row may be for spans of several dtypes. So `tiny` is in units of the smallest normal number of the compute
    dtype here: 1 in steps that set small moments to zero, else 0.
    """

    step_size: float
    inv_sqrt_bias_correction2: float
    decay_rate: float
    tiny: float
    grad_scale: float


class Constant(NamedTuple):
    """The scalars of the formula that options alone decide."""

    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    eps: float
    l2: float


class Rates(NamedTuple):
    """What the varying scalars are computed from, beside the number of the step."""

    lr: float
    log_beta1_high: float
    log_beta1_low: float
    log_beta2_high: float
    log_beta2_low: float
    weight_decay: float
    tiny: float
    sign: float


ROW = Struct(
    "row",
    "The scalars that a step applies to a set of parameters; kernels narrow each to their compute dtype, once. "
    "tiny is in units of its smallest normal number.",
    *reals(*Varying._fields, *Constant._fields),
)

COUNTER = Struct("counter", "A step counter: its address, and its type (FASTADAM_COUNTER_*).", "address", "type")

ROW_INPUTS = Struct(
    "row_inputs",
    "What the varying scalars of a row are computed from, with the counter of the steps that it has taken. A step "
    "that leaves out the row's spans does not count for it: left_out is 1 then. What is rounded at random depends "
    "on the seed.",
    *reals(*Rates._fields),
    Field("counter", COUNTER.dtype),
    "left_out",
    "seed",
)

# The arrays that a step goes through side by side.
ROLES = ("param", "grad", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
MOMENTS = ROLES[2:]
# The average of a parameter over the steps, which lies in the dtype that is computed in.
AVERAGE = "ema"
# What a parameter of 16 bits lacks of the one in float32; and, for each moment of 8 bits, the scales of its
# blocks.
MASTER = "master_param"
SCALES = {name: f"{name}_scale" for name in MOMENTS}
# Beside the step counter of a parameter, those of its rows, where these have taken less.
ROW_STEP = "row_step"
# What the state of a parameter can have, beside its step counters.
KEPT = (*MOMENTS, AVERAGE, MASTER, *SCALES.values())
SPAN = Struct(
    "span",
    "A contiguous run of real numbers that shares one row: addresses, a length, the row, and the caller's slot. "
    "The size is how many of them a step steps: all, or 0 where it leaves the span out. "
    "It is one parameter where n_starts is 0; else n_starts of them, one after another, and starts is the address "
    "of where each begins, as int64 counted from the span's first element. ema is that of the average, in the "
    "dtype that is computed in, where averages are kept. master_param and the scales are addresses, too, where "
    "formats of the variant need them; such spans, and those that are rounded at random, are one parameter each, "
    "position is the number of it in the optimizer, and first the number of the span's first element in it.",
    *ROLES,
    "size",
    "row",
    "slot",
    "starts",
    "n_starts",
    AVERAGE,
    "length",
    MASTER,
    *SCALES.values(),
    "position",
    "first",
)

CUT = Struct(
    "cut",
    "Rows that are to be cut into runs (fastadam/step/cutting.py): the numbers of n of them, which row of the "
    "gradient each one's is, and which of the rows of coefficients, from the one called row on; of is 0 where all "
    "have that one. grad is the gradient's address, and grad_bytes are those of a row; row_steps is the address "
    "of the counters of all rows, and counters is 0 where they have none. region is the whole parameter, per_row "
    "how many bytes a row has in its arrays and, as first, how many numbers, which is row_size. Out: the spans of "
    "the runs, and the rows' counters.",
    Field("numbers", points_to=INT64),
    Field("places", points_to=INT64),
    Field("of", points_to=INT64),
    *("n", "row", "grad", "grad_bytes", "row_steps", "row_size"),
    Field("region", SPAN.dtype),
    Field("per_row", SPAN.dtype),
    *("spans", "counters"),
)

BATCH = Struct(
    "batch",
    "Consecutive spans that one compiled variant steps, on so many threads: most_threads where no span is left "
    "out. next_share is for the threads of the Numba kernels. scattered says that its spans are rows, which lie "
    "apart in memory.",
    *("variant", "first", "count", "elements", "threads", "most_threads", "next_share", "scattered"),
)

SLOT = Struct(
    "slot",
    "An array that gets one gradient: its object, the dtype objects of both, and their number of elements.",
    "param_object",
    "dtype_object",
    "elements",
    "grad_dtype_object",
)

ARRAY_OFFSETS = Struct(
    "array_offsets",
    "Where the fields of a NumPy array object lie, in bytes from its start, and the addresses of the types "
    "ndarray and PackedArray.",
    *("array_type", "packed_type", "type", "data", "ndim", "dims", "dtype", "flags"),
)

TOTAL = Struct(
    "total",
    "An exact total of sums of squares (fastadam/step/norm.py): the words from the one called first to the one "
    "before end are in use. is_nan and is_infinite say that such numbers were among the squares.",
    *("is_nan", "is_infinite", "first", "end"),
    Field("words", length=TOTAL_WORDS),
)

NORM = Struct(
    "norm",
    "What gradients are multiplied by, and their norm. wanted is a sum of MEASURES, SKIPS and REFUSES; gradients "
    "are to be divided by divisor, the scale of the loss, and then to have a norm of max_norm at most. Out: the "
    "norm of the divided gradients, the coefficient that clips them, which is taken as it is where no norm is "
    "wanted, and the scale, which does both. Each thread has one of the totals.",
    "wanted",
    *reals("divisor", "max_norm", "norm", "coefficient", "scale"),
    Field("totals", points_to=TOTAL.dtype),
)

AFTER = Struct(
    "after",
    "What a step does with numbers once it has stepped them: whether averages of the parameters are kept, with "
    "which decay, and whether that warms up; and whether gradients become zero.",
    *("averages", "warms_up"),
    *reals("decay"),
    "zeroes",
)

PLAN = Struct(
    "plan",
    "A step: its spans in batches, the rows of scalars, and what is counted when it is taken. The first "
    "n_row_inputs rows are computed, the others are taken as they are. ema_weights has how far the averages of "
    "each row move towards the parameters, computed with it where averages are kept, and random_keys what the "
    "random bits of each row come from (fastadam/step/compact.py). grad_objects has the object "
    "of each slot's gradient; the step writes memory between written_starts and written_ends, sorted and apart. "
    "Where spans may be left out, none_object is the object of a gradient that is not there, else 0. Then there "
    "is a row for each of the n_slots slots and, where averages are kept, another span, which is IDLE, with the "
    "slot n_slots further on.",
    Field("spans", points_to=SPAN.dtype),
    Field("rows", points_to=ROW.dtype),
    Field("row_inputs", points_to=ROW_INPUTS.dtype),
    "n_row_inputs",
    Field("norm", points_to=NORM.dtype),
    Field("after", points_to=AFTER.dtype),
    Field("ema_weights", points_to=FLOAT64),
    Field("batches", points_to=BATCH.dtype),
    "n_batches",
    Field("counters", points_to=COUNTER.dtype),
    "n_counters",
    Field("slots", points_to=SLOT.dtype),
    *("n_slots", "grad_objects", "none_object"),
    Field("written_starts", points_to=INT64),
    Field("written_ends", points_to=INT64),
    "n_written",
    Field("offsets", ARRAY_OFFSETS.dtype),
    Field("random_keys", points_to=INT64),
)

# Gradients in nested containers, as fastadam/work/nested.py and cext/nested.c know them.

CONTAINER = Struct(
    "container",
    "A container of a nesting: whether items are found by key, the first of its children and how many it has, and "
    "a subclass of tuple that may take its place, or 0.",
    *("is_mapping", "first", "n", "tuple_type"),
)

PENDING = Struct("pending", "A container that is to be read: its object, and its number.", "object", "number")

NESTING = Struct(
    "nesting",
    "Which containers lie in which, the outermost first, and how many leaves there are. children has a leaf's "
    "position, or ~n for the n-th container; keys are the string objects by which mappings have them; both are "
    "kept in the order of the mappings last read. pending has room for all containers, and leaves for all leaves.",
    "n",
    Field("containers", points_to=CONTAINER.dtype),
    Field("children", points_to=INT64),
    Field("keys", points_to=INT64),
    Field("pending", points_to=PENDING.dtype),
    Field("leaves", points_to=INT64),
)
