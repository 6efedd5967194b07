"""Where the parts of a torch tensor lie in memory, for native code that compares thousands of tensors per step.

Reading a tensor through DLPack takes about 60 ns, and each step has to know of five tensors per parameter whether
they are what they were. The bytes of the object behind a tensor (torch calls it TensorImpl) tell that in a few
nanoseconds: if they, and the address and size in its storage, are the same as when the tensor was last looked at
through its methods, then so is everything about it.

That layout is no interface of torch. So nothing is assumed: the offsets are found by comparing memory with what
the methods of sample tensors say, starting from the addresses that torch itself gives (``_cdata``), and they are
used only after every kind of change to a tensor has been seen to show in those bytes. Where anything is not as
expected, the answer is None, and native code goes through DLPack.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadam.memory.tensor_structs import TensorOffsets
from fastadam.torch.fingerprints import MOST_DIMS, WORD, fingerprint, read_again, words_at

MOST_BYTES = 256  # of a TensorImpl that are searched
# Bytes that are not in use may hold anything, so a search can fail by chance.
ATTEMPTS = 5
PAIRS = 8
# What a part of torch raises that is gone or means something else; not what a signal handler may raise meanwhile.
UNEXPECTED = (AttributeError, IndexError, RuntimeError, StopIteration, TypeError, ValueError)


@functools.cache
def tensor_offsets() -> TensorOffsets | None:
    """Return where the parts of tensors lie in this process, or None where that cannot be relied on."""
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != WORD:
        return None
    for _ in range(ATTEMPTS):
        # Whatever modes are on where a first step is taken.
        with (
            contextlib.suppress(*UNEXPECTED),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.device("cpu"),
        ):
            samples = [
                torch.empty(11, 13, 17, dtype=torch.float32),
                torch.empty(23, 19, dtype=torch.float64)[2:],
                torch.nn.Parameter(torch.empty(29, 7, 5, 3, dtype=torch.float32).permute(3, 1, 0, 2)),
            ]
            (offsets,) = {_find(sample) for sample in samples}
            if offsets is not None and _notices_every_change(offsets):
                return offsets
    return None  # a part of torch that is used here is gone, or means something else


def _find(sample: Tensor) -> TensorOffsets | None:
    """Return the offsets at which the parts of a sample are, or None if they are not where they can be used."""

    def offset_of(wanted: list[int], address: int, stop: int, start: int = 0) -> int:
        memory = words_at(address, stop // WORD)
        return next(
            WORD * i
            for i in range(start // WORD, len(memory))
            if memory[i : i + len(wanted)] == [value % 2**64 for value in wanted]
        )

    impl, storage = sample._cdata, sample.untyped_storage()
    object_impl = offset_of([impl], id(sample), type(sample).__basicsize__, object.__basicsize__)
    first = offset_of([storage._cdata], impl, MOST_BYTES)
    storage_data = offset_of([storage.data_ptr()], storage._cdata, 64)
    storage_size = offset_of([storage.nbytes()], storage._cdata, 96)
    ndim = offset_of([sample.dim(), *sample.shape], impl, MOST_BYTES)
    sizes = ndim + WORD
    strides = offset_of(list(sample.stride()), impl, MOST_BYTES, sizes)
    offset = sizes + 2 * MOST_DIMS * WORD
    if words_at(impl + offset, 1) != [sample.storage_offset()]:
        return None
    start, end = offset // WORD + 1, offset // WORD + 4
    keys, negated = _differing_bit(sample, torch._neg_view, start, end)
    complex_sample = torch.empty(5, 3, dtype=torch.complex64)
    also_keys, conjugated = _differing_bit(complex_sample, torch.Tensor.conj, start, end)
    (zero_keys,) = words_at(torch._efficientzerotensor((5, 3))._cdata + keys, 1)
    all_zero = zero_keys & ~words_at(impl + keys, 1)[0]
    if keys != also_keys or all_zero.bit_count() != 1 or not 0 < storage_size - storage_data <= 8 * WORD:
        return None
    if strides != sizes + MOST_DIMS * WORD or first >= ndim:
        return None
    return TensorOffsets(
        object_impl=object_impl,
        first=first,
        length=keys + WORD - first,
        ndim=ndim,
        sizes=sizes,
        strides=strides,
        offset=offset,
        keys=keys,
        storage_data=storage_data,
        storage_size=storage_size,
        views=negated | conjugated | all_zero,
    )


def _differing_bit(sample: Tensor, change: Callable[[Tensor], Tensor], start: int, end: int) -> tuple[int, int]:
    """Return the offset of the word in which a tensor and a changed view of it differ by one bit, and that bit.

    The last field of a TensorImpl says what a tensor is, with a bit for each property.
    """
    bits = []
    for _ in range(PAIRS):
        plain, changed = sample.detach(), change(sample.detach())
        pair = zip(words_at(plain._cdata, end + 1), words_at(changed._cdata, end + 1), strict=True)
        bits.append([a ^ b for a, b in pair])
    ((where, bit),) = (
        (WORD * i, bits[0][i])
        for i in range(start, end + 1)
        if bits[0][i].bit_count() == 1 and len({each[i] for each in bits}) == 1
    )
    return where, bit


def _notices_every_change(offsets: TensorOffsets) -> bool:
    """Whether each way of changing a tensor shows, and a step of training does not."""

    def sample() -> Tensor:
        return torch.arange(96, dtype=torch.float32).reshape(2, 3, 2, 2, 4)

    def assign(value: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
        return lambda tensor: setattr(tensor, "data", value(tensor))

    changes: list[Callable[[Tensor], Any]] = [
        assign(lambda tensor: tensor.clone()),
        assign(lambda tensor: tensor.double()),
        assign(lambda tensor: tensor.bfloat16()),
        assign(lambda tensor: tensor.view(torch.int32)),
        assign(lambda tensor: tensor[1:]),
        assign(lambda tensor: tensor.transpose(3, 4)),
        assign(lambda tensor: tensor.view(2, 3, 2, 4, 2)),
        assign(lambda tensor: tensor.flatten()),
        assign(lambda tensor: torch._neg_view(tensor)),
        assign(lambda tensor: tensor.expand(2, 3, 2, 2, 4).as_strided((2, 3, 2, 2, 4), (0, 0, 0, 0, 1))),
        lambda tensor: tensor.transpose_(0, 4),
        lambda tensor: tensor.unsqueeze_(0),
        lambda tensor: tensor.resize_(2, 3, 2, 2, 5),
        lambda tensor: tensor.resize_(1, 3, 2, 2, 4),
        lambda tensor: tensor.set_(torch.zeros(3)),
        lambda tensor: tensor.set_(tensor.untyped_storage(), 4, (2, 3, 2, 2, 2)),
        lambda tensor: tensor.untyped_storage().resize_(0),
        lambda tensor: tensor.untyped_storage().resize_(16),
        lambda tensor: tensor.untyped_storage().resize_(1 << 20),
        lambda tensor: torch.utils.swap_tensors(tensor, torch.zeros(2, 3, 2, 2, 4)),
    ]
    copies = []
    if hasattr(torch, "_lazy_clone"):  # a copy that shares the memory until either is written to
        changes.append(lambda tensor: copies.append(torch._lazy_clone(tensor)))
    for change in changes:
        seen = 0
        for tensor in (sample(), torch.nn.Parameter(sample())):
            noted = fingerprint(tensor, offsets)
            if read_again(tensor, offsets) != noted:
                return False
            try:
                with torch.no_grad():
                    change(tensor)
            except RuntimeError:  # torch allows it for the other one only
                continue
            if read_again(tensor, offsets) == noted:
                return False
            seen += 1
        if not seen:
            return False
    conjugate = torch.zeros(3, dtype=torch.complex64)
    noted = fingerprint(conjugate, offsets)
    conjugate.data = conjugate.data.conj()
    if read_again(conjugate, offsets) == noted:
        return False
    param, moment = torch.nn.Parameter(sample()), sample()
    param.sum().backward()
    before = [fingerprint(tensor, offsets) for tensor in (param, moment)]
    param.grad = None
    (param * 2).sum().backward()
    with torch.no_grad():
        param.add_(1)
        moment.add_(param.grad)
    return [read_again(tensor, offsets) for tensor in (param, moment)] == before
