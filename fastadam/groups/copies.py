"""How optimizers are copied and pickled: shallow copies share arrays, pickles must not part them from a model."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastadam.groups.given import read_params
from fastadam.groups.group import Group
from fastadam.memory.arrived import make_own
from fastadam.memory.packed import Packed
from fastadam.memory.packed_arrays import PackedArray


class Witness:
    """Goes into a pickle twice, within an array, and counts how often it is pickled.

    A pickler that keeps what is shared pickles the array once. ``joblib.dump`` makes another array of each mention
    of one: a model loaded from there has other arrays than its optimizer, whose steps would not move it.

    Parameters
    ----------
    optimizer : object
        What is pickled. By itself, with nothing else in the pickle that could have its arrays, it is let through.
    """

    __slots__ = ("_optimizer", "_times")

    def __init__(self, optimizer: Any = None) -> None:
        self._optimizer, self._times = optimizer, 0

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> Any:
        self._times += 1
        if self._times > 1 and not (_root() is self._optimizer and not vars(self._optimizer)):
            raise pickle.PicklingError(
                "this pickler (joblib.dump is one) makes separate arrays of one that is shared, so that the "
                "loaded optimizer would not step the arrays that were pickled along with it; use pickle.dump, or "
                "lay the arrays out with fastadam.pack, or pickle optimizer.state_dict() instead of the optimizer"
            )
        return Witness, ()


def with_witnesses(reduced: Any, optimizer: Any, groups: Iterable[Group]) -> Any:
    """Return what is pickled of an optimizer with an array twice, where it has arrays as plain as that one.

    Parameters
    ----------
    reduced : tuple
        What ``__reduce_ex__`` returned for it.
    optimizer : object
    groups : iterable of Group
        Its groups.
    """
    owners = (member.owner for group in groups for member in group.members)
    plain = any(isinstance(owner, np.ndarray) and not isinstance(owner, PackedArray) for owner in owners)
    make, args, state, *rest = reduced
    if not isinstance(state, dict):  # that of a subclass
        return reduced
    witness = np.empty(1, object)
    witness[0] = Witness(optimizer)
    return make, args, {**state, "witnesses": (witness, witness) if plain else ()}, *rest


def groups_again(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the group dicts from which an optimizer is made again.

    Parameters
    ----------
    state : mapping
        What ``__getstate__`` returned for it. If it was pickled or deep-copied, arrays that an unpickler made
        read-only get memory of their own (see `fastadam.memory.arrived`).
    """
    groups = [{key: value for key, value in group.items() if key != "param_names"} for group in state["groups"]]
    if "witnesses" in state:
        for group in groups:
            if not isinstance(group["params"], Packed):
                for value in read_params(group["params"], "").values:
                    make_own(value)
    return groups


def shallow_copy(optimizer: Any) -> Any:
    """Return a copy with the same arrays, and moments of its own; nothing is pickled, so no array has arrived."""
    kind: Any = type(optimizer)
    twin = kind.__new__(kind)
    twin.__setstate__(optimizer.__getstate__())
    return twin


def _root() -> Any:
    """Return what the pickler at work was given, if it is one in Python: only those can part arrays."""
    frame: Any = sys._getframe()
    while frame is not None:
        names = frame.f_locals
        if frame.f_code is pickle._Pickler.dump.__code__ and "obj" in names:
            return names["obj"]
        frame = frame.f_back
    return None
