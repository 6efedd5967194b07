"""The optimizers for PyTorch: torch's own, with another step."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import increment_version
from torch.optim import optimizer as torch_optimizer

from fastadam import backends
from fastadam.backends import Backend
from fastadam.memory.devices import named
from fastadam.step import hyperparameters, threads
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.interrupts import uninterrupted
from fastadam.step.locks import give_lock
from fastadam.step.plan import MOMENTS
from fastadam.torch.readers import NativeReader, PythonReader
from fastadam.torch.roster import (
    CHANGED,
    MOST_ATTEMPTS,
    NEEDS_CARE,
    OTHER_GRADIENTS,
    OTHER_STEPS,
    TAKEN,
    Roster,
)
from fastadam.torch.staging import Part, Staged, all_apart
from fastadam.torch.tensor_offsets import tensor_headers
from fastadam.torch.tensors import check_grad, check_like, check_stepped

REFUSED = {
    "capturable": "it is for CUDA graphs, and fastadam.torch counts steps and computes coefficients on the host",
    "differentiable": "the step runs outside of autograd; use torch.optim.Adam to differentiate through it",
}
_read_options = operator.itemgetter(*hyperparameters.KEYS, *REFUSED)


@functools.cache
def _reader() -> NativeReader | PythonReader:
    """Return what attempts steps: native, where it can be."""
    return NativeReader.find(torch.Tensor, torch.nn.Parameter) or PythonReader()


class Adam(torch.optim.Adam):  # type: ignore[misc]
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
        Taken, kept in the groups and in state dicts, and without effect: there is one implementation.
    maximize : bool, default False
        Go up the gradient.
    capturable, differentiable : bool, default False
        True is refused: the first is for CUDA graphs, the second needs autograd through the step.
    decoupled_weight_decay : bool, default False
        Take ``lr * weight_decay * param`` off the parameter instead, as `AdamW` does.

    Attributes
    ----------
    backend : str
        ``"auto"``, or a name from `fastadam.available_backends`; can be set at any time. The bits are the same.
        ``"auto"`` takes ``"cuda"`` for tensors on CUDA devices and another one for those on the CPU; any name is
        for tensors of one kind, and others are refused then.
    threads : int or None
        Upper limit of threads on the CPU; can be set at any time. None means ``FASTADAM_NUM_THREADS``, else what
        `torch.get_num_threads` says.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As torch, and where an option in `param_groups` is out of range or a tensor cannot be stepped. All checks
        come before the first write.

    Notes
    -----
    The step writes the parameters and the tensors in ``optimizer.state[p]`` in place and raises the
    parameters' version counters (not those of the state); gradients are only read. Everything can be edited or
    exchanged between two steps, as in torch.

    Arithmetic is the library's: each operation is rounded on its own, so that results do not depend on layout,
    threads or processor; against torch they differ in the last digits. bfloat16 and float16 are computed with in
    float32, and the moments are kept in the parameter's dtype. Kingma and Ba, ICLR 2015, arXiv:1412.6980.

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

    # What is remembered from step to step; copies and pickles start without it.
    _roster: Roster | None = None
    _noted: list[Any] | None = None  # the groups' options, as they were last checked
    _asked_for = "auto"
    _backend: Backend | None = None
    _backends: dict[int | None, Backend] | None = None  # in use: of the host (None) and of CUDA devices
    _threads: int | None = None
    _stepping = False
    _lock: Any  # see fastadam.step.locks

    # Unlike torch's fused kernels, a step does not undo loss scaling itself: GradScaler does it before.
    _step_supports_amp_scaling = property(lambda self: False, lambda self, value: None)

    @property
    def backend(self) -> str:
        """Name of the backend that was asked for."""
        return self._asked_for

    @backend.setter
    def backend(self, name: str) -> None:
        _, self._backend = backends.choose(name)
        self._asked_for = name
        self._roster = self._backends = None

    @property
    def threads(self) -> int | None:
        """Upper limit of threads that was asked for."""
        return self._threads

    @threads.setter
    def threads(self, limit: int | None) -> None:
        threads.check_limit(limit)
        self._threads = limit
        self._roster = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in torch.

        Parameters
        ----------
        param_group : dict
            ``"params"`` and any of the options.

        Raises
        ------
        TypeError, ValueError
            If torch refuses it, or an option is out of range.
        """
        if isinstance(param_group, dict) and not (self.defaults["fused"] and self.defaults["differentiable"]):
            # (Those two together are refused by torch.)
            _check_options({**self.defaults, **param_group}, f"param_groups[{len(self.param_groups)}]: ")
        super().add_param_group(param_group)
        if "_lock" not in self.__dict__:
            give_lock(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_asked_for": self._asked_for, "_threads": self._threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_lock" not in self.__dict__:
            give_lock(self)

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

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step: update the parameters that have a gradient, in place.

        Parameters
        ----------
        closure : callable, optional
            Called first, with gradients enabled; it recomputes the loss and the gradients.

        Returns
        -------
        object
            What `closure` returned, or None.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            If an option or a tensor is not what it must be. Nothing has been written then.
        """
        if torch.compiler.is_compiling():
            return _step_outside_of_graphs(self, closure)
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        ):
            return self._step_with_hooks() if closure is None else self._step_with_hooks(closure)
        return self._step(closure)

    # torch would wrap `step` so that hooks and the profiler see it; `step` calls that wrapper where there are any.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            loss = _in_grad_mode(True, closure)
        with self._lock:
            if self._stepping:
                raise RuntimeError("step was called while a step of this optimizer is under way")
            try:
                self._stepping = True
                outcome = self._attempt()
                if outcome != TAKEN:
                    care = functools.partial(self._step_with_care, remember=outcome != NEEDS_CARE)
                    _in_grad_mode(False, care)
            finally:
                self._stepping = False
        return loss

    _step_with_hooks = torch.optim.Optimizer.profile_hook_step(_step)

    def _attempt(self) -> int:
        """Take the step in one native call if nothing has changed but gradients, counters and options."""
        roster = self._roster
        if roster is None or roster.lineup is None or roster.state is not self.state:
            return CHANGED
        if len(self.param_groups) != len(roster.lists):
            return CHANGED
        for group, members in zip(self.param_groups, roster.lists, strict=True):
            if group["params"] is not members:
                return CHANGED
        if self._edited() and not self._take_up_options(roster):
            return CHANGED
        reader = _reader()
        for _ in range(MOST_ATTEMPTS):
            lineup = roster.lineup
            if not lineup.is_serial and lineup.limit != self._limit():
                return CHANGED
            _follow_streams(lineup.devices)
            try:
                outcome = reader.attempt(roster, lineup)
                if outcome == TAKEN:
                    increment_version(lineup.params)
                    return TAKEN
            except BaseException:  # an interrupt, perhaps after the step: autograd must not miss it
                increment_version(lineup.params)
                raise
            if outcome == OTHER_GRADIENTS:
                if not self._line_up(roster, roster.present.astype(bool)):
                    return CHANGED
            elif outcome == OTHER_STEPS:
                if not lineup.group_rows(roster.steps):
                    return CHANGED
            else:
                return outcome
        return CHANGED

    def _line_up(self, roster: Roster, active: Any) -> bool:
        try:
            return roster.line_up(active, self._backends or {}, self._limit(), self._threads is not None)
        except MemoryError:  # of a device: no reason to fail before, or even after, a step
            return False

    def _limit(self) -> int:
        if self._threads is not None:
            return self._threads
        return threads.limit_from_environment() or min(torch.get_num_threads(), threads.MOST)

    def _backends_for(self, parts: list[Part]) -> dict[int | None, Backend]:
        """Return the backends that step these parts.

        Raises
        ------
        RuntimeError
            If there is none for a part, or it is not the one that was asked for.
        """
        if self._backends is None:
            self._backends = {}
        for part in parts:
            if part.ordinal not in self._backends and part.has_memory:
                self._backends[part.ordinal] = self._backend_for(part)
        return self._backends

    def _backend_for(self, part: Part) -> Backend:
        asked_for, device = self._asked_for, part.param.device
        if asked_for != "auto" and (asked_for in backends.HOST) == (part.ordinal is not None):
            raise RuntimeError(
                f"{part.label} is on the device {device}, where the backend {asked_for!r} steps nothing; set "
                f"optimizer.backend = 'auto', or move the model"
            )
        if part.ordinal is not None:
            on = named(f"cuda:{part.ordinal}")
            _, backend = backends.on_device(on)
            place = part.extents[0][0]
            if place and not on.owns(place):  # torch and Numba ask the same driver
                raise RuntimeError(
                    f"{part.label} is on {device}, but Numba counts CUDA devices otherwise than torch"
                )
            return backend
        if self._backend is None:
            _, self._backend = backends.choose(asked_for)
        return self._backend

    def _edited(self) -> bool:
        """Whether the groups' options differ from what was last checked."""
        try:
            return [_read_options(group) for group in self.param_groups] != self._noted
        except Exception:  # a tensor that cannot be compared, a key that is missing
            return True

    def _check_groups(self) -> list[Hyperparameters]:
        """Check the options of all groups, and remember them."""
        self._noted = None
        hypers = [_check_options(group, f"param_groups[{i}]: ") for i, group in enumerate(self.param_groups)]
        options = [_read_options(group) for group in self.param_groups]
        if all(_are_fixed(each) for each in options):
            self._noted = options
        return hypers

    def _take_up_options(self, roster: Roster) -> bool:
        """Take up edited options; return whether the same kernels serve them."""
        self._roster = None  # an interrupt on the way leaves nothing that is half known
        hypers = self._check_groups()
        same_kernels = [(each.l2_on, each.amsgrad) for each in hypers] == [
            (each.l2_on, each.amsgrad) for each in roster.hypers
        ]
        if same_kernels:
            if hypers != roster.hypers:
                roster.accept(hypers)
            self._roster = roster
        return same_kernels

    def _step_with_care(self, *, remember: bool) -> None:
        """Look at everything, take the step, and remember what was found for the next one."""
        # Whatever interrupts or fails on the way: options that are noted never go with what was known of others.
        roster, self._roster = self._roster, None
        hypers = self._check_groups()
        if roster is not None and roster.hypers == hypers:
            self._roster = roster
        limit = self._limit()
        params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
        visit = _Visit(self.state, _counters_on_devices(params, self.state))
        position = 0
        for index, group in enumerate(self.param_groups):
            names = group.get("param_names")
            for place, param in enumerate(group["params"]):
                label = f"parameter {position}" if names is None else f"parameter {names[place]!r}"
                visit.add(position, index, param, label, hypers[index].amsgrad)
                position += 1
        parts = visit.parts
        if not parts:
            return
        chosen = self._backends_for(parts)
        _follow_streams([chosen[each] for each in {part.ordinal for part in parts} - {None}])
        apart = all_apart(parts)
        staged = Staged(parts, hypers, chosen, limit) if apart else None

        def write() -> None:
            visit.enter_state()
            if staged is not None:
                staged.run()
            else:  # what is written overlaps: one after the other, as torch does
                for part in parts:
                    Staged([part], hypers, chosen, limit).run()
            increment_version([part.param for part in parts if not part.param.is_inference()])

        uninterrupted(write)
        if remember and apart:
            self._remember(roster, parts, hypers, position)

    def _remember(self, roster: Roster | None, parts: list[Part], hypers: list[Hyperparameters], n: int) -> None:
        """Keep what was found, if the next step can be taken with it in one call."""
        self._roster = None
        if not isinstance(self.state, dict) or any(type(each["params"]) is not list for each in self.param_groups):
            return
        for part in parts:
            if not (part.has_memory and part.lies_plainly and part.counts_plainly) or part.param.is_inference():
                return
        if roster is None or not roster.is_about(self.param_groups, self.state):
            roster = Roster(self.param_groups, self.state, tensor_headers(torch))
        roster.accept(hypers)
        roster.note(parts)
        active = np.zeros(n, bool)
        active[[part.position for part in parts]] = True
        self._line_up(roster, active)
        self._roster = roster


class AdamW(Adam, torch.optim.AdamW):  # type: ignore[misc]
    """torch.optim.AdamW with another step: `Adam` with decoupled weight decay.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor) or of dict
        See `Adam`, as for all others.
    lr : float or Tensor, default 1e-3
        Learning rate.
    betas : pair of float or Tensor, default (0.9, 0.999)
        Decay rates of the two moments.
    eps : float, default 1e-8
        Added to the denominator.
    weight_decay : float, default 1e-2
        Each step takes ``lr * weight_decay * param`` off the parameter.
    amsgrad, maximize : bool, default False
        See `Adam`.
    foreach, fused : bool, optional
        Without effect.
    capturable, differentiable : bool, default False
        True is refused.

    Notes
    -----
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101, Algorithm 2.
    """


def _in_grad_mode(enabled: bool, work: Callable[[], Any]) -> Any:
    """Return what `work` returns, called with gradients enabled or not; the mode is then what it was.

    torch's own context managers are left with the wrong mode by an interrupt as they begin or end.
    """
    before = torch.is_grad_enabled()
    try:
        try:
            torch.set_grad_enabled(enabled)
            return work()
        finally:
            torch.set_grad_enabled(before)
    finally:  # where an interrupt has kept the other one from it
        torch.set_grad_enabled(before)


@torch._disable_dynamo  # type: ignore[untyped-decorator]
def _step_outside_of_graphs(optimizer: Adam, closure: Callable[[], Any] | None) -> Any:
    """Step where torch.compile is tracing: the graph is interrupted, as native code cannot be traced."""
    return optimizer.step() if closure is None else optimizer.step(closure)


class _Visit:
    """The parameters of one step that have a gradient, and state for those that have none yet.

    Parameters
    ----------
    state : dict
        The optimizer's `state`, which is not written before `enter_state`.
    counts : dict
        See `_counters_on_devices`.
    """

    def __init__(self, state: Any, counts: dict[int, float]) -> None:
        self.parts: list[Part] = []
        self._state, self._counts = state, counts
        self._visited: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._params: list[Any] = []

    def add(self, position: int, group: int, param: Any, label: str, amsgrad: bool) -> None:
        """Take up a parameter if it has a gradient.

        Raises
        ------
        RuntimeError
            If it, its gradient or its state is not what it must be.
        """
        grad = param.grad
        if grad is None:
            return
        if grad.layout != torch.strided and param.layout == torch.strided:
            raise RuntimeError("Adam does not support sparse gradients, please consider SparseAdam instead")
        check_stepped(param, label)
        check_grad(grad, param, f"the gradient of {label}")
        if id(param) not in self._visited:
            known = self._state.get(param)
            known = {} if known is None else known
            self._visited[id(param)] = known, _missing_state(known, param, label, amsgrad, self._counts)
            self._params.append(param)
        known, missing = self._visited[id(param)]
        entry = {**known, **missing}
        moments = tuple(entry[name] for name in MOMENTS[: 3 if amsgrad else 2])
        for name, moment in zip(MOMENTS, moments, strict=False):
            if not isinstance(moment, torch.Tensor):
                raise RuntimeError(f"the state {name!r} of {label} is a {type(moment).__name__}, not a tensor")
            check_stepped(moment, f"the state {name!r} of {label}")
            remedy = "load_state_dict(state_dict()) casts the state to the parameters' dtypes"
            check_like(moment, param, f"the state {name!r} of {label}", remedy)
        self.parts.append(Part(position, group, param, grad, known, entry["step"], moments, label))

    def enter_state(self) -> None:
        """Write what was missing into the optimizer's state."""
        for param in self._params:
            known, missing = self._visited[id(param)]
            known.update(missing)
            if self._state.get(param) is not known:
                self._state[param] = known


def _is_on_cuda(tensor: Any) -> bool:
    return bool(tensor.device.type == "cuda")


def _counters_on_devices(params: list[Any], state: Any) -> dict[int, float]:
    """Return the step counters that are on CUDA devices, by id; the host waits once for each device.

    They come from states that torch's fused or capturable optimizers saved; where a group says ``fused=True``,
    torch's `load_state_dict` even moves others there.
    """
    found: dict[Any, list[Any]] = {}
    for param in params:
        known = state.get(param)
        step = known.get("step") if isinstance(known, dict) else None
        if isinstance(step, torch.Tensor) and _is_on_cuda(step) and step.numel() == 1:
            found.setdefault(step.device, []).append(step)
    return {
        id(step): value
        for steps in found.values()
        for step, value in zip(
            steps, torch.stack([step.detach().reshape(()).double() for step in steps]).tolist(), strict=True
        )
    }


def _follow_streams(devices: Sequence[Any]) -> None:
    """Let steps on CUDA devices go into torch's current streams, as torch's own kernels do.

    Raises
    ------
    RuntimeError
        While a CUDA graph is being captured: its replays would repeat this step's coefficients.
    """
    for device in devices:
        if _is_capturing():
            raise RuntimeError(f"a CUDA graph cannot capture this step, as capturable: {REFUSED['capturable']}")
        device.use_stream(_current_stream(device.ordinal))


def _is_capturing() -> bool:
    return bool(torch.cuda.is_current_stream_capturing())


def _current_stream(ordinal: int) -> int:
    """Return the pointer of torch's current stream on a device; the legacy default stream is 0."""
    return int(torch.cuda.current_stream(ordinal).cuda_stream)


def _missing_state(known: Any, param: Any, label: str, amsgrad: bool, counts: dict[int, float]) -> dict[str, Any]:
    """Return what a parameter's state lacks: all of it before its first step."""
    if not isinstance(known, dict):
        raise RuntimeError(f"the state of {label} is a {type(known).__name__}; it must be a dict")
    missing: dict[str, Any] = {}
    names = MOMENTS[: 3 if amsgrad else 2]
    if not known:
        missing["step"] = torch.tensor(0.0, dtype=torch_optimizer._get_scalar_dtype(), device="cpu")
        missing |= {name: torch.zeros_like(param, memory_format=torch.preserve_format) for name in names}
        return missing
    for name in ("step", *MOMENTS[:2]):
        if name not in known:
            raise RuntimeError(f"the state of {label} has no {name!r}; clear it to start anew, or load it again")
    if amsgrad and MOMENTS[2] not in known:  # switched on in mid-training
        missing[MOMENTS[2]] = torch.zeros_like(param, memory_format=torch.preserve_format)
    step = counts.get(id(known["step"]), known["step"])
    value = step.item() if isinstance(step, torch.Tensor) and step.numel() == 1 else step
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise RuntimeError(f"the state 'step' of {label} must be a number of at least 0, got {step!r}")
    if not isinstance(step, torch.Tensor):
        missing["step"] = torch.tensor(float(value), dtype=torch_optimizer._get_scalar_dtype())
        step = missing["step"]
    if (step + 1).item() != value + 1:  # its dtype cannot count any further
        missing["step"] = torch.tensor(float(value), dtype=torch.float64)
    return missing


def _check_options(group: dict[str, Any], where: str) -> Hyperparameters:
    """Check the options of a group; one-element tensors count as the numbers in them."""
    for name, reason in REFUSED.items():
        if group[name]:
            raise RuntimeError(f"{where}{name}=True is not supported: {reason}")
    options = {name: _number(group[name]) for name in hyperparameters.KEYS}
    for name in ("amsgrad", "maximize", "decoupled_weight_decay"):
        options[name] = bool(options[name])
    options["betas"] = tuple(_number(beta) for beta in group["betas"])
    if callable(options["lr"]):
        raise TypeError(f"{where}lr must be a number, got {options['lr']!r}; use a scheduler of torch.optim")
    return hyperparameters.check(options, where)


def _number(value: Any) -> Any:
    """Return the number in a one-element tensor; anything else as it is."""
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value


def _are_fixed(options: tuple[Any, ...]) -> bool:
    """Whether no option can change and stay the same object, as a tensor or a list can."""
    betas = options[hyperparameters.KEYS.index("betas")]
    return type(betas) is tuple and all(
        isinstance(value, bool | int | float | str | None) for value in (*options, *betas) if value is not betas
    )
