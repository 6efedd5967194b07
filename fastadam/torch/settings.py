"""What can be asked for and seen of an optimizer, beside what torch's has: attributes, kept in its memo."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastadam import backends
from fastadam.groups.options import Option
from fastadam.step import threads
from fastadam.step.backend import BackendName
from fastadam.step.gradient_settings import GradientSettings, Setting
from fastadam.step.hyperparameters import Rounding, StateDtype
from fastadam.torch import scaling
from fastadam.torch.assigned import PrecisionOption, assign
from fastadam.torch.averages import Averages, AveragesView, Swapped
from fastadam.torch.compact import decoded
from fastadam.torch.memo import Memo


class Settings:
    """The attributes; see `fastadam.torch.Adam`, which explains them."""

    param_groups: list[dict[str, Any]]
    defaults: dict[str, Any]
    state: Any
    _memo: Memo

    # torch's optimizers have no attributes of these names, and would keep what is assigned, unused.
    lr = Option[float | Tensor]()
    betas = Option[tuple[float | Tensor, float | Tensor]]()
    eps = Option[float]()
    weight_decay = Option[float]()
    amsgrad = Option[bool]()
    maximize = Option[bool]()
    decoupled_weight_decay = Option[bool]()
    foreach = Option[bool | None]()
    capturable = Option[bool]()
    differentiable = Option[bool]()
    fused = Option[bool | None]()
    # Those that torch's groups do not have: they are there once one of them is given.
    state_dtype = PrecisionOption[StateDtype]()
    master_weights = PrecisionOption[bool]()
    rounding = PrecisionOption[Rounding]()
    seed = PrecisionOption[int]()
    _assign = assign

    # Where this is true, GradScaler sets these on the optimizer; else it takes the scale off before the step.
    # It is what it is in torch's, as others ask for it, too, and do not clip where it is true (Lightning).
    _step_supports_amp_scaling = property(
        lambda self: any(group.get("fused") for group in self.param_groups), lambda self, value: None
    )
    grad_scale = scaling.ScalingAttribute()
    found_inf = scaling.ScalingAttribute()

    max_grad_norm = Setting()
    skip_nonfinite = Setting()
    error_if_nonfinite = Setting()
    ema_decay = Setting("_averages")
    ema_warmup = Setting("_averages")

    @property
    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    @property
    def _gradient_settings(self) -> GradientSettings:
        return self._memo.gradients

    @property
    def _averages(self) -> Averages:
        return self._memo.averages

    def _settings_changed(self) -> None:
        self._memo.changed()  # backends may bind steps otherwise

    @property
    def grad_norm(self) -> float | None:
        """Norm of the last gradients, or None where it is not computed."""
        return self._gradient_settings.grad_norm

    @property
    def skipped_steps(self) -> int:
        """How many steps were left out."""
        return self._gradient_settings.skipped_steps

    @property
    def ema(self) -> AveragesView:
        """The averages of the parameters."""
        return AveragesView(self._averages, self.param_groups, self.state, self._memo.replaced)

    def averaged(self) -> Swapped:
        """Return a context manager in which averages are in the place of the parameters, for evaluation.

        When the block of ``with optimizer.averaged():`` is left, also by an error, the parameters have their
        numbers again. The optimizer cannot be stepped or changed within. ValueError where no averages are kept.
        """
        return Swapped(lambda: self.ema, self._memo.guard)

    def decoded_state(self, param: Tensor) -> dict[str, Any]:
        """Return the state of a parameter with copies of its tensors as numbers, however it lies in memory.

        Parameters
        ----------
        param : Tensor
            One of the optimizer's.

        Returns
        -------
        dict
            As ``state[param]``, in float32 (in float64 what is that), without scales; ``"master_param"`` has the
            whole masters of 16-bit weights. It is empty before the first step of the parameter.

        Raises
        ------
        ValueError
            If the parameter was resized.
        """
        self._memo.replaced.refuse(param)
        return decoded(param, self.state.get(param, {}))

    @property
    def backend(self) -> BackendName:
        """Name of the backend that was asked for."""
        return self._memo.backend

    @backend.setter
    def backend(self, name: BackendName) -> None:
        backends.choose(name)
        self._memo.backend = name
        self._memo.changed()

    @property
    def threads(self) -> int | None:
        """Upper limit of threads that was asked for."""
        return self._memo.threads

    @threads.setter
    def threads(self, limit: int | None) -> None:
        threads.check_limit(limit)
        self._memo.threads = limit
        self._memo.changed()

    @property
    def sparse(self) -> str | None:
        """What is done with sparse gradients; as the argument of the constructor."""
        return self._memo.sparse

    @sparse.setter
    def sparse(self, choice: str | None) -> None:
        self._memo.choose_sparse(choice)

    @property
    def last_step(self) -> str | None:
        """Which way the last step went."""
        return self._memo.last_step
