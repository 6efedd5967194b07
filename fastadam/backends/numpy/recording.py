"""Formulas as lists of native calls: what Python functions do with numbers, written down once, to be replayed.

A formula is called with `Value` objects in the place of numbers. Each operation adds one call to a list, in the
order in which they were made; `Program` then decides where each result lies. So the formula stays written once,
while a step is native calls alone, with nothing of Python in between.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

Dtype = np.dtype[Any]
BOOL, UINT16, UINT32, FLOAT32 = (np.dtype(each) for each in (np.bool_, np.uint16, np.uint32, np.float32))
# ``(numbers, 1, None, output)``: the largest one of each row, as a column. It is native code, too.
LARGEST_OF_ROWS = functools.partial(np.maximum.reduce, keepdims=True)


class Constant(NamedTuple):
    """A number that the formula itself holds, as an array without dimensions."""

    value: Any


class Place(NamedTuple):
    """Where an operand is found.

    Attributes
    ----------
    kind : str
        ``"array"``, one of the arrays that are stepped; ``"scalar"``, one of the step's scalars; ``"fixed"``, what
        is the same in every step; or ``"room"``, scratch memory.
    which : str or int
        The name of the array or the scalar, or the number of the room.
    dtype : dtype
        How its memory is seen.
    by_block : bool
        Whether there is one number for each block.
    """

    kind: str
    which: Any
    dtype: Dtype
    by_block: bool = False


class Call(NamedTuple):
    """One native call: a ufunc, or with `function` None a copy, which converts.

    Attributes
    ----------
    function : callable or None
        A ufunc, or `LARGEST_OF_ROWS`.
    inputs : tuple of Place or Constant
    output : Place
    """

    function: Any
    inputs: tuple[Place | Constant, ...]
    output: Place


class Value:
    """A number in a formula; what is done with it is written down.

    Parameters
    ----------
    recorder : Recorder
    slot : int
        Which result, array or scalar it is.
    dtype : dtype
        How it is seen: one slot may be seen in several dtypes of the same width.
    by_block : bool, default False
        Whether there is one for each block of a chunk.
    """

    __slots__ = ("by_block", "dtype", "recorder", "slot")

    def __init__(self, recorder: Recorder, slot: int, dtype: Dtype, by_block: bool = False) -> None:
        self.recorder, self.slot, self.dtype, self.by_block = recorder, slot, dtype, by_block

    def seen_as(self, dtype: Dtype) -> Value:
        """Return the number that has the same bits in another dtype of the same width."""
        return Value(self.recorder, self.slot, dtype, self.by_block)

    def converted(self, dtype: Dtype) -> Value:
        """Return the number in another dtype; itself where it is of that dtype."""
        return self if dtype == self.dtype else self.recorder.note(None, dtype, self)

    def _with(self, function: Any, other: Value | Constant, dtype: Dtype | None = None) -> Value:
        return self.recorder.note(function, dtype or self.dtype, self, other)

    def __add__(self, other: Value | Constant) -> Value:
        return self._with(np.add, other)

    def __sub__(self, other: Value | Constant) -> Value:
        return self._with(np.subtract, other)

    def __truediv__(self, other: Value | Constant) -> Value:
        return self._with(np.divide, other)

    def __neg__(self) -> Value:
        return self.recorder.note(np.negative, self.dtype, self)

    def __mul__(self, other: Value | Constant) -> Value:
        return self._with(np.multiply, other)

    def __and__(self, other: Value | Constant) -> Value:
        return self._with(np.bitwise_and, other)

    def __or__(self, other: Value | Constant) -> Value:
        return self._with(np.bitwise_or, other)

    def __lshift__(self, other: Value | Constant) -> Value:
        return self._with(np.left_shift, other)

    def __rshift__(self, other: Value | Constant) -> Value:
        return self._with(np.right_shift, other)

    def __ge__(self, other: Value | Constant) -> Value:
        return self._with(np.greater_equal, other, BOOL)

    def __gt__(self, other: Value | Constant) -> Value:
        return self._with(np.greater, other, BOOL)

    def __lt__(self, other: Value | Constant) -> Value:
        return self._with(np.less, other, BOOL)

    def __eq__(self, other: Any) -> Value:  # type: ignore[override]
        return self._with(np.equal, other, BOOL)

    def __ne__(self, other: Any) -> Value:  # type: ignore[override]
        return self._with(np.not_equal, other, BOOL)

    __hash__ = None  # type: ignore[assignment]


class Recorder:
    """Writes down the calls of a formula."""

    def __init__(self) -> None:
        self.given: dict[int, tuple[str, str]] = {}  # kind and name of slots that come from outside
        self.calls: list[tuple[Any, tuple[Value | Constant, ...], Value]] = []
        self._n_slots = 0

    def _new(self, dtype: Dtype, by_block: bool = False) -> Value:
        self._n_slots += 1
        return Value(self, self._n_slots - 1, dtype, by_block)

    def take_in(self, kind: str, name: str, dtype: Dtype, by_block: bool = False) -> Value:
        """Return an array, or a scalar, that comes from outside."""
        value = self._new(dtype, by_block)
        self.given[value.slot] = kind, name
        return value

    def note(self, function: Any, dtype: Dtype, *operands: Value | Constant) -> Value:
        """Write down a call, and return what it will return."""
        arrays = [each for each in operands if isinstance(each, Value) and not self._is_scalar(each)]
        result = self._new(dtype, all(each.by_block for each in arrays) if arrays else False)
        self.calls.append((function, operands, result))
        return result

    def _is_scalar(self, value: Value) -> bool:
        return value.slot in self.given and self.given[value.slot][0] == "scalar"

    def largest_of_blocks(self, numbers: Value) -> Value:
        """Return the largest number of each block."""
        result = self._new(numbers.dtype, by_block=True)
        self.calls.append((LARGEST_OF_ROWS, (numbers, Constant(1), Constant(None)), result))
        return result

    def operation(self, function: Any) -> Callable[..., Value]:
        """Return a ufunc of one or two numbers, which returns one of their dtype, as a function of values."""
        return lambda *operands: self.note(function, operands[-1].dtype, *operands)

    def mask(self, condition: Value, dtype: Dtype) -> Value:
        """Return all ones where a condition holds, else none."""
        return self.note(np.negative, dtype, condition.converted(dtype))

    def select(self, condition: Value, yes: Value | Constant, no: Value | Constant) -> Value:
        """Return one of two numbers, bit by bit: what NumPy offers for it is no ufunc, or runs through Python."""
        dtype = yes.dtype if isinstance(yes, Value) else no.dtype if isinstance(no, Value) else no.value.dtype
        bits = np.dtype(f"u{dtype.itemsize}")
        first, second = _seen_as(yes, bits), _seen_as(no, bits)
        mask = self.mask(condition, bits)
        if isinstance(first, Constant) and isinstance(second, Constant):
            differing: Value | Constant = Constant(np.bitwise_xor(second.value, first.value))
        else:
            differing = self.note(np.bitwise_xor, bits, second, first)
        chosen = self.note(np.bitwise_xor, bits, self.note(np.bitwise_and, bits, differing, mask), second)
        return chosen.seen_as(dtype)


def _seen_as(number: Value | Constant, dtype: Dtype) -> Value | Constant:
    return number.seen_as(dtype) if isinstance(number, Value) else Constant(number.value.view(dtype))


class Program:
    """The calls of a formula, with a place for each result.

    Parameters
    ----------
    recorder : Recorder
    results : mapping of str to Value
        What is written to the arrays of these names, in the dtype in which they lie in memory.

    Attributes
    ----------
    calls : list of Call
    rooms : list of int
        How many bytes wide a number in each room of scratch memory is.
    """

    def __init__(self, recorder: Recorder, results: Mapping[str, Value]) -> None:
        self.calls: list[Call] = []
        self.rooms: list[int] = []
        self._free: dict[int, list[int]] = {}
        self._given = recorder.given
        self._places: dict[int, tuple[str, Any]] = dict(recorder.given)
        calls = recorder.calls
        target_of = {value.slot: name for name, value in results.items()}
        slot_of = {name: slot for slot, (_, name) in recorder.given.items()}
        # After which call each slot is not needed any more.
        last_use = {value.slot: len(calls) for value in results.values()}
        for i, (_, inputs, _) in enumerate(calls):
            for each in inputs:
                if isinstance(each, Value):
                    last_use[each.slot] = max(last_use.get(each.slot, 0), i)
        for i, (function, inputs, result) in enumerate(calls):
            places = tuple(self._place(each) if isinstance(each, Value) else each for each in inputs)
            # A call may write where it reads, if the numbers lie at the same places.
            done = {
                each.slot: each.by_block for each in inputs if isinstance(each, Value) and last_use[each.slot] == i
            }
            for slot, by_block in done.items():
                if by_block == result.by_block:
                    self._give_back(slot)
            target = target_of.get(result.slot)
            if target is not None and last_use.get(slot_of[target], 0) <= i:
                self._places[result.slot] = "array", target
            else:
                self._places[result.slot] = "room", self._take(result.dtype.itemsize)
            for slot, by_block in done.items():
                if by_block != result.by_block:
                    self._give_back(slot)
            self.calls.append(Call(function, places, self._place(result)))
        for name, value in results.items():
            if self._places[value.slot] != ("array", name):
                output = Place("array", name, value.dtype, value.by_block)
                self.calls.append(Call(None, (self._place(value),), output))

    def _place(self, value: Value) -> Place:
        return Place(*self._places[value.slot], value.dtype, value.by_block)

    def _take(self, width: int) -> int:
        free = self._free.setdefault(width, [])
        if free:
            return free.pop()
        self.rooms.append(width)
        return len(self.rooms) - 1

    def _give_back(self, slot: int) -> None:
        kind, which = self._places[slot]
        if kind == "room":
            self._free[self.rooms[which]].append(which)

    def replay(self, columns: Callable[[Place | Constant], Iterable[Any]]) -> Iterable[Any]:
        """Return an iterator that makes all calls natively, for one chunk after the other.

        Parameters
        ----------
        columns : callable
            Returns what stands in a place in each chunk: a native iterable, of as many items as there are chunks.

        Notes
        -----
        `zip` asks its iterators one after the other, and each of them makes one call when it is asked.
        """
        made = []
        for function, inputs, output in self.calls:
            if function is None:
                made.append(map(operator.setitem, columns(output), columns(Constant(...)), columns(inputs[0])))
            else:
                made.append(map(function, *map(columns, inputs), columns(output)))
        return zip(*made, strict=False)
