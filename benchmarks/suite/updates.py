"""The time of whole updates of PPO, of which the step is a part."""

from __future__ import annotations

from . import ppo
from .measured import SETTLED, Benchmark, need_backend, need_module, seconds_of

OPTIMIZERS = ["fastadam.torch c", "fastadam.torch numba", "torch fused", "torch default"]


class PPOUpdate(Benchmark):
    """One update of actor and critic in PyTorch: zero_grad, forward, backward and step."""

    param_names = ("optimizer",)
    params = (OPTIMIZERS,)

    def setup(self, optimizer: str) -> None:
        need_module("torch")
        library, how = optimizer.split(" ")
        if library == "torch":
            self.update = ppo.torch_update(**({"fused": True} if how == "fused" else {}))
        else:
            need_module("fastadam.torch")
            need_backend(how)
            self.update = ppo.face_update(how)
        for _ in range(SETTLED):
            self.update()

    def track_seconds(self, optimizer: str) -> float:
        return seconds_of(self.update)

    track_seconds.unit = "seconds"  # type: ignore[attr-defined]
