"""The time of a step with what is around it in a training loop: clipping, averages of the weights."""

from __future__ import annotations

from typing import Any

from .measured import COMPILED, SETTLED, TORCH_FACE, Benchmark, need_backend, need_module, seconds_of, shapes_of

WHAT: dict[str, dict[str, Any]] = {
    "step": {},
    "clip, step": {"max_grad_norm": 0.5},
    "step, average": {"ema_decay": 0.999},
}


class Loop(Benchmark):
    """One step over the tensors of PPO (12), of GPT-2 small and 3,000 tiny ones, alone and with more in it."""

    param_names = ("backend", "layout", "what", "tensors")
    params = (COMPILED, ["packed", TORCH_FACE], list(WHAT), [12, 148, 3000])

    def setup(self, backend: str, layout: str, what: str, tensors: int) -> None:
        need_backend(backend)
        try:
            make = _torch_step if layout == TORCH_FACE else _packed_step
            self.step = make(backend, WHAT[what], tensors)
        except TypeError as error:  # of a version that knows nothing of it
            raise NotImplementedError(str(error)) from error
        for _ in range(SETTLED):
            self.step()

    def track_seconds(self, backend: str, layout: str, what: str, tensors: int) -> float:
        return seconds_of(self.step)

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]


def _packed_step(backend: str, settings: dict[str, Any], tensors: int) -> Any:
    import numpy as np

    import fastadam

    rng = np.random.default_rng(0)
    flat = fastadam.pack([rng.standard_normal(shape, np.float32) for shape in shapes_of(tensors)])
    flat.grad[...] = rng.standard_normal(flat.grad.size, np.float32)
    chosen: Any = backend
    return fastadam.Adam(flat, backend=chosen, **settings).step


def _torch_step(backend: str, settings: dict[str, Any], tensors: int) -> Any:
    torch = need_module("torch")
    face = need_module("fastadam.torch")
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes_of(tensors)]
    for param in params:
        param.grad = torch.randn_like(param)
    optimizer = face.Adam(params, **settings)
    optimizer.backend = backend
    return optimizer.step
