"""The face over MPI: `Adam` for several processes, each with the state of a part of the parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

from mpi4py import MPI

from fastadam.adam import Adam as AdamOfOneProcess
from fastadam.groups.contents import Contents
from fastadam.groups.group import Group
from fastadam.groups.groups import Groups
from fastadam.groups.shares import Share
from fastadam.groups.state import find, missing
from fastadam.memory.state_file import FilePath, StateFile
from fastadam.mpi import agreement
from fastadam.mpi.exchange import Peers, broadcast, whole_state
from fastadam.mpi.ranks import DEFAULT_TIMEOUT, OPERATIONS, Operation, Ranks, check_timeout
from fastadam.mpi.steps import Steps
from fastadam.mpi.swapped import SharedSwap
from fastadam.step import after, gradient_settings
from fastadam.step.backend import BackendName
from fastadam.step.hyperparameters import DEFAULTS, LearningRate, Real, Rounding, StateDtype
from fastadam.work.averages import Swapped
from fastadam.work.care import call_closure

if TYPE_CHECKING:
    from fastadam.groups.forms import ParamGroup, Params
    from fastadam.memory.forms import Grads, Masks, Tree


class Adam(AdamOfOneProcess, closed=True):
    """`fastadam.Adam` over the processes of an MPI communicator, which share out its state (ZeRO, stage 1).

    Every rank makes the optimizer over parameters of its own, of the same shapes, and gives it the gradients that
    it has computed, such as those of its part of a batch. A step averages the gradients of all ranks; each rank
    steps its share of the elements, of which it alone keeps moments, masters and averages; then all of them get
    the parameters that the others have stepped. The bits are those of one `fastadam.Adam` whose gradients are that
    mean, for any number of ranks.

    Parameters
    ----------
    params : ndarray, Parameter, Packed, iterable, mapping or list of dict
        See `fastadam.Adam`; NumPy arrays only. All ranks begin with the numbers that rank 0 has: those of the
        others are overwritten.
    lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay, state_dtype, master_weights, rounding
        See `fastadam.Adam`, as for all others. They must be the same on every rank, which is checked in each step.
    seed, max_grad_norm, skip_nonfinite, error_if_nonfinite, ema_decay, ema_warmup, backend, threads
        See `fastadam.Adam`. The norm is that of the mean gradients, and has the bits that it has on one process.
        Where several ranks are on one machine, give each its part of the processors by `threads`.
    state_path : str or path-like, optional
        See `fastadam.Adam`. Each rank has a file of its own, so give each another name.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks; by default all of them, ``MPI.COMM_WORLD``.
    timeout : float, default 600
        Seconds that a rank waits for the others within one exchange, before it raises `LostRankError`.

    Raises
    ------
    RankError
        If another rank has raised, or the ranks differ in the parameters or options.

    Notes
    -----
    What exchanges something is called by all ranks, in the same order: the constructor, `step`, `add_param_group`,
    `state_dict`, `load_state_dict`, `averaged`, `fastadam.save`, `fastadam.load`. Each begins with an agreement:
    where one rank raises, or ranks differ in what they call, in options or in which gradients are None, every rank
    raises, before anything is written.

    A rank that never comes, because its process has ended or hangs, makes the others raise `LostRankError` after
    `timeout` seconds. After that, and after an error in the middle of an exchange, nothing more is exchanged, and
    the end of the process ends all others, too (by ``MPI_Abort``), as MPI's own end would wait for ever. Run
    programs by ``mpiexec -n 4 python -m mpi4py program.py``, and an exception outside of the library ends all
    ranks at once.

    The mean is the sum in the order of the ranks, in the dtype that is computed in (float32 for numbers of 16
    bits), divided by their number. `state` and `ema` are of this rank's share: their values are 1-D views of the
    elements ``optimizer.share(key)`` of a parameter. One thread at a time may use the optimizers over a
    communicator. They cannot be copied or pickled.
    """

    __slots__ = ("_operation", "_ranks", "_steps")

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
        backend: BackendName = "auto",
        threads: int | None = None,
        state_path: FilePath | None = None,
        comm: MPI.Intracomm | None = None,
        timeout: Real = DEFAULT_TIMEOUT,
    ) -> None:
        self._ranks = Ranks(MPI.COMM_WORLD if comm is None else comm, timeout)
        with self._together("Adam"):
            check_timeout(timeout)
            super().__init__(
                *(params, lr, betas, eps, weight_decay, amsgrad),
                maximize=maximize,
                decoupled_weight_decay=decoupled_weight_decay,
                state_dtype=state_dtype,
                master_weights=master_weights,
                rounding=rounding,
                seed=seed,
                max_grad_norm=max_grad_norm,
                skip_nonfinite=skip_nonfinite,
                error_if_nonfinite=error_if_nonfinite,
                ema_decay=ema_decay,
                ema_warmup=ema_warmup,
                backend=backend,
                threads=threads,
                state_path=state_path,
            )
            self._steps = Steps(self._ranks, self._planner)

    def add_param_group(self, param_group: ParamGroup | Mapping[str, Tree]) -> None:
        """Add a group of parameters, on every rank; they begin as rank 0 has them (see `fastadam.Adam`)."""
        with self._together("add_param_group"):
            super().add_param_group(param_group)

    def step(
        self,
        grads: Grads = None,
        grad_scale: Real = 1.0,
        zero_grad: bool = False,
        *,
        mask: Masks = None,
        closure: Any = None,
    ) -> Any:
        """Take one step with the mean of all ranks' gradients: update the parameters of every rank in place.

        Parameters
        ----------
        grads : iterable, mapping or ndarray, optional
            This rank's gradients, in any form that `fastadam.Adam.step` takes. Where one is None, it must be on
            every rank.
        grad_scale : float, default 1
            The scale of the loss, the same on every rank.
        zero_grad : bool, default False
            Fill this rank's gradients with zeros after the step.
        mask : optional
            None: over MPI, steps are over whole parameters.
        closure : callable, optional
            See `fastadam.Adam.step`; each rank calls its own.

        Raises
        ------
        TypeError, ValueError
            If something is not what it must be on this rank; nothing was written on any then.
        RankError
            If that is so on another rank, or the ranks differ.
        RuntimeError
            If gradients are not finite, with `error_if_nonfinite`: on every rank.
        """
        with self._together("step") as operation:
            if mask is not None:
                raise TypeError(
                    "mask is for an optimizer of one process, as ranks share out whole parameters; set the "
                    "gradients of the other rows to zero, and leave mask=None"
                )
            loss = None if closure is None else call_closure(closure)
            guard = self._guard
            with guard.lock:
                if guard.stepping:
                    guard.refuse_while_stepping("step")
                try:
                    guard.stepping = True
                    if self._groups.edits.noticed(self.param_groups):
                        self._groups.take_up(self.param_groups)
                    error = self._steps.take(operation, grads, grad_scale, zero_grad)
                finally:
                    guard.stepping = False
        if error is not None:
            raise error
        return loss

    def share(self, key: Any) -> slice:
        """Return which elements of a parameter, in the order of memory, this rank steps and has the state of.

        Parameters
        ----------
        key : int, str, ndarray or Parameter
            A parameter's position, its name, or itself.
        """
        position = find(self._groups, key)
        if position is None:
            raise KeyError(missing(self._groups, key))
        member = self._groups.members[position]
        return slice(member.first, member.first + member.size)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the whole state and options, on every rank: the dict of `fastadam.Adam.state_dict`.

        It takes the memory of all of the state on each rank. `fastadam.save` does not.

        Raises
        ------
        TypeError, ValueError, RankError
            If an option has been edited to something that it cannot be, here or on another rank.
        """
        with self._exclusive("state_dict") as contents:
            saved = contents.saved(copy=False)
            entries = whole_state(contents.groups, saved["state"])
            contents.peers.agree({agreement.STEPS: agreement.steps(contents.groups)})
            for collect in entries:
                collect(self._ranks)
        return saved

    def averaged(self) -> Swapped:
        """Return a context manager in which averages are in the place of parameters (see `fastadam.Adam`).

        Every rank enters and leaves it.
        """
        self._averages.swapped()  # refuses it where there are none
        return SharedSwap(self._groups, self._guard, self._ranks)

    def __getstate__(self) -> NoReturn:
        self._refuse_copies()

    def __copy__(self) -> NoReturn:
        self._refuse_copies()

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self._refuse_copies()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        self._refuse_copies()

    def _refuse_copies(self) -> NoReturn:
        raise TypeError(
            "an optimizer over MPI cannot be copied or pickled, as it has a part of the state and works together "
            "with other processes; use fastadam.save, or state_dict() on every rank, and make a new one"
        )

    def _no_groups(self, file: StateFile | None) -> Groups:
        return Groups(file, Share(self._ranks.rank, self._ranks.size))

    def _admit(self, new: Sequence[Group]) -> None:
        members = [member for group in new for member in group.members]
        described = agreement.parameters(members)
        self._operation.agree({agreement.PARAMETERS: described.encode()}, lambda topic: described)
        broadcast(self._ranks, members, self._operation.name)

    @contextlib.contextmanager
    def _together(self, what: str) -> Iterator[Operation]:
        """Have a block be what all ranks do together."""
        with self._ranks.operation(what) as operation:
            self._operation = operation
            yield operation

    @contextlib.contextmanager
    def _exclusive(self, what: str) -> Iterator[Contents]:
        if what not in OPERATIONS:
            raise TypeError(
                f"{what} is for an optimizer of one process; fill one over the same parameters with "
                f"load_state_dict(optimizer.state_dict()), and use that one"
            )
        with self._together(what) as operation, super()._exclusive(what):
            yield Contents(self._groups, self.param_groups, Peers(self._ranks, operation))
