"""The optimizers: when to do what. The arithmetic is in element.py and coefficients.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastadam import backends
from fastadam.groups.group import Group
from fastadam.groups.members import split_groups
from fastadam.groups.state import Loaded, State, state_dict
from fastadam.memory.arrays import Array, Fences, base_view
from fastadam.memory.cuda.arrays import is_on_cuda
from fastadam.memory.devices import check_gradient, check_parameter, own_view, shape_of
from fastadam.memory.flat import Packed
from fastadam.memory.parameter import Parameter
from fastadam.step import hyperparameters
from fastadam.step.backend import Backend
from fastadam.step.hyperparameters import DEFAULTS, LearningRate
from fastadam.step.interrupts import uninterrupted
from fastadam.step.locks import give_lock
from fastadam.step.threads import check_limit
from fastadam.work.arrays import WorkList
from fastadam.work.devices import MixedWork, make_work

Work = WorkList | MixedWork

# Work lists kept for steps in which some gradients are None, by which ones are.
MOST_PATTERNS = 16
# Gradients of one step that are made plain one at a time; with more, all are looked at in one go.
MOST_ODD = 32


class Adam:
    r"""Adam on NumPy arrays and arrays on CUDA devices, which are updated in place.

    Parameters
    ----------
    params : ndarray, Parameter, Packed, iterable, mapping or list of dict
        What to optimize: one array or several (any iterable, generators included), `Parameter` objects,
        a mapping of names to arrays, ``(name, array)`` pairs, a buffer made by `pack`, or a list of group
        dicts with the key ``"params"`` and any of the options below. Arrays are float32, float64, complex64
        or complex128, of any shape, C-contiguous and writable; dtypes can be mixed. They can be on CUDA
        devices too (CuPy's, Numba's and all others with ``__cuda_array_interface__``; float16 too there).
    lr : float or callable, default 1e-3
        Learning rate; or a function of the 1-based step number of a parameter that returns it. It may be
        called more than once for the same step.
    betas : pair of float, default (0.9, 0.999)
        Decay rates of the two moments, in [0, 1).
    eps : float, default 1e-8
        Added to the denominator, outside the root and after bias correction.
    weight_decay : float, default 0
        Coefficient of the decay: added to the gradient as ``weight_decay * param`` (L2), or, with
        `decoupled_weight_decay`, taken off the parameter as ``lr * weight_decay * param``.
    amsgrad : bool, default False
        Divide by the running maximum of the second moment.
    maximize : bool, default False
        Go up the gradient instead of down.
    decoupled_weight_decay : bool, default False
        Decay as AdamW does.
    backend : str, default "auto"
        ``"c"``, ``"numba"``, ``"numpy"`` for NumPy arrays, ``"cuda"`` for arrays on CUDA devices, or ``"auto"``
        for the first that is available, wherever an array is. All give the same bits.
    threads : int, optional
        Upper limit of threads for a step; the default is ``FASTADAM_NUM_THREADS``, else
        ``OMP_NUM_THREADS``, else the number of processors. Small steps run on one thread, and so do all
        steps of a forked child process. The bits do not depend on it.

    Attributes
    ----------
    param_groups : list of dict
        The groups with their options, which can be edited between steps and are checked when used.
    state : State
        Live view of the moments and step counters, by position, name or array.
    backend : str
        Name of the backend in use; where arrays are on the host and on CUDA devices, such as ``"c+cuda"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it must be; the message names it and the remedy.
    BackendUnavailableError
        If the backend named cannot be used here.

    Notes
    -----
    With gradient :math:`g_t`, step size :math:`\alpha` and :math:`m_0 = v_0 = 0`, a step is

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= \theta_{t-1} - \alpha \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    as in Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980, Algorithm
    1. Decoupled weight decay is Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101; AMSGrad is Reddi, Kale and
    Kumar, ICLR 2018. Complex numbers are updated as pairs of reals.

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

    _lock: Any  # see fastadam.step.locks
    _stepping: bool

    def __init__(
        self,
        params: Any,
        lr: LearningRate = DEFAULTS.lr,
        betas: tuple[float, float] = DEFAULTS.betas,
        eps: float = DEFAULTS.eps,
        weight_decay: float = DEFAULTS.weight_decay,
        amsgrad: bool = DEFAULTS.amsgrad,
        *,
        maximize: bool = DEFAULTS.maximize,
        decoupled_weight_decay: bool = DEFAULTS.decoupled_weight_decay,
        backend: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.defaults = hyperparameters.check(
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            }
        )._asdict()
        check_limit(threads)
        self._threads = threads
        self._asked_for = backend
        self._backends: dict[int | None, Backend] = {}
        name, chosen = backends.choose(backend)
        if name in backends.HOST:
            self._host_name, self._backends[None] = name, chosen
        give_lock(self)
        self._groups: list[Group] = []
        self.param_groups: list[dict[str, Any]] = []
        self._state = State(self._groups)
        self._noted: list[dict[str, Any]] = []
        self._positions: dict[str, int] = {}
        self._planned = False
        self._take_groups(self._make_groups(split_groups(params)))
        self._plan_work()
        self._own = frozenset(self.__dict__) | {"_own"}

    @property
    def state(self) -> State:
        """The moments and step counters, by position, name or array."""
        return self._state

    @property
    def backend(self) -> str:
        """Name of the backend in use."""
        devices = {member.device for group in self._groups for member in group.members}
        names = [self._host_name] if None in devices else []
        return "+".join([*names, "cuda"] if devices - {None} else names)

    @property
    def threads(self) -> int | None:
        """Upper limit of threads, as it was given."""
        return self._threads

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group of parameters; their moments and step counters start at zero.

        Parameters
        ----------
        param_group : mapping
            ``"params"`` in any form that the constructor takes (but group dicts), and any of the options;
            the others have the constructor's values.

        Raises
        ------
        TypeError, ValueError
            If something in it is wrong; the optimizer is as before then.
        """
        if not isinstance(param_group, Mapping):
            raise TypeError(f"param_group must be a dict with the key 'params', got {param_group!r}")
        with self._lock:
            self._refuse_while_stepping("add_param_group")
            self._take_groups(self._make_groups([param_group]))

    def step(self, grads: Any = None, *, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step: update the parameters in place.

        Parameters
        ----------
        grads : iterable, mapping or ndarray, optional
            Gradients in the order of the parameters (over all groups), or a mapping under their names; one
            array for a single parameter, or a 1-D array for a whole packed buffer. Each has the dtype and
            shape of its parameter and any strides; it is not written to. None in place of one skips that
            parameter: its values, moments and step counter stay as they are. Without `grads` they are taken
            from where they live: ``flat.grad`` of packed buffers, ``grad`` of `Parameter` objects.
        closure : callable, optional
            Called first, without arguments; it recomputes the loss and the gradients.

        Returns
        -------
        object
            What `closure` returned, or None.

        Raises
        ------
        TypeError, ValueError
            If a gradient or an edited option is not what it must be. All checks come before the first write:
            parameters, moments and step counters are as before then.
        """
        loss = None
        if closure is not None:
            if not callable(closure):
                raise TypeError(f"closure must be callable, got {closure!r}")
            loss = closure()
        with self._lock:
            if self._stepping:
                self._refuse_while_stepping("step")
            try:
                self._stepping = True
                if self._edited():
                    self._refresh()
                if not self._planned:
                    self._plan_work()
                if grads is None:
                    work = self._in_pieces
                    found = work.gather()
                else:
                    work, found = self._sort(grads)
                if work.schedules:
                    work.call_schedules()
                unplain = work.try_step(found)
                if unplain >= 0:
                    self._step_with_care(work, found, unplain)
            finally:
                self._stepping = False
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
        held = [
            member
            for group in self._groups
            for member in group.members
            if isinstance(member.given, Parameter) and member.given.grad is not None
        ]
        if not set_to_none:
            for member in held:
                grad, label = member.given.grad, f"the gradient of {member.label}"
                if is_on_cuda(grad) and hasattr(type(grad), "__setitem__"):
                    check_parameter(grad, label)  # that it can be written; its own library fills it, in its stream
                    continue
                if not isinstance(grad, np.ndarray):
                    raise TypeError(f"{label} is a {type(grad).__name__}; use zero_grad(set_to_none=True)")
                if not grad.flags.writeable:
                    raise ValueError(f"{label} is read-only; use zero_grad(set_to_none=True)")
        for group in self._groups:
            if group.packed is not None:
                group.packed.grad.fill(0)
        for member in held:
            if set_to_none:
                member.given.grad = None
            else:
                member.given.grad[...] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state and options, in torch's layout with NumPy arrays.

        Returns
        -------
        dict
            ``"state"`` maps the position of each stepped parameter to its ``step``, ``exp_avg``,
            ``exp_avg_sq`` and, with amsgrad, ``max_exp_avg_sq``, in the parameter's shape and dtype, whatever
            the layout. ``"param_groups"`` lists each group's options, the positions ``"params"`` and, where
            there are names, ``"param_names"``. A callable `lr` is in it as it is.

        Raises
        ------
        TypeError, ValueError
            If an option has been edited to something that it cannot be.
        """
        return self._saved("state_dict", copy=True)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a copy of a saved state and its options.

        Parameters
        ----------
        state_dict : mapping
            What `state_dict` returned, here or in an optimizer over parameters of the same shapes and dtypes
            in any layout, or a torch optimizer's. Where both have names, parameters are matched by name.

        Raises
        ------
        TypeError, ValueError
            If it does not fit; the optimizer is as before then.
        """
        self._load("load_state_dict", state_dict)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self._groups):
            lines.append(f"    Parameter Group {i}: {len(group.members)} parameters")
            lines += [f"        {key}: {group.options.get(key)}" for key in hyperparameters.KEYS]
        return "\n".join([*lines, f"    backend: {self.backend}", ")"])

    # Native code holds addresses, so copies and pickles are made from the arrays and built anew.
    def __getstate__(self) -> dict[str, Any]:
        return {
            "groups": [{**group.options, "params": group.given} for group in self._groups],
            "defaults": self.defaults,
            "backend": self._asked_for,
            "threads": self.threads,
            "state": self.state_dict(),
            "subclass": {key: value for key, value in self.__dict__.items() if key not in self._own},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        groups = [{k: v for k, v in group.items() if k != "param_names"} for group in state["groups"]]
        Adam.__init__(self, groups, **state["defaults"], backend=state["backend"], threads=state["threads"])
        self.load_state_dict(state["state"])
        self.__dict__.update(state["subclass"])

    def _saved(self, what: str, copy: bool) -> dict[str, Any]:
        """Return the state dict for the method `what`; with `copy` False, over the live moments."""
        with self._lock:
            self._refuse_while_stepping(what)
            if self._edited():
                self._refresh()
            return state_dict(self._groups, copy)

    def _load(
        self, what: str, saved: Mapping[str, Any], read: Callable[[Array, Any, str], None] | None = None
    ) -> None:
        """Check a state dict and take it over, for the method `what`; for `read`, see `Loaded.take_over`."""
        with self._lock:
            self._refuse_while_stepping(what)
            if not self._planned:
                self._plan_work()
            loaded = Loaded(saved, self._groups, self._fences)
            loaded.reserve()

            def take_over() -> None:
                self._planned = False
                loaded.take_over(read)
                self._take_note()

            uninterrupted(take_over)

    def _refuse_while_stepping(self, what: str) -> None:
        """Refuse what a schedule or a signal handler asks for in the middle of this thread's own step."""
        if self._stepping:
            raise RuntimeError(f"{what} was called while a step of this optimizer is under way")

    def _make_groups(self, given: Iterable[Mapping[str, Any]]) -> list[Group]:
        groups: list[Group] = []
        start = sum(len(group.members) for group in self._groups)
        for i, one in enumerate(given, len(self._groups)):
            where = f"param_groups[{i}]: " if i or "lr" in one or len(one) > 1 else ""
            groups.append(Group(one, self.defaults, start, where))
            start += len(groups[-1].members)
        return groups

    def _take_groups(self, new: list[Group]) -> None:
        groups = [*self._groups, *new]
        names = [member.name for group in groups for member in group.members]
        if None in names and any(name is not None for name in names):
            raise ValueError(f"parameter {names.index(None)} has no name, others have; name all of them or none")
        positions: dict[Any, int] = {}
        for position, name in enumerate(names):
            if name is not None and name in positions:
                raise ValueError(f"the name {name!r} is given to parameters {positions[name]} and {position}")
            positions[name] = position
        Fences(owned for group in groups for owned in group.owned())  # refuses shared memory
        chosen = self._choose(new)
        seen: dict[int, str] = {}
        for member in (member for group in groups for member in group.members):
            if id(member.owner) in seen:  # fences do not notice it where the array is empty
                raise ValueError(f"{member.label} is the same array as {seen[id(member.owner)]}; give it once")
            seen[id(member.owner)] = member.label
        options = [group.options for group in new]
        noted = [group.accepted() for group in groups]

        def enter() -> None:
            self._backends.update(chosen)
            self._planned = False
            self._positions = positions if None not in positions else {}
            self._groups += new
            self.param_groups += options
            self._noted = noted

        uninterrupted(enter)

    def _choose(self, groups: list[Group]) -> dict[int | None, Backend]:
        """Return the backends of the CUDA devices that members are on, and refuse members that none can step."""
        chosen: dict[int | None, Backend] = {}
        for member in (member for group in groups for member in group.members):
            if member.device is None and self._asked_for == "cuda":
                raise ValueError(
                    f"{member.label} is a NumPy array, but the backend 'cuda' steps arrays on CUDA devices; use "
                    f"backend='auto', or lay it out there with fastadam.pack(..., device='cuda')"
                )
            if member.device is not None and self._asked_for not in ("auto", "cuda"):
                raise ValueError(
                    f"{member.label} is on a CUDA device, but the backend {self._asked_for!r} steps NumPy arrays; "
                    f"use backend='auto' or 'cuda'"
                )
            if member.device is not None and member.device not in self._backends:
                chosen[member.device] = backends.on_device(member.device)
        return chosen

    def _plan_work(self) -> None:
        """Build the work lists anew: groups, rows or variants have changed.

        Whatever changes them first sets ``_planned`` to False, so that an interrupt on the way leaves no stale
        list in use.
        """
        self._planned_kinds = [(group.hyper.l2_on, group.hyper.amsgrad) for group in self._groups]
        self._fences = Fences(owned for group in self._groups for owned in group.owned())
        self._patterns: dict[bytes, Work] = {}
        self._in_pieces = self._work_list(in_pieces=True)
        self._by_member = self._in_pieces
        if any(group.one_piece for group in self._groups):
            self._by_member = self._work_list(in_pieces=False)
        self._planned = True

    def _work_list(self, in_pieces: bool, active: Array | None = None) -> Work:
        return make_work(
            self._groups, self._fences, self._backends, self.threads, in_pieces=in_pieces, active=active
        )

    def _edited(self) -> bool:
        """Whether `param_groups` differs from what was last checked."""
        try:
            # Nearly always the same values, which Python compares by identity first.
            if self.param_groups != self._noted:
                return True
        except Exception:  # an array where a number belongs, or what else cannot be compared
            return True
        for group in self._groups:  # noqa: SIM110 - a generator would cost more than all the rest
            if group.options["params"] is not group.params:
                return True
        return False

    def _refresh(self) -> None:
        """Take up what the user has edited in `param_groups`."""
        groups = self._groups
        if len(self.param_groups) != len(groups):
            raise ValueError(
                f"param_groups has {len(self.param_groups)} entries, the optimizer made {len(groups)}; use "
                f"add_param_group to add one"
            )
        for i, (group, options) in enumerate(zip(groups, self.param_groups, strict=True)):
            if options is not group.options:
                raise ValueError(f"param_groups[{i}] was replaced; edit the values of the dict instead")
        checked = [group.check_options() for group in groups]
        kinds = [(hyper.l2_on, hyper.amsgrad) for hyper in checked]
        if kinds != self._planned_kinds:
            self._planned = False
        Group.reserve_max(group for group, hyper in zip(groups, checked, strict=True) if hyper.amsgrad)
        self._noted = []  # an interrupt on the way leaves them to be taken up again
        for group, hyper in zip(groups, checked, strict=True):
            group.accept(hyper)
        if self._planned:
            for work in (self._in_pieces, self._by_member, *self._patterns.values()):
                work.write_options()
        self._take_note()

    def _take_note(self) -> None:
        """Remember the options as accepted, by which edits are noticed."""
        self._noted = [group.accepted() for group in self._groups]

    def _sort(self, grads: Any) -> tuple[Work, tuple[Any, ...]]:
        """Return the work list that gradients given by the user belong to, and one gradient for each slot."""
        work = self._by_member
        if not isinstance(grads, list | tuple):
            if isinstance(grads, np.ndarray | np.generic) or is_on_cuda(grads):
                return self._sort_array(grads)
            if isinstance(grads, Mapping):
                return work, self._sort_names(grads)
            if isinstance(grads, Packed):
                raise TypeError("grads is a packed buffer; step() without arguments uses its gradients")
            if callable(grads):
                raise TypeError(f"grads is the callable {grads!r}; to pass a closure, write step(closure=f)")
            if (
                isinstance(grads, str | bytes | set | frozenset)
                or not isinstance(grads, Iterable)
                or hasattr(grads, "__array__")
            ):
                raise TypeError(f"grads must be a list of arrays or a mapping of names to arrays, got {grads!r}")
        grads = tuple(grads)  # a list could change while native code reads it
        if len(grads) != len(work.owners):
            raise ValueError(f"grads has {len(grads)} items, but there are {len(work.owners)} parameters")
        return work, grads

    def _sort_array(self, grad: Any) -> tuple[Work, tuple[Any, ...]]:
        """Return the work list of one bare gradient: for a whole packed buffer, or for a single parameter."""
        whole, work = self._in_pieces, self._by_member
        shape = shape_of(grad)
        if len(whole.owners) == 1 and shape == whole.arrays[0].shape:
            return whole, (grad,)
        if len(work.owners) == 1:
            return work, (grad,)
        packed = self._groups[0].packed
        if packed is not None and len(self._groups) == 1 and shape == packed.param.shape:
            # Its members have taken different numbers of steps.
            return work, tuple(packed.views_of(own_view(grad)))
        raise TypeError(
            f"grads is one array, but there are {len(work.owners)} parameters; pass a list of gradients"
        )

    def _sort_names(self, grads: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return named gradients in the order of the parameters."""
        if not self._positions:
            raise TypeError("grads is a mapping, but the parameters have no names; pass a list in their order")
        if grads.keys() != self._positions.keys():
            missing = [name for name in self._positions if name not in grads]
            unexpected = [name for name in grads if name not in self._positions]
            raise ValueError(
                f"grads has other names than the parameters: missing {missing}, unexpected {unexpected}; use "
                f"None for a parameter without a gradient"
            )
        return tuple(grads[name] for name in self._positions)

    def _step_with_care(self, work: Work, grads: Sequence[Any], unplain: int) -> None:
        """Take a step in which native code found something that Python has to look at."""
        active = np.array([grad is not None for grad in grads], bool)
        if not active.any():
            return
        ready = [grad for grad in grads if grad is not None]
        if not active.all():
            work = self._pattern(work is self._in_pieces, active)
            work.call_schedules()
            unplain = work.try_step(tuple(ready))
        # A few gradients that are right, but not plain, are made so one by one.
        for _ in range(MOST_ODD):
            if unplain < 0:
                return
            ready[unplain] = self._check(work, ready, unplain)
            before, unplain = unplain, work.try_step(tuple(ready))
            if unplain == before:
                break
        if unplain >= 0:  # many of them, a parameter that was tampered with, or no native code
            work.check_owners()
            checked = [self._check(work, ready, slot) for slot in range(len(ready))]
            work.step(checked)

    def _check(self, work: Work, grads: Sequence[Any], slot: int) -> Array:
        label = f"the gradient of {work.labels[slot]}"
        return check_gradient(grads[slot], base_view(work.arrays[slot]), label, self._fences)

    def _pattern(self, in_pieces: bool, active: Array) -> Work:
        """Return the work list of the slots that have a gradient."""
        start = 0
        for group in self._groups:
            n = 1 if in_pieces and group.one_piece else len(group.members)
            if n == len(group.members) and group.must_split(active[start : start + n]):
                self._planned = False
                group.split_rows(active[start : start + n])
            start += n
        if not self._planned:
            self._plan_work()
        key = bytes([in_pieces]) + active.tobytes()
        if key not in self._patterns:
            if len(self._patterns) >= MOST_PATTERNS:
                self._patterns.clear()
            self._patterns[key] = self._work_list(in_pieces, active)
        return self._patterns[key]


class AdamW(Adam):
    """Adam with decoupled weight decay: `Adam` with other defaults.

    Parameters
    ----------
    params : ndarray, Parameter, Packed, iterable, mapping or list of dict
        See `Adam`, as for all others.
    lr : float or callable, default 1e-3
        Learning rate.
    betas : pair of float, default (0.9, 0.999)
        Decay rates of the two moments.
    eps : float, default 1e-8
        Added to the denominator.
    weight_decay : float, default 1e-2
        Each step takes ``lr * weight_decay * param`` off the parameter.
    amsgrad, maximize : bool, default False
        See `Adam`.
    backend : str, default "auto"
        See `Adam`.
    threads : int, optional
        See `Adam`.

    Notes
    -----
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, Algorithm 2.
    """

    def __init__(
        self,
        params: Any,
        lr: LearningRate = DEFAULTS.lr,
        betas: tuple[float, float] = DEFAULTS.betas,
        eps: float = DEFAULTS.eps,
        weight_decay: float = 1e-2,
        amsgrad: bool = DEFAULTS.amsgrad,
        *,
        maximize: bool = DEFAULTS.maximize,
        backend: str = "auto",
        threads: int | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
            backend=backend,
            threads=threads,
        )
