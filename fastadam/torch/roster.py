"""What the last steps found out about an optimizer's torch tensors, so that the next one is a single native call.

Everything in it may go stale between two steps: each step compares it with the objects as they are, and where
something has changed, nothing is written and the careful way (fastadam/torch/staging.py) finds out anew.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastadam.memory.arrays import Array, address
from fastadam.memory.structs import COUNTER, COUNTER_FLOAT32, COUNTER_FLOAT64, SPAN
from fastadam.step import threads
from fastadam.step.backend import Backend
from fastadam.step.coefficients import Coefficients
from fastadam.step.counters import counters_in
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.plan import MOMENTS, Plan
from fastadam.step.variants import variants_of
from fastadam.torch.staging import Part, shares
from fastadam.torch.tensor_offsets import MOST_DIMS, TENSOR_HEADERS, fingerprint, read_again, words
from fastadam.torch.tensors import Tensor, apart, count_reals, dlpack_device, dlpack_dtype, format_code, in_order

# The structs of cext/tensors.h.
ENTRY = words(
    "param_object",
    "state_object",
    "step_object",
    *(f"{name}_object" for name in MOMENTS),
    "prints",
    "param",
    "step",
    *MOMENTS,
    "ndim",
    "dims",
    "dtype",
    "device",
    "size",
    "nbytes",
    "step_is_float64",
)
_ROSTER_WORDS = words(
    "read_tensor",
    "tensor_type",
    "parameter_type",
    "none_object",
    "grad_name",
    "state_names",
    "is_neg",
    "is_conj",
    "state_object",
    "n_state",
    "state_keys",
    "state_values",
    "lists",
    "n_lists",
    "entries",
    "n",
    "present",
    "steps",
    "grads",
    "hints",
    "n_hints",
)
ROSTER = np.dtype([*_ROSTER_WORDS.descr, ("headers", TENSOR_HEADERS)])
LINEUP = words("plan", "span_of", "taken")

# What the attempt at a step may find.
TAKEN, CHANGED, OTHER_GRADIENTS, OTHER_STEPS, NEEDS_CARE = range(5)
# Lineups kept, by which parameters have a gradient.
MOST_LINEUPS = 16
MOST_ATTEMPTS = 4


# Addresses that reading a parameter will probably touch, for cext/tensors.c to fetch ahead of time: five that it
# fills in itself, of the gradient, then those of the keys of the state's dict.
LINE = 64
GRADIENT_HINTS = 5
KEYS_HINTS = 3
LOWEST = 1 << 32  # smaller words are numbers, not addresses
PRINTS = 5  # of the parameter, the step counter and the moments


def _keys_hints(state: dict[Any, Any]) -> list[int]:
    """Return where the keys of a dict probably are: the last word in it that looks like an address."""
    memory = (ctypes.c_size_t * (dict.__basicsize__ // 8)).from_address(id(state))
    keys = next((word for word in memory[:1:-1] if word > LOWEST), 0)
    return [keys + LINE * line for line in range(KEYS_HINTS)]


class Seen(NamedTuple):
    """A known parameter, as Python compares it."""

    objects: tuple[int, ...]  # of the state dict, the step counter and the moments
    step: int
    places: tuple[int, ...]  # of the parameter and the moments
    device: Any
    like: Tensor  # an empty-handed twin: shape, strides and dtype on the meta device


class Lineup:
    """The parameters that have a gradient, as a plan.

    Parameters
    ----------
    roster : Roster
    active : ndarray of bool
        Which parameters; all of them are known to the roster.
    backends : mapping of int or None to Backend
        For each CUDA device, and for the host.
    limit : int
        Upper limit of threads.
    limit_given : bool
        Whether the user asked for that many.

    Attributes
    ----------
    params : list of tensor
    backend : Backend or None
        What runs the plan, if it is one for all.
    devices : list of Backend
        Those of CUDA devices, whose streams are to be set before a step.
    span_of : ndarray of int64
        Place in the plan of each of the roster's parameters, or -1.
    taken : ndarray of float64
        How many steps the members of each row have taken.
    memory : ndarray of LINEUP, shape ()
    """

    def __init__(
        self,
        roster: Roster,
        active: Array,
        backends: Mapping[int | None, Backend],
        limit: int,
        limit_given: bool,
    ) -> None:
        self._coefficients = roster.coefficients
        which = np.flatnonzero(active)
        self.which = which.tolist()
        params = roster.params()
        self.params = [params[i] for i in self.which]
        entries = roster.entries[which]
        self._groups = roster.group_of[which]
        spans = np.zeros(len(which), SPAN.dtype)
        for name in ("param", *MOMENTS, "size"):
            spans[name] = entries[name]
        flags = np.array([(hyper.l2_on, hyper.amsgrad) for hyper in roster.hypers])[self._groups]
        variants = variants_of(roster.formats[which], flags[:, 0], flags[:, 1])
        # As many rows as there could ever be, so that they stay where they are. No counter is NaN, so that the
        # first attempt groups the rows.
        self.taken = np.full(len(which), np.nan)
        step_counters = counters_in(self.taken)
        counters = np.zeros(len(which), COUNTER.dtype)
        counters["address"] = entries["step"]
        counters["type"] = np.where(entries["step_is_float64"], COUNTER_FLOAT64, COUNTER_FLOAT32)
        ordinals = [roster.ordinals[i] for i in self.which]
        used, backend_of = shares(ordinals, backends)
        self.backend = used[0] if len(used) == 1 else None
        self.devices: list[Any] = [backends[each] for each in set(ordinals) - {None}]
        self.plan = Plan(
            spans,
            variants,
            step_counters,
            np.concatenate([counters, step_counters]),
            used,
            limit,
            limit_given,
            backend_of,
        )
        self.limit = limit
        # Too small for a second thread, whatever the limit.
        most = int(self.plan.batches["elements"].max())
        self.is_serial = threads.threads_for(most, threads.MOST) == 1
        self.span_of = np.full(len(active), -1, np.int64)
        self.span_of[which[self.plan.order]] = np.arange(len(which))
        fences = in_order(extent for i in self.which for extent in roster.extents[i])
        self.is_apart = apart(fences)
        starts, ends = np.array(fences, np.int64).reshape(-1, 2).T.copy()
        self.fences = starts, ends
        self.plan.set_written(*self.fences)
        self._row_groups: list[int] = []
        self.memory = np.zeros((), LINEUP)
        self.memory["plan"], self.memory["span_of"] = self.plan.memory.address, address(self.span_of)
        self.memory["taken"] = address(self.taken)
        self.native: Any = None  # kept by the reader

    def group_rows(self, steps: Array) -> bool:
        """Give a row of coefficients to each distinct pair of group and step counter.

        Returns
        -------
        bool
            Whether all counters are numbers that one can count on from.
        """
        if not np.all((steps[self.which] >= 0) & (steps[self.which] < 2**53)):
            return False
        keys = np.stack([self._groups, steps[self.which]])
        distinct, row_of = np.unique(keys, axis=1, return_inverse=True)
        self.taken.fill(np.nan)  # an interrupt on the way leaves rows that the next attempt groups anew
        self.plan.memory["n_counters"] = len(self.which) + distinct.shape[1]
        self.plan.spans["row"] = row_of.reshape(-1)[self.plan.order]
        self._row_groups = distinct[0].astype(int).tolist()
        self.write_options()
        self.taken[: distinct.shape[1]] = distinct[1]
        return True

    def write_options(self) -> None:
        """Take over the groups' options."""
        if self._row_groups:
            self.plan.write_options([self._coefficients[group] for group in self._row_groups])


class Roster:
    """All parameters of an optimizer.

    Parameters
    ----------
    groups : sequence of dict
        The optimizer's `param_groups`.
    state : dict
        Its `state`.
    headers : tuple of int or None
        See `fastadam.torch.tensor_offsets`.

    Attributes
    ----------
    lists : list of list
        The groups' lists of parameters, the live objects.
    known : ndarray of bool
        Which parameters have an entry that can be stepped.
    present, steps : ndarray of uint8, ndarray of float64
        Filled by an attempt at a step: which gradients there are, and the step counters.
    hypers, coefficients : list
        Of each group; see `accept`.
    memory : ndarray of ROSTER, shape ()
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], state: dict[Any, Any], headers: tuple[int, ...] | None
    ) -> None:
        self.lists: list[list[Tensor]] = [group["params"] for group in groups]
        self.state = state
        self.param_ids = [id(param) for param in self.params()]
        n = len(self.param_ids)
        self.group_of = np.repeat(np.arange(len(self.lists)), [len(each) for each in self.lists])
        self.entries = np.zeros(n, ENTRY)
        self.entries["param_object"] = self.param_ids
        self.known = np.zeros(n, bool)
        self.formats = np.zeros(n, np.int64)
        self.ordinals: list[int | None] = [None] * n  # of each one's CUDA device
        self.seen: dict[int, Seen] = {}
        self.extents: dict[int, list[tuple[int, int]]] = {}
        self._dims: dict[int, Array] = {}
        self._headers = headers
        self._layouts: weakref.WeakValueDictionary[bytes, Array] = weakref.WeakValueDictionary()
        self._layouts_of: dict[int, list[Array]] = {}
        self.present = np.zeros(n, np.uint8)
        self.steps = np.zeros(n)
        self.hypers: list[Hyperparameters] = []
        self.coefficients: list[Coefficients] = []
        self._lineups: dict[bytes, Lineup] = {}
        self.lineup: Lineup | None = None
        self._arrays: dict[str, Array] = {
            "entries": self.entries,
            "present": self.present,
            "steps": self.steps,
            "grads": np.zeros(n, np.int64),
            "hints": np.zeros((n, GRADIENT_HINTS + KEYS_HINTS), np.int64),
            "lists": np.array([(id(each), len(each)) for each in self.lists], np.int64),
        }
        self.memory = np.zeros((), ROSTER)
        if headers is not None:
            self.memory["headers"] = headers
            sizes = self.memory["headers"]
            words_each = 3 + (sizes["ndim"] - sizes["first"] + sizes["storage_size"] - sizes["storage_data"]) // 8
            self._prints = np.zeros((n, PRINTS, words_each), np.int64)
        self.memory["state_object"], self.memory["n"] = id(state), n
        self.memory["n_lists"], self.memory["n_hints"] = len(self.lists), GRADIENT_HINTS + KEYS_HINTS
        self.note([])

    def params(self) -> list[Tensor]:
        """Return the parameters as they are in the groups now."""
        return [param for each in self.lists for param in each]

    def is_about(self, groups: Sequence[dict[str, Any]], state: dict[Any, Any]) -> bool:
        """Whether these are the containers and parameters that the roster was made for."""
        return (
            state is self.state
            and len(groups) == len(self.lists)
            and all(group["params"] is each for group, each in zip(groups, self.lists, strict=True))
            and [id(param) for param in self.params()] == self.param_ids
        )

    def note(self, parts: Sequence[Part]) -> None:
        """Take up parts that can be stepped where they lie."""
        for part in parts:
            i, param = part.position, part.param
            objects = (id(part.state), id(part.step), *map(id, part.moments))
            places = tuple(low for low, _ in part.extents)
            dims = self._dims[i] = np.array([*param.shape, *param.stride()], np.int64)
            unused = [0] * (len(MOMENTS) - len(part.moments))
            row = (  # in the order of ENTRY
                *(id(param), *objects, *unused, self._print(i, part)),
                *(places[0], part.step.data_ptr(), *places[1:], *unused),
                *(param.dim(), address(dims), dlpack_dtype(param), dlpack_device(param)),
                *(count_reals(param), param.numel() * param.element_size(), part.step.element_size() == 8),
            )
            self.entries[i] = row
            self.formats[i], self.ordinals[i] = format_code(param), part.ordinal
            self.extents[i] = part.extents
            like = param.new_empty_strided(param.shape, param.stride(), device="meta")
            self.seen[i] = Seen(objects, part.step.data_ptr(), places, param.device, like)
            self.known[i] = True
            self._arrays["hints"][i, GRADIENT_HINTS:] = _keys_hints(part.state)
        self._arrays["state_keys"] = np.array([id(key) for key in self.state], np.int64)
        self._arrays["state_values"] = np.array([id(value) for value in self.state.values()], np.int64)
        self.memory["n_state"] = len(self.state)
        for name, array in self._arrays.items():
            self.memory[name] = address(array)
        self.forget_lineups()

    def _print(self, i: int, part: Part) -> int:
        """Keep what tells whether a part's tensors are what they were; return where, or 0."""
        if self._headers is None or part.param.dim() > MOST_DIMS or not part.param.numel():
            return 0
        layouts = []
        for row, tensor in zip(self._prints[i], (part.param, part.step, *part.moments), strict=False):
            found = fingerprint(tensor, self._headers)
            # torch keeps tensors on devices in the same structs, but the samples were on the CPU.
            if part.ordinal is not None and read_again(tensor, self._headers) != found:
                return 0
            layout = self._layouts.get(found.layout)
            if layout is None:
                layout = self._layouts[found.layout] = np.frombuffer(found.layout, np.int64)
            layouts.append(layout)
            row[0], row[1] = found.numbers[0], address(layout)
            row[2:] = np.frombuffer(found.own + found.owner, np.int64)
        self._layouts_of[i] = layouts
        return address(self._prints[i])

    def state_is_same(self) -> bool:
        """Whether the state holds the dicts that it held, under the same keys."""
        noted = [self._arrays["state_keys"].tolist(), self._arrays["state_values"].tolist()]
        return noted == [[id(key) for key in self.state], [id(value) for value in self.state.values()]]

    def forget_lineups(self) -> None:
        """Have lineups made anew: entries, threads or the backend have changed."""
        self._lineups.clear()
        self.lineup = None

    def line_up(
        self, active: Array, backends: Mapping[int | None, Backend], limit: int, limit_given: bool
    ) -> bool:
        """Take the parameters that are `active` from now on; return whether they can be stepped in one call."""
        if not active.any() or not self.known[active].all():
            return False
        key = active.tobytes()
        if key not in self._lineups:
            if len(self._lineups) >= MOST_LINEUPS:
                self._lineups.clear()
            self._lineups[key] = Lineup(self, active, backends, limit, limit_given)
        self.lineup = self._lineups[key]
        return self.lineup.is_apart

    def accept(self, hypers: list[Hyperparameters]) -> None:
        """Take over checked options of all groups, which the same compiled variants serve."""
        self.hypers = hypers
        self.coefficients[:] = [Coefficients(hyper) for hyper in hypers]
        for lineup in self._lineups.values():
            lineup.write_options()
