"""The optimizers for PyTorch: torch's own, with another step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from fastadam.memory.structs import CHANGED, SKIPPED, TAKEN
from fastadam.step.after import Averaging, asked_for
from fastadam.step.gradient_settings import Choices
from fastadam.torch import scaling, shards
from fastadam.torch.cache import get_grad
from fastadam.torch.compiled import outside_of_graphs
from fastadam.torch.growth import Growth
from fastadam.torch.loading import carried, unpack
from fastadam.torch.memo import NOT_FINITE, OURS, new_memo
from fastadam.torch.modes import in_grad_mode
from fastadam.torch.options import complete, precision_asked_for
from fastadam.torch.quick import attempt
from fastadam.torch.refused import BY_POSITION, refuse_arguments, refuse_group
from fastadam.torch.saving import split, with_averages
from fastadam.torch.settings import Settings
from fastadam.torch.signatures import as_given, taken, with_choices
from fastadam.torch.sparse import SparseChoice
from fastadam.torch.zeroing import zero_calls

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT

    from fastadam.step.hyperparameters import Rounding, StateDtype

Loss = TypeVar("Loss")


class Adam(Growth, Settings, torch.optim.Adam):  # type: ignore[misc]
    r"""torch.optim.Adam with another step: the same constructor, state and results, less time.

    A drop-in on the CPU and on CUDA devices, also for parameters on several of them, of any layout in float32,
    float64, bfloat16, float16, complex64 and complex128. Learning-rate schedulers, `torch.amp.GradScaler`, hooks,
    copies and pickles work as they do with torch's own, and state dicts go both ways.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor) or of dict
        As in torch.
    lr : float or Tensor, default 1e-3
        Learning rate.
    betas : pair of float or Tensor, default (0.9, 0.999)
        Decay rates of the two moments.
    eps : float, default 1e-8
        Added to the denominator, outside the root and after bias correction.
    weight_decay : float, default 0
        Added to the gradient as ``weight_decay * param``; see `decoupled_weight_decay`.
    amsgrad : bool, default False
        Divide by the running maximum of the second moment.
    foreach, fused : bool, optional
        Kept in the groups and in state dicts; our own steps have one implementation, whatever they say.
    maximize : bool, default False
        Go up the gradient.
    capturable, differentiable : bool, default False
        True hands the steps over to torch's own code: the first is for CUDA graphs, the second for autograd
        through the step.
    decoupled_weight_decay : bool, default False
        Take ``lr * weight_decay * param`` off the parameter instead, as `AdamW` does.
    max_grad_norm : float, optional
        Clip the norm of all gradients together: where it is larger, the step is as if they were multiplied by
        ``max_grad_norm / (norm + 1e-6)``. They are only read. Not torch's, as the next two.
    skip_nonfinite : bool, default False
        Take no step where a gradient is not finite: no parameter or state changes.
    error_if_nonfinite : bool, default False
        Raise RuntimeError instead, with the names of the parameters.
    ema_decay : float, optional
        Keep an average of each parameter, on the CPU, which each step moves to
        ``ema + (1 - ema_decay) * (param - ema)``, with `ema_decay` in [0, 1]; in the parameter's first step it
        becomes the parameter. So it is what `torch.optim.swa_utils.AveragedModel` has with
        ``get_ema_multi_avg_fn``.
    ema_warmup : bool, default False
        In a parameter's n-th step, let the decay be at most ``(1 + n) / (10 + n)``. Needs `ema_decay`.
    state_dtype : {"float32", "bfloat16", "int8"}, optional
        How the moments lie in memory: by default as the parameter, with masters in float32. "bfloat16" is rounded
        at random, "int8" are codes of blocks of 64, with scales; `decoded_state` returns their numbers.
    master_weights : bool, default False
        Keep exact float32 masters of parameters in bfloat16 and float16: what they lack, beside them.
    rounding : {"nearest", "stochastic"}, default "nearest"
        Of parameters in bfloat16 and float16 that have no masters.
    seed : int, default 0
        Of what is rounded at random.
    sparse : {None, "lazy"}, optional
        What to do with sparse gradients in COO format, as of ``nn.Embedding(sparse=True)``. None raises torch's
        error. "lazy" steps the rows that a gradient has, with all options, and leaves the others, their moments
        and their decay alone; as in `torch.optim.SparseAdam`, a parameter has one step counter for all rows.

    Attributes
    ----------
    lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay
    foreach, capturable, differentiable, fused
        The options of all groups: assigned, ``optimizer.lr = 1e-4``, they are checked as by the constructor and
        set in each of them, and in `defaults`; read, they are what the groups agree in, else AttributeError points
        to `param_groups`. What a subclass has of its own under these names, in the class or assigned in its
        ``__init__``, stays its own, as with torch's.
    backend : str
        ``"auto"``, or a name from `fastadam.available_backends`; can be set at any time. The bits are the same.
        ``"auto"`` takes ``"cuda"`` for tensors on CUDA devices and another one for those on the CPU; any name is
        for tensors of one kind, and others are refused then.
    threads : int or None
        Upper limit of threads on the CPU; can be set at any time. None means ``FASTADAM_NUM_THREADS``, else what
        `torch.get_num_threads` says.
    last_step : str or None
        Which way the last step went, None before the first: ``"fastadam"``; ``"torch: ..."`` with the reason, if
        it was handed over to torch's own code (see Notes); ``"skipped: found_inf"``; or ``"skipped: gradients are
        not finite"``.
    max_grad_norm, skip_nonfinite, error_if_nonfinite, ema_decay, ema_warmup, sparse
        As given; can be set between steps. Averages that are switched on begin as the parameters are; None drops
        them.
    ema : AveragesView
        Mapping from parameters to their averages, as `state` is one; live, in float32 for parameters in bfloat16
        and float16. They are in state dicts, as ``"ema"``. See `averaged`.
    grad_norm : float or None
        Norm of the last gradients, divided by their scale and before clipping, within 2 ulp of exact (see
        `fastadam.step.norm`); None where none of those three asks for it. With ``max_grad_norm=math.inf`` it is
        computed, and nothing is clipped.
    skipped_steps : int
        How many steps `skip_nonfinite` has left out; the first one is logged.
    grad_scale, found_inf : Tensor of one element or float, optional
        Not there until they are set, and honoured as long as they are: gradients are divided by `grad_scale` on
        the way, and nothing is stepped where `found_inf` is not zero. They stay as they are, which torch's fused
        step divides in place. `torch.amp.GradScaler` sets them where a group has ``fused=True``; otherwise it
        takes the scale off before the step, in place, as with torch's.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As torch, which takes whatever is true for a flag (``maximize="no"``), and keeps attributes that it does
        not know; and where neither our step nor torch's can be taken with an option in `param_groups` or with a
        tensor. All checks come before the first write; but what torch's own code raises in a step that was
        handed over may leave it half taken, as in torch.

    Notes
    -----
    The step writes the parameters and the tensors in ``optimizer.state[p]`` in place and raises the
    parameters' version counters (not those of the state); gradients are only read. Everything can be edited or
    exchanged between two steps, as in torch.

    Where our kernels do not serve, the whole step is handed over to torch's own code, with the same groups and
    state: with ``differentiable=True`` or ``capturable=True``; with numbers among the options that are out of
    our range, as a schedule that overshoots its end leaves them (a negative `lr` or `weight_decay`, betas below
    0 or beyond 1, NaN); and where a parameter, gradient or state is of a type with a dispatch of its own
    (fake tensors), a parameter on another kind of device or of dtype complex32. Where gradients are to be clipped
    or divided, it gets others in their place meanwhile. With `state_dtype`, `master_weights` or
    ``rounding="stochastic"``, such steps are refused, and so are those over DTensors. These options and `seed` are
    in a group if one of them is given; the first two are fixed once there is state, and loading converts it.

    Of DTensors (FSDP2, tensor parallelism) each process steps what it has; their state are DTensors, too. They are
    handed over where a gradient is shared out in another way than its parameter. The norm of gradients is that of
    all processes, which have to take such a step together.

    Arithmetic is the library's: each operation is rounded on its own, so that results do not depend on layout,
    threads or processor; against torch they differ in the last digits. bfloat16 and float16 are computed with in
    float32. The moments are kept in the dtype of the parameter, unless `state_dtype` says otherwise; gradients may
    be in another one of these three (``param.grad_dtype``). Kingma and Ba, ICLR 2015, arXiv:1412.6980.

    ``state[p]["step"]`` is a float32 tensor, as in torch; where float32 cannot count on, at 2**24, it becomes
    float64. It is on the CPU, wherever the parameter is: one on a CUDA device, as a state has it that was saved by
    torch's fused or capturable optimizer, is exchanged at the next step, for which the host waits.

    On a CUDA device the step is one launch for each format and variant, in torch's current stream there. Nothing
    is waited for, nothing is allocated by a step like the one before, and the pointers and coefficients that the
    device reads are copied to it ahead of the launch. It needs the extra ``fastadam[cuda]``.

    Examples
    --------
    >>> import torch, fastadam.torch
    >>> theta = torch.tensor([0.5, -0.3], requires_grad=True)
    >>> optimizer = fastadam.torch.Adam([theta], lr=0.1)
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     ((theta - 1) ** 2).sum().backward()
    ...     optimizer.step()
    >>> theta.detach().round(decimals=3)
    tensor([1., 1.])
    """

    if TYPE_CHECKING:

        def __init__(
            self,
            params: ParamsT,
            lr: float | Tensor = 1e-3,
            betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
            eps: float = 1e-8,
            weight_decay: float = 0,
            amsgrad: bool = False,
            *,
            foreach: bool | None = None,
            maximize: bool = False,
            capturable: bool = False,
            differentiable: bool = False,
            fused: bool | None = None,
            decoupled_weight_decay: bool = False,
            max_grad_norm: float | None = None,
            skip_nonfinite: bool = False,
            error_if_nonfinite: bool = False,
            ema_decay: float | None = None,
            ema_warmup: bool = False,
            state_dtype: StateDtype = None,
            master_weights: bool = False,
            rounding: Rounding = "nearest",
            seed: int = 0,
            sparse: Literal["lazy"] | None = None,
        ) -> None: ...

    else:

        def __init__(self, *args, **options) -> None:
            self._equip()
            self._gradient_settings.choose(Choices(**taken(options, Choices)))
            self._averages.choose(asked_for(**taken(options, Averaging)))
            self._memo.choose_sparse(**taken(options, SparseChoice))
            # (For groups, which are added before `defaults` can be changed.)
            self.__dict__["_precision"] = precision_asked_for(options)
            try:
                super().__init__(*args, **options)
            except (TypeError, IndexError) as error:
                refuse_arguments({**dict(zip(BY_POSITION, args, strict=False)), **options}, error)
            del self.__dict__["_precision"]
            _ = self.ema  # begins, or is refused

        __init__.__signature__ = with_choices(torch.optim.Adam.__init__)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, a dict with ``"params"`` and any of the options, as in torch."""
        self._equip()
        self.defaults.update(self.__dict__.get("_precision", {}))
        if isinstance(param_group, dict):
            complete(param_group, self.defaults)
        try:
            super().add_param_group(param_group)
        except TypeError as error:
            refuse_group(param_group, error)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_settings": self._memo.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # On a stand-in first, and then in one go: a state that torch refuses leaves this one as it was.
        given = {name: value for name, value in state.items() if name not in ("_settings", "_memo")}
        unpack(given.get("state", {}))
        stand_in = object.__new__(type(self))
        stand_in.__dict__.update(self.__dict__)
        super(Adam, stand_in).__setstate__(given)
        if "_settings" in state:
            stand_in.__dict__["_memo"] = new_memo(*state["_settings"])
        elif "_memo" in state:  # of a subclass that copies all that it has
            stand_in.__dict__["_memo"] = new_memo(*state["_memo"].settings)
        stand_in._equip()
        self.__dict__.update(stand_in.__dict__)

    def _equip(self) -> None:
        """Give the optimizer what each one has of its own, if it is new."""
        # (Not by attribute: a subclass may forward those to another optimizer.)
        if "_memo" not in self.__dict__:
            self.__dict__["_memo"] = new_memo()

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the options, as torch's optimizer does, and with averages the ``"ema"`` of each."""
        self._memo.replaced.refuse_entries(self.state, self._params)
        state_dict: dict[str, Any] = super().state_dict()
        return with_averages(state_dict, self._params, self._averages) if self._averages.are_kept else state_dict

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a copy of a saved state and its options, as torch's optimizer does.

        Parameters
        ----------
        state_dict : mapping
            What `state_dict` returned, here or in torch's Adam or AdamW. Averages (``"ema"``) that it lacks begin
            with the next step; where none are kept, they stay in the state, unused. `state_dtype`,
            `master_weights` and `rounding` stay what they are here, and the state is converted.

        Raises
        ------
        ValueError
            If it has other groups, or groups of other sizes; all is as before then. As with torch's, shapes and
            dtypes of the state are looked at by the next step, which is refused where they do not fit.
        """
        state_dict = carried(self.param_groups, state_dict)
        if not self._averages.are_kept:
            super().load_state_dict(state_dict)
            return
        params = self._params
        rest, averages = split(state_dict, params)
        super().load_state_dict(rest)
        self._averages.take_over(params, averages)
        self._memo.changed()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters.

        Parameters
        ----------
        set_to_none : bool, default True
            Set them to None instead of filling them with zeros.
        """
        if not set_to_none or torch.autograd._profiler_enabled():
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    @overload
    def step(self, closure: None = None, *, grad_scale: float | Tensor = 1.0, zero_grad: bool = False) -> None: ...
    @overload
    def step(
        self, closure: Callable[[], Loss], *, grad_scale: float | Tensor = 1.0, zero_grad: bool = False
    ) -> Loss: ...
    def step(self, closure: Any = None, *, grad_scale: Any = 1.0, zero_grad: Any = False) -> Any:
        """Take one step: update the parameters that have a gradient, in place.

        Parameters
        ----------
        closure : callable, optional
            Called first, with gradients enabled; it recomputes the loss and the gradients.
        grad_scale : float or Tensor, default 1
            The scale of the loss, by which gradients are divided on the way; positive. Comes on top of the
            attribute of that name.
        zero_grad : bool, default False
            Fill the gradients with zeros in the same pass, also in a step that is left out.

        Returns
        -------
        object
            What `closure` returned, or None.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            If an option or a tensor is not what it must be, or gradients are not finite, with
            `error_if_nonfinite`. Nothing has been written then; but a step that was handed over to torch's own
            code may be half taken (see the class).
        """
        if torch.compiler.is_compiling():
            return outside_of_graphs(Adam._step_with_hooks, self, *as_given(closure, grad_scale, zero_grad))
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        ):
            args, options = as_given(closure, grad_scale, zero_grad)
            return self._step_with_hooks(*args, **options)
        return self._step(closure, grad_scale=grad_scale, zero_grad=zero_grad)

    # torch would wrap `step` so that hooks and the profiler see it; `step` calls that wrapper where there are any.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Any = None, *, grad_scale: Any = 1.0, zero_grad: Any = False) -> Any:
        loss = None
        if closure is not None:
            loss = in_grad_mode(True, closure)
        memo = self._memo
        guard, gradients, after = memo.guard, memo.gradients, memo.averages.after
        with guard.lock:
            if guard.stepping:
                guard.refuse_while_stepping("step")
            try:
                guard.stepping = True
                divisor, skips = grad_scale, False
                if memo.scaling or type(grad_scale) is not float:
                    divisor, skips = scaling.read(memo.scaling, grad_scale)
                if divisor != gradients.divisor:
                    gradients.divide_by(divisor)
                if zero_grad is not after.zeroes:
                    after.zero(zero_grad)
                outcome = CHANGED if skips else attempt(self, memo)
                if outcome == TAKEN:
                    memo.last_step = OURS
                elif outcome == SKIPPED:
                    memo.last_step = NOT_FINITE
                    gradients.count_skipped(zero_calls(map(get_grad, self._params)) if zero_grad else ())
                else:
                    # A gradient that needs care says nothing about the next ones.
                    step = functools.partial(shards.take, self, memo, skips=skips, remember=outcome < 0)
                    memo.last_step = in_grad_mode(False, step)
            finally:
                guard.stepping = False
        return loss

    _step_with_hooks = torch.optim.Optimizer.profile_hook_step(_step)
