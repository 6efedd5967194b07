"""What an optimizer keeps for its own steps: what was asked for, and what is remembered from step to step."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastadam.step.after import Averaging
from fastadam.step.backend import BackendName, Call
from fastadam.step.gradient_settings import Choices, GradientSettings
from fastadam.step.interrupts import in_one_go
from fastadam.step.locks import Guard
from fastadam.torch import options
from fastadam.torch.attempts import Attempts
from fastadam.torch.averages import Averages
from fastadam.torch.devices import ChosenBackends
from fastadam.torch.replaced import Replaced
from fastadam.torch.sparse import check_choice

# `last_step` of steps that went our way, and of those that were left out.
OURS = "fastadam"
FOUND_INF = "skipped: found_inf"
NOT_FINITE = "skipped: gradients are not finite"


class Memo:
    """All that an optimizer has beside what torch's has, in one object.

    So a wrapper that takes over an optimizer's `__dict__`, as Lightning's does, has the same settings, and changes
    those of the optimizer. Copies and pickles have the settings alone, whoever makes them: those of
    `vars(optimizer)`, too.

    Parameters
    ----------
    backend : str, default "auto"
    threads : int, optional
    choices : sequence
        The fields of `fastadam.step.gradient_settings.Choices`.
    skipped_steps : int, default 0
    averaging : sequence
        The fields of `fastadam.step.after.Averaging`.
    averages : mapping of Tensor to Tensor
        Those of parameters, to be copied.
    sparse : str, optional
        What is done with sparse gradients (see `fastadam.torch.sparse`).

    Attributes
    ----------
    backend, threads, sparse : str, int or None
        What the user asked for; whoever changes them calls `changed`.
    scaling : dict of str to object
        ``"grad_scale"`` and ``"found_inf"``, as far as they were set; see `fastadam.torch.scaling`.
    gradients : GradientSettings
        What is done about all gradients together, and what came of it.
    guard : Guard
    averages : Averages
    edits : OptionEdits
    attempts : Attempts or None
        What the next step is attempted with.
    chosen : ChosenBackends or None
    shards : fastadam.torch.shards.Shards or None
        What steps over DTensors are taken with.
    replaced : Replaced
    last_step : str or None
        Which way the last step went; see `fastadam.torch.Adam`.
    version : object
        Another one after each change of those.
    """

    __slots__ = (
        "attempts",
        "averages",
        "backend",
        "chosen",
        "edits",
        "gradients",
        "guard",
        "last_step",
        "replaced",
        "scaling",
        "shards",
        "sparse",
        "threads",
        "version",
    )

    def __init__(
        self,
        backend: BackendName = "auto",
        threads: int | None = None,
        choices: Sequence[Any] = (),
        skipped_steps: int = 0,
        averaging: Sequence[Any] = (),
        averages: Mapping[Tensor, Tensor] | None = None,
        sparse: str | None = None,
    ) -> None:
        self.backend, self.threads, self.sparse = backend, threads, sparse
        self.gradients = GradientSettings(Choices(*choices))
        self.gradients.skipped_steps = skipped_steps
        self.scaling: dict[str, Any] = {}
        self.guard, self.edits = Guard(), options.OptionEdits()
        self.averages = Averages(self.guard, Averaging(*averaging))
        if averages:
            self.averages.take_over(list(averages), list(averages.values()))
        self.attempts: Attempts | None = None
        self.chosen: ChosenBackends | None = None
        self.shards: Any = None
        self.replaced = Replaced()
        self.last_step: str | None = None
        self.version = object()

    @property
    def settings(self) -> tuple[Any, ...]:
        """What copies have in common with this one, as the class takes it."""
        gradients, averages = self.gradients, self.averages
        return (
            *(self.backend, self.threads, tuple(gradients.choices), gradients.skipped_steps),
            *(tuple(averages.choices), averages.all(), self.sparse),
        )

    def __reduce__(self) -> tuple[type[Memo], tuple[Any, ...]]:
        return Memo, self.settings

    def choose_sparse(self, sparse: str | None = None) -> None:
        """Take over what is to be done with sparse gradients, once it was checked."""
        check_choice(sparse)
        self.sparse = sparse
        self.changed()

    def changed(self) -> None:
        """Tell steps, from any thread, what was changed; one that is under way goes on with what it has read."""
        in_one_go(self.changed_calls())

    def changed_calls(self) -> list[Call]:
        """Return native calls that do what `changed` does."""
        return [
            functools.partial(setattr, self, "version", object()),
            functools.partial(setattr, self, "attempts", None),  # after the version: see `remember`
        ]

    def remember(self, attempts: Attempts | None, version: object) -> None:
        """Keep what a step has found, unless something was changed since it began.

        Parameters
        ----------
        attempts : Attempts or None
        version : object
            What `version` was before the step read the settings.
        """
        self.attempts = attempts
        if self.version is not version:  # looked at last: another thread may change it at any moment
            self.attempts = None

    def chooser(self, backend: BackendName) -> ChosenBackends:
        """Return what chooses the backends when this one is asked for."""
        chosen = self.chosen
        if chosen is None or chosen.asked_for != backend:
            chosen = self.chosen = ChosenBackends(backend)
        return chosen


@torch._disable_dynamo  # type: ignore[untyped-decorator]
def new_memo(*settings: Any) -> Memo:
    """Return one with these settings; torch.compile cannot trace what it is made of, and breaks the graph."""
    return Memo(*settings)
