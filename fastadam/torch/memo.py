"""What an optimizer keeps for its own steps: what was asked for, and what is remembered from step to step."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastadam.groups.edits import Edits
from fastadam.step.locks import Guard
from fastadam.torch import options
from fastadam.torch.attempts import Attempts
from fastadam.torch.devices import ChosenBackends


class Settings(NamedTuple):
    """What the user asked for, beside the options in the groups."""

    backend: str = "auto"
    threads: int | None = None


class Memo:
    """All that an optimizer has beside what torch's has, in one object.

    So a wrapper that takes over an optimizer's `__dict__`, as Lightning's does, has the same settings, and changes
    those of the optimizer. Copies and pickles have the settings alone, whoever makes them: those of
    `vars(optimizer)`, too.

    Parameters
    ----------
    settings : Settings

    Attributes
    ----------
    settings : Settings
        See `set`.
    scaling : dict of str to object
        ``"grad_scale"`` and ``"found_inf"``, as far as they were set; see `fastadam.torch.scaling`.
    guard : Guard
    edits : Edits
    attempts : Attempts or None
        What the next step is attempted with.
    chosen : ChosenBackends or None
    last_step : str or None
        Which way the last step went; see `fastadam.torch.Adam`.
    version : object
        Another one after each change of `settings` or `scaling`.
    """

    __slots__ = ("attempts", "chosen", "edits", "guard", "last_step", "scaling", "settings", "version")

    def __init__(self, settings: Settings = Settings()) -> None:  # noqa: B008 - it cannot be changed
        self.settings = settings
        self.scaling: dict[str, Any] = {}
        self.guard, self.edits = Guard(), Edits(options.read)
        self.attempts: Attempts | None = None
        self.chosen: ChosenBackends | None = None
        self.last_step: str | None = None
        self.version = object()

    def __reduce__(self) -> tuple[type[Memo], tuple[Settings]]:
        return Memo, (self.settings,)

    def set(self, **settings: Any) -> None:
        """Change settings, at any time and from any thread; a step that is under way goes on with the former."""
        self.settings = self.settings._replace(**settings)
        self.changed()

    def changed(self) -> None:
        """Tell steps that the settings or the scaling are others now."""
        self.version = object()
        self.attempts = None  # after the version: see `remember`

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

    def backends(self, settings: Settings) -> ChosenBackends:
        """Return what chooses the backends that these settings ask for."""
        chosen = self.chosen
        if chosen is None or chosen.asked_for != settings.backend:
            chosen = self.chosen = ChosenBackends(settings.backend)
        return chosen
