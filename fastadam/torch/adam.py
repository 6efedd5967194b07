"""The optimizers for PyTorch: torch's own, with another step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import increment_version
from torch.optim import optimizer as torch_optimizer

from fastadam import backends
from fastadam.groups.edits import Edits
from fastadam.memory.structs import CHANGED, TAKEN
from fastadam.step import threads
from fastadam.step.hyperparameters import Hyperparameters
from fastadam.step.interrupts import uninterrupted
from fastadam.step.locks import Guard
from fastadam.torch import options
from fastadam.torch.attempts import Attempts
from fastadam.torch.devices import ChosenBackends, follow_streams, thread_limit
from fastadam.torch.staging import Part, Staged, all_apart
from fastadam.torch.visit import Visit


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
    _attempts: Attempts | None = None
    _chosen: ChosenBackends | None = None
    _edits: Edits
    _guard: Guard
    # What was asked for.
    _asked_for = "auto"
    _threads: int | None = None

    # Unlike torch's fused kernels, a step does not undo loss scaling itself: GradScaler does it before.
    _step_supports_amp_scaling = property(lambda self: False, lambda self, value: None)

    @property
    def backend(self) -> str:
        """Name of the backend that was asked for."""
        return self._asked_for

    @backend.setter
    def backend(self, name: str) -> None:
        backends.choose(name)
        self._asked_for = name
        self._attempts = self._chosen = None

    @property
    def threads(self) -> int | None:
        """Upper limit of threads that was asked for."""
        return self._threads

    @threads.setter
    def threads(self, limit: int | None) -> None:
        threads.check_limit(limit)
        self._threads = limit
        self._attempts = None

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
            options.check({**self.defaults, **param_group}, f"param_groups[{len(self.param_groups)}]: ")
        super().add_param_group(param_group)
        self._equip()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_asked_for": self._asked_for, "_threads": self._threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._equip()

    def _equip(self) -> None:
        """Give the optimizer what each one has of its own, if it is new."""
        if "_guard" not in self.__dict__:
            self._guard, self._edits = Guard(), Edits(options.read)

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
        guard = self._guard
        with guard.lock:
            if guard.stepping:
                guard.refuse_while_stepping("step")
            try:
                guard.stepping = True
                outcome = self._attempt()
                if outcome != TAKEN:
                    # A gradient that needs care says nothing about the next ones.
                    care = functools.partial(self._step_with_care, remember=outcome < 0)
                    _in_grad_mode(False, care)
            finally:
                guard.stepping = False
        return loss

    _step_with_hooks = torch.optim.Optimizer.profile_hook_step(_step)

    def _attempt(self) -> int:
        """Take the step in one native call if nothing has changed but gradients, counters and options."""
        attempts = self._attempts
        if attempts is None or attempts.cache.state is not self.state:
            return CHANGED
        if self._edits.noticed(self.param_groups) and not self._take_up_edits(attempts):
            return CHANGED
        return attempts.take()

    def _take_up_edits(self, attempts: Attempts) -> bool:
        """Take up edited options; return whether the same parameters and kernels go with them."""
        if not attempts.cache.is_in(self.param_groups, self.state):
            return False
        self._attempts = None  # an interrupt on the way leaves nothing that is half known
        hypers = self._check_groups()
        same_kernels = [(each.l2_on, each.amsgrad) for each in hypers] == [
            (each.l2_on, each.amsgrad) for each in attempts.hypers
        ]
        if same_kernels:
            if hypers != attempts.hypers:
                attempts.accept(hypers)
            self._attempts = attempts
        return same_kernels

    def _check_groups(self) -> list[Hyperparameters]:
        """Check the options of all groups, and note them."""
        self._edits.forget()
        hypers = options.check_all(self.param_groups)
        found = [options.read(group) for group in self.param_groups]
        if all(map(options.are_fixed, found)):
            self._edits.note(found, [group["params"] for group in self.param_groups])
        return hypers

    def _step_with_care(self, *, remember: bool) -> None:
        """Look at everything, take the step, and remember what was found for the next one."""
        # Whatever interrupts or fails on the way: what is noted of the groups never goes with what was known of
        # others.
        attempts, self._attempts = self._attempts, None
        hypers = self._check_groups()
        if attempts is not None and not attempts.cache.is_in(self.param_groups, self.state):
            attempts = None
        if attempts is not None and attempts.hypers == hypers:
            self._attempts = attempts
        visit = Visit(self.param_groups, self.state, hypers)
        parts = visit.parts
        if not parts:
            return
        if self._chosen is None:
            self._chosen = ChosenBackends(self._asked_for)
        self._chosen.choose_for(parts)
        chosen, limit = self._chosen.by_ordinal, thread_limit(self._threads)
        follow_streams([chosen[each] for each in {part.ordinal for part in parts} - {None}])
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
            self._remember(attempts, parts, hypers, visit.n)

    def _remember(
        self, attempts: Attempts | None, parts: list[Part], hypers: list[Hyperparameters], n: int
    ) -> None:
        """Keep what was found, if the next step can be taken with it in one call."""
        self._attempts = None
        if not isinstance(self.state, dict) or any(type(each["params"]) is not list for each in self.param_groups):
            return
        for part in parts:
            if not (part.has_memory and part.lies_plainly and part.counts_plainly) or part.param.is_inference():
                return
        if attempts is None or not attempts.cache.holds_the_same():
            assert self._chosen is not None
            attempts = Attempts(self.param_groups, self.state, self._chosen, self._threads)
        attempts.accept(hypers)
        active = np.zeros(n, bool)
        active[[part.position for part in parts]] = True
        attempts.note(parts, active)
        self._attempts = attempts


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
