"""Where steps run: on the host, with its threads, and on CUDA devices, in torch's streams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastadam import backends
from fastadam.memory.devices import named
from fastadam.step import threads
from fastadam.step.backend import Backend


class OnDevice(Protocol):
    """What a step has to know of a parameter to find its backend; see `fastadam.torch.staging.Part`."""

    param: Tensor
    label: str
    extents: list[tuple[int, int]]
    has_memory: bool
    ordinal: int | None


def ordinal_of(tensor: Tensor) -> int | None:
    """Return the number of the CUDA device that holds the tensor, or None for the host's memory."""
    device = tensor.device
    return device.index if device.type == "cuda" else None


def dlpack_device(tensor: Tensor) -> int:
    """Return the device as DLPack has it: type (1 for the host, 2 for CUDA) and number in one number."""
    device = tensor.device
    return 2 | device.index << 32 if device.type == "cuda" else 1


def thread_limit(asked_for: int | None) -> int:
    """Return the upper limit of threads: what the user asked for, or the environment, or what torch takes."""
    if asked_for is not None:
        return asked_for
    return threads.limit_from_environment() or min(torch.get_num_threads(), threads.MOST)


class ChosenBackends:
    """The backends that step an optimizer's tensors, each chosen when a tensor first needs it.

    Parameters
    ----------
    asked_for : str
        ``"auto"``, or the name of a backend.

    Attributes
    ----------
    asked_for : str
    by_ordinal : dict
        From the numbers of CUDA devices, and None for the host, to backends.
    """

    def __init__(self, asked_for: str) -> None:
        self.asked_for = asked_for
        self.by_ordinal: dict[int | None, Backend] = {}

    def choose_for(self, parts: Iterable[OnDevice]) -> None:
        """Choose a backend for each device that these parameters are on.

        Raises
        ------
        RuntimeError
            If there is none for one of them, or it is not the one that was asked for.
        """
        for part in parts:
            if part.ordinal not in self.by_ordinal and part.has_memory:
                self.by_ordinal[part.ordinal] = self._backend_for(part)

    def _backend_for(self, part: OnDevice) -> Backend:
        asked_for, device = self.asked_for, part.param.device
        if asked_for != "auto" and (asked_for in backends.HOST) == (part.ordinal is not None):
            raise RuntimeError(
                f"{part.label} is on the device {device}, where the backend {asked_for!r} steps nothing; set "
                f"optimizer.backend = 'auto', or move the model"
            )
        if part.ordinal is None:
            return backends.choose(asked_for)[1]
        device_there = named(f"cuda:{part.ordinal}")
        _, backend = backends.on_device(device_there)
        address = part.extents[0][0]
        if address and not device_there.owns(address):  # torch and Numba ask the same driver
            raise RuntimeError(f"{part.label} is on {device}, but Numba counts CUDA devices otherwise than torch")
        return backend


def follow_streams(devices: Sequence[Any]) -> None:
    """Let steps on CUDA devices go into torch's current streams, as torch's own kernels do.

    Raises
    ------
    RuntimeError
        While a CUDA graph is being captured: its replays would repeat this step's coefficients.
    """
    for device in devices:
        if is_capturing():
            raise RuntimeError(
                "a CUDA graph cannot capture this step, whose coefficients come from the host; set "
                "capturable=True in all param_groups and step once before the capture: torch's own code takes it"
            )
        device.use_stream(current_stream(device.ordinal))


def is_capturing() -> bool:
    """Whether a CUDA graph is being captured."""
    return bool(torch.cuda.is_current_stream_capturing())


def current_stream(ordinal: int) -> int:
    """Return the pointer of torch's current stream on a device; the legacy default stream is 0."""
    return int(torch.cuda.current_stream(ordinal).cuda_stream)


def is_on_cuda(tensor: Tensor) -> bool:
    """Whether a tensor is on a CUDA device."""
    return bool(tensor.device.type == "cuda")


def counters_on_devices(params: Iterable[Tensor], state: Any) -> dict[int, float]:
    """Return the step counters that are on CUDA devices, by id; the host waits once for each device.

    They come from states that torch's fused or capturable optimizers saved; where a group says ``fused=True``,
    torch's `load_state_dict` even moves others there.
    """
    found: dict[Any, list[Tensor]] = {}
    for param in params:
        known = state.get(param)
        step = known.get("step") if isinstance(known, dict) else None
        if isinstance(step, Tensor) and is_on_cuda(step) and step.numel() == 1:
            found.setdefault(step.device, []).append(step)
    return {
        id(step): value
        for steps in found.values()
        for step, value in zip(
            steps, torch.stack([step.detach().reshape(()).double() for step in steps]).tolist(), strict=True
        )
    }
