"""The attributes of `fastadam.Adam`: those that can be assigned take effect, and others are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastadam.groups.group import Group
from fastadam.groups.groups import Groups
from fastadam.groups.options import Option, assign
from fastadam.groups.state import State
from fastadam.memory.state_file import StateFile
from fastadam.step.backend import BackendName
from fastadam.step.gradient_settings import GradientSettings, Setting
from fastadam.step.hyperparameters import LearningRate, Real, Rounding, StateDtype
from fastadam.step.interrupts import in_one_go
from fastadam.step.locks import Guard
from fastadam.step.threads import check_limit
from fastadam.work.averages import Averages, Swapped
from fastadam.work.choice import Choice
from fastadam.work.planner import Planner
from fastadam.work.rows import RowSteps

# What other libraries call it.
_ALSO_CALLED = {
    **dict.fromkeys(("learning_rate", "learn_rate", "learning_rate_init", "alpha", "step_size", "stepsize"), "lr"),
    **dict.fromkeys(("beta1", "beta2", "beta_1", "beta_2", "b1", "b2"), "betas"),
    **dict.fromkeys(("epsilon", "epsilon_hat"), "eps"),
    **dict.fromkeys(("l2", "L2", "wd", "decay"), "weight_decay"),
    **dict.fromkeys(("clipnorm", "global_clipnorm", "grad_clip", "max_norm", "clip"), "max_grad_norm"),
    **dict.fromkeys(("ema_momentum", "use_ema"), "ema_decay"),
    **dict.fromkeys(("n_threads", "num_threads", "n_jobs"), "threads"),
    **dict.fromkeys(("params", "parameters", "groups"), "param_groups"),
}
# What is read only, and what to do instead.
_INSTEAD = {
    "state": "load a saved one, optimizer.load_state_dict(saved), or write into the views that it has, such as "
    "optimizer.state[0]['exp_avg'][...] = 0",
    "ema": "write into the averages that it has, such as optimizer.ema[0][...] = value",
    "grad_norm": "it is what the last step measured",
    "lazy": "what rows have missed depends on it; make a new optimizer, and load the state: new.load_state_dict("
    "old.state_dict())",
    "skipped_steps": "it counts on; note its value, and take that off later ones",
}


class Attributes:
    """The attributes; see `fastadam.Adam`, which explains them."""

    __slots__ = ()

    defaults: dict[str, Any]
    param_groups: list[dict[str, Any]]
    _averages: Averages
    _choice: Choice
    _gradient_settings: GradientSettings
    _groups: Groups
    _guard: Guard
    _planner: Planner
    _rows: RowSteps
    _state: State
    _is_closed: bool

    lr = Option[LearningRate]()
    betas = Option[tuple[Real, Real]]()
    eps = Option[Real]()
    weight_decay = Option[Real]()
    amsgrad = Option[bool]()
    maximize = Option[bool]()
    decoupled_weight_decay = Option[bool]()
    state_dtype = Option[StateDtype]()
    master_weights = Option[bool]()
    rounding = Option[Rounding]()
    seed = Option[int]()

    max_grad_norm = Setting()
    skip_nonfinite = Setting()
    error_if_nonfinite = Setting()
    ema_decay = Setting("_averages")
    ema_warmup = Setting("_averages")

    def __init_subclass__(cls, *, closed: bool = False, **options: Any) -> None:
        """Make a subclass; one of this library is `closed` for attributes that it does not know."""
        super().__init_subclass__(**options)
        cls._is_closed = closed

    if not TYPE_CHECKING:  # with one, checkers let all attributes pass

        def __setattr__(self, name: str, value: Any) -> None:
            kind = type(self)
            known = getattr(kind, name, None)
            if name in _INSTEAD and isinstance(known, property) and known.fset is None:
                raise AttributeError(f"{name} cannot be assigned; {_INSTEAD[name]}")
            if kind._is_closed:
                if not hasattr(kind, name):
                    raise AttributeError(_unknown(kind, name))
                if callable(known) and not callable(value):
                    raise AttributeError(f"{name} is a method of {kind.__name__}, and cannot be {value!r}")
            super().__setattr__(name, value)

    def _assign(self, name: str, value: Any) -> None:
        """Set an option of all groups; before there are any, it is an attribute of a subclass."""
        is_made = hasattr(self, "_groups")
        if is_made:
            assign(self._groups, self.defaults, name, value)
        if not is_made or name in self.__dict__:
            self.__dict__[name] = value

    def _no_groups(self, file: StateFile | None) -> Groups:
        """Return what the groups are entered into: where several processes share out their state, another one."""
        return Groups(file)

    def _admit(self, new: Sequence[Group]) -> None:
        """Look at groups that are about to be added, and that all others have, too."""

    def _settings_changed(self) -> None:
        self._planner.version = -1  # what is wanted of the norm may need other plans

    @property
    def state(self) -> State:
        """The moments and step counters, by position, name or array."""
        return self._state

    @property
    def backend(self) -> str:
        """Name of the backend in use."""
        return self._choice.name

    @backend.setter
    def backend(self, name: BackendName) -> None:
        with self._guard.lock:
            self._guard.refuse_while_stepping("setting backend")
            exchange = self._choice.exchange_calls(name, self._groups.members)
            in_one_go([*exchange, *self._planner.start_over_calls()])

    @property
    def threads(self) -> int | None:
        """Upper limit of threads, as it was given."""
        return self._planner.threads

    @threads.setter
    def threads(self, limit: int | None) -> None:
        check_limit(limit)
        with self._guard.lock:
            self._guard.refuse_while_stepping("setting threads")
            self._planner.threads = limit
            in_one_go(self._planner.start_over_calls())

    @property
    def grad_norm(self) -> float | None:
        """Norm of the last gradients, or None where it is not computed."""
        return self._gradient_settings.grad_norm

    @property
    def skipped_steps(self) -> int:
        """How many steps were left out."""
        return self._gradient_settings.skipped_steps

    @property
    def ema(self) -> Averages:
        """The averages of the parameters."""
        return self._averages

    def averaged(self) -> Swapped:
        """Return a context manager in which parameters and averages have changed places, for evaluation.

        ``with optimizer.averaged(): ...`` exchanges their numbers, and back when it is left, by an error too.
        The optimizer cannot be stepped, changed or saved within. Raises ValueError where no averages are kept.
        """
        return self._averages.swapped()


def _unknown(kind: type, name: str) -> str:
    """Return what to say of an attribute that is not known."""
    import difflib  # not loaded where all goes well

    public = [each for each in dir(kind) if not each.startswith("_")]
    near = [_ALSO_CALLED[name]] if name in _ALSO_CALLED else difflib.get_close_matches(name, public, 1)
    ask = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(public)}."
    return (
        f"{kind.__name__} has no attribute {name!r} that could be assigned{ask} Attributes of your own are for a "
        f"subclass: class Mine(fastadam.{kind.__name__}): ..."
    )
