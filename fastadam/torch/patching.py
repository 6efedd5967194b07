"""Our optimizers and clipping functions under torch's names, for libraries that nobody edits.

A place is an attribute of one of torch's modules. On the way in it may hold anything, which is remembered and put
back on the way out; what others have put there meanwhile is left, and a warning says so.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch.nn.utils import clip_grad

from fastadam.step.interrupts import in_one_go
from fastadam.step.locks import Guard
from fastadam.torch import clipping, originals
from fastadam.torch.adam import Adam
from fastadam.torch.adamw import AdamW


class _Place(NamedTuple):
    """An attribute of a module, with what belongs there."""

    module: ModuleType
    name: str
    torchs: Any
    ours: Any


_PLACES = (
    _Place(torch.optim, "Adam", originals.Adam, Adam),
    _Place(torch.optim, "AdamW", originals.AdamW, AdamW),
    # `torch.optim.adam` and `adamw`, which are modules and have functions of the same names in them.
    _Place(sys.modules[originals.Adam.__module__], "Adam", originals.Adam, Adam),
    _Place(sys.modules[originals.AdamW.__module__], "AdamW", originals.AdamW, AdamW),
    *(
        _Place(module, name, getattr(originals, name), getattr(clipping, name))
        for name in ("clip_grad_norm_", "get_total_norm", "clip_grads_with_norm_")
        for module in (torch.nn.utils, clip_grad)
        if hasattr(module, name)
    ),
)
# A pickle names a class or a function by its module, where another one stands meanwhile. So torch's own say that
# they are in `originals`, where they are found at any time.
_HOMES = {
    place.torchs: place.module.__name__
    for place in _PLACES
    if (place.torchs.__module__, place.torchs.__qualname__) == (place.module.__name__, place.name)
}

_guard = Guard()  # its lock is made anew in forked children


class _Now:
    """Who wants ours in place, and what stood there before.

    Attributes
    ----------
    asked : bool
        Whether `patch` was called, and `unpatch` not since.
    open : int
        How many contexts of `patched` are.
    before : list
        For each place, what `unpatch` puts back.
    """

    def __init__(self) -> None:
        self.asked, self.open = False, 0
        self.before = [place.torchs for place in _PLACES]


_now = _Now()


def _change(*, asked: bool | None = None, by: int = 0) -> None:
    """Note who wants ours, and exchange what follows from that, in one go.

    Parameters
    ----------
    asked : bool, optional
        By `patch` or `unpatch`; None leaves that as it is.
    by : int, default 0
        How many more contexts are open.
    """
    left: list[str] = []
    with _guard.lock:
        were = _now.asked or _now.open > 0
        asked, opened = _now.asked if asked is None else asked, _now.open + by
        calls = [
            functools.partial(setattr, _now, "asked", asked),
            functools.partial(setattr, _now, "open", opened),
        ]
        found = [getattr(place.module, place.name) for place in _PLACES]
        if (asked or opened) and not were:
            before = [
                known if each is place.ours else each
                for place, each, known in zip(_PLACES, found, _now.before, strict=True)
            ]
            calls.append(functools.partial(setattr, _now, "before", before))
            calls += [functools.partial(setattr, place.module, place.name, place.ours) for place in _PLACES]
            calls += [functools.partial(setattr, each, "__module__", originals.__name__) for each in _HOMES]
        elif not asked and not opened:  # also what others have put back after the last time
            for place, each, before_it in zip(_PLACES, found, _now.before, strict=True):
                if each is place.ours:
                    calls.append(functools.partial(setattr, place.module, place.name, before_it))
                elif were and each is not before_it:
                    left.append(f"{place.module.__name__}.{place.name}")
            calls += [functools.partial(setattr, each, "__module__", home) for each, home in _HOMES.items()]
        in_one_go(calls)
    if left:
        warnings.warn(
            f"{', '.join(left)}: something else was put there while fastadam's stood there, and is left. It may "
            f"lead to fastadam's; once it is taken away, call fastadam.torch.unpatch()",
            RuntimeWarning,
            stacklevel=3,
        )


def patch() -> None:
    """Put fastadam's `Adam`, `AdamW` and clipping functions where torch has its own, for the whole process.

    That is ``torch.optim.Adam`` and ``AdamW`` (in ``torch.optim.adam`` and ``adamw``, too), and
    ``torch.nn.utils.clip_grad_norm_`` (and in ``torch.nn.utils.clip_grad``), ``get_total_norm`` and
    ``clip_grads_with_norm_``. A second call does nothing more.

    See Also
    --------
    unpatch : Ends it.
    patched : The same within a ``with`` statement, and what to know about both.
    """
    _change(asked=True)


def unpatch() -> None:
    """End what `patch` began: put back what stood there before.

    Without a call of `patch` before, it puts torch's own back wherever fastadam's are, if they are anywhere. Where
    a context of `patched` is open, fastadam's stay until it ends.

    Warns
    -----
    RuntimeWarning
        Where somebody else has put something in such a place meanwhile: it is left.
    """
    _change(asked=False)


class _Patched(contextlib.ContextDecorator):
    """What `patched` returns; it can be entered several times."""

    def __enter__(self) -> None:
        _change(by=1)

    def __exit__(self, *raised: object) -> None:
        _change(by=-1)


def patched() -> _Patched:
    """Put fastadam's optimizers and clipping functions where torch has its own, within a ``with`` statement.

    For libraries that make their optimizers themselves. The places are those of `patch`, for all threads of the
    process.

    Returns
    -------
    context manager
        Also a decorator. Contexts can be nested, and can end in any order and by exceptions. When the last one has
        ended, and `unpatch` was called if `patch` was, everything is back where it was.

    Warns
    -----
    RuntimeWarning
        When the last one ends, where somebody else has put something in such a place meanwhile: it is left.

    Notes
    -----
    Names that were bound before stay torch's (``from torch.optim import Adam``, and an argument's default, as
    stable-baselines3's policies have one): import such a library within the context, or tell it which class to
    take. What it has bound there stays ours when the context has ended, as do optimizers that were made there.
    These are instances of torch's classes, too, and their pickles name `fastadam.torch.Adam`.

    An optimizer of torch's own that was made before goes on, and can be copied and pickled. But it is no instance
    of what ``torch.optim.Adam`` names meanwhile, and a pickle of it that was written before is read as one of
    ours.

    Examples
    --------
    >>> import torch, fastadam.torch
    >>> with fastadam.torch.patched():
    ...     optimizer = torch.optim.Adam(torch.nn.Linear(4, 2).parameters())
    >>> isinstance(optimizer, fastadam.torch.Adam), isinstance(optimizer, torch.optim.Adam)
    (True, True)
    """
    return _Patched()
