"""The face for arrays: the optimizer `Adam`. What it does is done below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

from fastadam.groups.clearing import clear_gradients
from fastadam.groups.copies import shallow_copy, with_witnesses
from fastadam.groups.given import split_groups
from fastadam.groups.state import State
from fastadam.memory.state_file import FilePath, StateFile
from fastadam.memory.structs import TAKEN
from fastadam.step import after, gradient_settings, hyperparameters
from fastadam.step.after import After, asked_for
from fastadam.step.backend import BackendName
from fastadam.step.gradient_settings import Choices, GradientSettings
from fastadam.step.hyperparameters import DEFAULTS, LearningRate, Real, Rounding, StateDtype
from fastadam.step.interrupts import in_one_go
from fastadam.step.laziness import SKIP, Lazy
from fastadam.step.locks import Guard
from fastadam.step.threads import check_limit
from fastadam.work.averages import Averages
from fastadam.work.care import call_closure, step_with_care
from fastadam.work.choice import Choice
from fastadam.work.copies import described, made_again
from fastadam.work.gradients import sort_gradients
from fastadam.work.growth import Growth
from fastadam.work.planner import Planner
from fastadam.work.rows import RowSteps

if TYPE_CHECKING:
    from fastadam.groups.forms import ParamGroup, Params
    from fastadam.memory.forms import Grads, Masks, Tree

Loss = TypeVar("Loss")


class Adam(Growth, closed=True):
    r"""Adam on NumPy arrays and arrays on CUDA devices, which are updated in place.

    Parameters
    ----------
    params : ndarray, Parameter, Packed, iterable, mapping or list of dict
        What to optimize: one array or several (any iterable, generators included), `Parameter` objects, a
        mapping of names to arrays, ``(name, array)`` pairs, dicts, lists, tuples and named tuples of these to any
        depth (names are paths, ``"layers.0.w"``), a buffer made by `pack`, or a list of group dicts with the key
        ``"params"`` and any of the options below, each also by name, ``{"layers.0": 0.01, "*.b": 0}``. Arrays are
        float32, float64, bfloat16 (of ml_dtypes), float16, complex64 or complex128, of any shape, C-contiguous and
        writable; dtypes can be mixed. They can be on CUDA devices too (all with ``__cuda_array_interface__``; not
        bfloat16). One that is exchanged in the dict or list given is refused by the next step (see Notes).
    lr : float or callable, default 1e-3
        Learning rate, finite and at least 0; or a function of the 1-based step number of a parameter that returns
        it. It may be called more than once for the same step.
    betas : pair of float, default (0.9, 0.999)
        Decay rates of the two moments, in [0, 1).
    eps : float, default 1e-8
        Added to the denominator, outside the root and after bias correction. What is zero in the dtype that a
        parameter is computed with must be 0.
    weight_decay : float, default 0
        Of the decay: added to the gradient as ``weight_decay * param`` (L2), or, with `decoupled_weight_decay`,
        taken off the parameter as ``lr * weight_decay * param``.
    amsgrad : bool, default False
        Divide by the running maximum of the second moment.
    maximize : bool, default False
        Go up the gradient instead of down.
    decoupled_weight_decay : bool, default False
        Decay as AdamW does.
    state_dtype : str, optional
        What the moments lie in: ``"float32"``; ``"bfloat16"``, which is rounded at random; ``"int8"``, in blocks
        of 64 with a scale; or None, the dtype of the parameter or its master. Fixed in a group, as is the next
        one.
    master_weights : bool, default False
        Keep the float32 of each parameter in 16 bits: two bytes more beside bfloat16, four beside float16. Others
        are their own masters.
    rounding : str, default "nearest"
        Of parameters in 16 bits without masters, or ``"stochastic"``: at random, without bias.
    seed : int, default 0
        Of what is rounded at random: with the same one, the bits are the same everywhere.
    max_grad_norm : float, optional
        Clip the norm of all gradients together: where it is larger, the step is as if they were multiplied by
        ``max_grad_norm / (norm + 1e-6)``. They are only read.
    skip_nonfinite : bool, default False
        Take no step where a gradient is not finite: no parameter, moment or step counter changes.
    error_if_nonfinite : bool, default False
        Raise RuntimeError instead, with the names of the parameters.
    ema_decay : float, optional
        In [0, 1]. Keep an average of each parameter, which each step moves, also without a gradient, to
        ``ema + (1 - ema_decay) * (param - ema)``, from what the first step made it. Not of 16-bit parameters.
    ema_warmup : bool, default False
        In a parameter's n-th step, let the decay be at most ``(1 + n) / (10 + n)``. Needs `ema_decay`.
    lazy : str, default "skip"
        Of rows that a step has no gradient for (`fastadam.Rows`, `mask`): ``"skip"``, they stay as they are, and
        count their steps by themselves; or ``"exact"``, they catch up before they are stepped again, and have the
        bits of steps with gradients of zero (see `catch_up` and docs/guides/rows.md).
    backend : str, default "auto"
        ``"c"``, ``"numba"``, ``"numpy"`` for NumPy arrays, ``"cuda"`` for arrays on CUDA devices, or ``"auto"``
        for the first that is available, wherever an array is. All give the same bits.
    threads : int, optional
        Upper limit of threads for a step, by default ``FASTADAM_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the
        number of processors. Small steps, and all of a forked child, run on one; the bits are the same.
    state_path : str or path-like, optional
        A file, locked and removed with the optimizer, that the moments and all else beside parameters lie in
        instead of memory. For NumPy arrays, on Linux; it cannot be copied (docs/guides/state-on-disk.md).

    Attributes
    ----------
    param_groups : list of dict
        The groups with their options, which can be edited between steps and are checked when used.
    lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay
    state_dtype, master_weights, rounding, seed
        The options of all groups: assigned, they are checked and set in each of them, and in `defaults`; read,
        they are what the groups agree in, else AttributeError points to `param_groups`.
    defaults : dict
        Options of groups that are added later; editing it changes nothing in those that there are.
    state : State
        Live view of the moments and step counters, by position, name or array.
    max_grad_norm, skip_nonfinite, error_if_nonfinite, ema_decay, ema_warmup
        As given; can be set between steps. Averages that are switched on begin as the parameters are.
    ema : Averages
        Live view of the averages, by position, name or array, or of all in a packed buffer; see `averaged`.
    grad_norm : float or None
        Norm of the last gradients, after division by `grad_scale` and before clipping, within 2 ulp of exact; None
        where neither clipping nor a check asks for it. With ``max_grad_norm=math.inf`` it is computed, and nothing
        is clipped. Of arrays on a CUDA device it is waited for when it is read.
    skipped_steps : int
        How many steps `skip_nonfinite` has left out; the first one is logged.
    lazy : str
        As given.
    backend, threads
        Name of the backend in use, such as ``"c+cuda"`` for arrays in both places, and the upper limit of threads,
        as given, or None; both can be set between steps.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it must be; the message names it and the remedy.
    BackendUnavailableError, OSError
        If the backend named cannot be used here; if the file at `state_path` is in use, or cannot be made.

    Notes
    -----
    With gradient :math:`g_t`, step size :math:`\alpha` and :math:`m_0 = v_0 = 0`, a step is

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= \theta_{t-1} - \alpha \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    as in Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980, Algorithm
    1. Decoupled weight decay is Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101; AMSGrad is Reddi, Kale and
    Kumar, ICLR 2018. Complex numbers are updated as pairs of reals. Deep copies and pickles have arrays of their
    own, which they share with a model that is copied in the same call.

    Arrays are stepped where they lie, so new numbers are written into them: ``w[...] = values``,
    ``np.clip(w, 0, 1, out=w)``. After ``params["w"] = np.clip(params["w"], 0, 1)`` the dict has another array than
    the optimizer, and the next step raises ValueError before anything is written; so does an array that is new in
    there. Entries can be taken away. The optimizer keeps dicts and lists that it was given, at any depth, as long
    as they are not emptied (``params.clear()``) and somebody else has them by the first step. Other containers and
    copies of the optimizer are not looked into.

    Other attributes can be assigned in subclasses only, so that none that was misspelt is ignored.

    Examples
    --------
    >>> import numpy as np, fastadam
    >>> theta = np.array([0.5, -0.3])
    >>> optimizer = fastadam.Adam(theta, lr=0.1)
    >>> for _ in range(200):
    ...     optimizer.step(2 * (theta - 1.0))
    >>> theta.round(3)
    array([1., 1.])
    """

    # Its own attributes are in slots: what is in the dict, and copied as it is, subclasses and users have set.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_averages",
        "_choice",
        "_gradient_settings",
        "_groups",
        "_guard",
        "_planner",
        "_rows",
        "_state",
        "defaults",
        "param_groups",
    )

    def __init__(
        self,
        params: Params,
        lr: LearningRate = DEFAULTS.lr,
        betas: tuple[Real, Real] = DEFAULTS.betas,
        eps: Real = DEFAULTS.eps,
        weight_decay: Real = DEFAULTS.weight_decay,
        amsgrad: bool = DEFAULTS.amsgrad,
        *,
        maximize: bool = DEFAULTS.maximize,
        decoupled_weight_decay: bool = DEFAULTS.decoupled_weight_decay,
        state_dtype: StateDtype = DEFAULTS.state_dtype,
        master_weights: bool = DEFAULTS.master_weights,
        rounding: Rounding = DEFAULTS.rounding,
        seed: int = DEFAULTS.seed,
        max_grad_norm: Real | None = gradient_settings.DEFAULTS.max_grad_norm,
        skip_nonfinite: bool = gradient_settings.DEFAULTS.skip_nonfinite,
        error_if_nonfinite: bool = gradient_settings.DEFAULTS.error_if_nonfinite,
        ema_decay: Real | None = after.DEFAULTS.ema_decay,
        ema_warmup: bool = after.DEFAULTS.ema_warmup,
        lazy: Lazy = SKIP,
        backend: BackendName = "auto",
        threads: int | None = None,
        state_path: FilePath | None = None,
    ) -> None:
        given = (lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay)
        low = (state_dtype, master_weights, rounding, seed)
        options = dict(zip(hyperparameters.KEYS, (*given, *low), strict=True))
        self.defaults: dict[str, Any] = hyperparameters.check(options)._asdict()
        check_limit(threads)
        self._gradient_settings = GradientSettings(Choices(max_grad_norm, skip_nonfinite, error_if_nonfinite))
        self._choice = Choice(backend)
        self._guard = Guard()
        self._groups = self._no_groups(None if state_path is None else StateFile(state_path))
        self._state = State(self._groups)
        kept = After(asked_for(ema_decay, ema_warmup))
        self._planner = Planner(self._groups, self._choice.in_use, threads, self._gradient_settings, kept)
        self._rows = RowSteps(self._planner, self._guard, lazy)
        self._averages = Averages(self._groups, self._guard, kept, self._rows.catch_up)
        self.param_groups: list[dict[str, Any]] = []
        self._add(split_groups(params))
        self._planner.catch_up()

    def add_param_group(self, param_group: ParamGroup | Mapping[str, Tree]) -> None:
        """Add a group of parameters; their moments and step counters start at zero.

        Parameters
        ----------
        param_group : mapping
            ``"params"`` in any form that the constructor takes (but group dicts), and any of the options;
            the others have the values of `defaults`: the constructor's, or what was assigned since.

        Raises
        ------
        TypeError, ValueError
            If something in it is wrong; the optimizer is as before then.
        """
        if not isinstance(param_group, Mapping):
            raise TypeError(f"param_group must be a dict with the key 'params', got {param_group!r}")
        with self._guard.lock:
            self._guard.refuse_while_stepping("add_param_group")
            self._add([param_group])

    @overload
    def step(
        self,
        grads: Grads = None,
        grad_scale: Real = 1.0,
        zero_grad: bool = False,
        *,
        mask: Masks = None,
        closure: None = None,
    ) -> None: ...
    @overload
    def step(
        self,
        grads: Grads = None,
        grad_scale: Real = 1.0,
        zero_grad: bool = False,
        *,
        mask: Masks = None,
        closure: Callable[[], Loss],
    ) -> Loss: ...
    def step(
        self,
        grads: Grads = None,
        grad_scale: Real = 1.0,
        zero_grad: bool = False,
        *,
        mask: Masks = None,
        closure: Any = None,
    ) -> Any:
        """Take one step: update the parameters in place.

        Parameters
        ----------
        grads : iterable, mapping or ndarray, optional
            Gradients in the order of the parameters (over all groups), nested as they are, or in a mapping under
            their names; one array for a single parameter, or a 1-D array for a whole packed buffer. Each has the
            shape of its parameter, any strides, and its dtype; of those of float32, bfloat16 and float16 on the
            host, any of the three. They are only read. None in place of one (or of a container) skips that
            parameter: its values, moments and step counter stay as they are. Without
            `grads` they are where they live: ``flat.grad`` of packed buffers, ``grad`` of `Parameter` objects.
            `fastadam.Rows` in place of one steps those rows of its parameter alone.
        grad_scale : float, default 1
            The scale of the loss, by which gradients are divided on the way; positive.
        zero_grad : bool, default False
            Fill the gradients with zeros in the same pass, also in a step that `skip_nonfinite` leaves out. Then
            they have to be writable arrays that are C-contiguous.
        mask : mapping, optional
            By name, position or array of a parameter: an array of bool, one for each of its rows (slices along the
            first axis), which says which are stepped, as by `fastadam.Rows`. For one parameter, the array alone.
        closure : callable, optional
            Called first, without arguments; it recomputes the loss and the gradients. Its result is returned. With
            `grads` too, it is called, and those are the gradients.

        Raises
        ------
        TypeError, ValueError
            If a gradient or an edited option is not what it must be, or an array was exchanged in what was given
            as the parameters. All checks come before the first write: parameters, moments and step counters are
            as before then.
        RuntimeError
            If gradients are not finite, with `error_if_nonfinite`; all is as before then.
        OSError
            If the disk of `state_path` is full; all is as before then. If it breaks, no other step is taken.
        """
        loss = None if closure is None else call_closure(closure)
        guard, groups, planner, settings = self._guard, self._groups, self._planner, self._gradient_settings
        with guard.lock:
            if guard.stepping:
                guard.refuse_while_stepping("step")
            try:
                guard.stepping = True
                if grad_scale != settings.divisor:
                    settings.divide_by(grad_scale)
                if zero_grad is not planner.after.zeroes:
                    planner.after.zero(zero_grad)
                if groups.edits.noticed(self.param_groups):
                    groups.take_up(self.param_groups)
                if planner.version != groups.version:
                    planner.catch_up()
                are_same = planner.containers.are_same
                if are_same is not None and not are_same():
                    planner.containers.look()
                if grads is None:
                    work = planner.in_pieces if mask is None else planner.by_member
                    found = work.grad_sources if work.at_home else work.gather()
                else:
                    work, found = sort_gradients(grads, planner)
                if work.schedules:
                    work.call_schedules()
                outcome = work.try_step(found) if mask is None else 0
                if outcome != TAKEN:
                    step_with_care(planner, work, found, outcome, self._rows, mask)
            finally:
                guard.stepping = False
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients that live with the parameters.

        Parameters
        ----------
        set_to_none : bool, default True
            Set the ``grad`` of `Parameter` objects to None instead of filling it with zeros. Gradients of
            packed buffers are filled with zeros either way. Plain arrays have none to clear.

        Raises
        ------
        TypeError, ValueError
            If a gradient is to be filled and cannot be; none has been cleared then.
        """
        clear_gradients(self._groups, set_to_none)

    def __repr__(self) -> str:
        return f"{type(self).__name__} (\n{self._groups.listed()}\n    backend: {self.backend}\n)"

    __getstate__ = described
    __copy__ = shallow_copy

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return with_witnesses(super().__reduce_ex__(protocol), self, self._groups)

    def __setstate__(self, state: dict[str, Any]) -> None:
        made_again(self, state, Adam.__init__)

    def _add(self, given: Iterable[Mapping[str, Any]]) -> None:
        """Add the groups that these dicts describe, or none if one is refused."""
        given = list(given)
        new, trees = self._groups.make(given, self.defaults)
        chosen = self._choice.choose(member for group in new for member in group.members)
        self._admit(new)
        self._averages.begin(new)
        entering = self._groups.add_calls(new, trees, self.param_groups)
        watching = self._planner.containers.enter_calls(given)
        in_one_go([*self._choice.add_calls(chosen), *entering, *watching])
