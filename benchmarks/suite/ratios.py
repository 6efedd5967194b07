"""The time of a step in units of another optimizer's, both taken in turns in one process.

Below 1 the step is faster: asv takes less for better.
"""

from __future__ import annotations

import statistics
from typing import Any

from .measured import COMPILED, LAYOUTS, TORCH_FACE, Benchmark, current, maker, need_memory, need_module

PROBLEMS = ["12 tensors", "3,000 tensors", "1e6 in one", "1e7 in one"]
ROUNDS, SECONDS = 60, 2.0


def need_torch(*params: str) -> None:
    """Skip where the module is missing through which the contenders find torch; asv looks for that in a set-up."""
    need_module("fastadam.torch")


class Ratio(Benchmark):
    """Median over the rounds of the ratio within a round."""

    param_names = ("backend", "layout", "problem")
    params = (COMPILED, [*LAYOUTS, TORCH_FACE], PROBLEMS)
    timeout = 120

    def setup(self, backend: str, layout: str, problem: str) -> None:
        measure, shapes = current("measure"), current("shapes")
        sets = (shapes.ppo_pair(), shapes.tiny_tensors(), [(10**6,)], [(10**7,)])
        self.own = measure.Contender(maker(backend, layout), 4)
        self.problem = measure.Problem(problem, sets[PROBLEMS.index(problem)])
        need_memory(self.problem.bytes_needed(self.pair(None), 4))

    def track_to_torch_fused(self, backend: str, layout: str, problem: str) -> float:
        return self.ratio(current("contenders").torch_adam(fused=True))

    def track_to_numpy(self, backend: str, layout: str, problem: str) -> float:
        return self.ratio(current("contenders").numpy_per_tensor)

    track_to_torch_fused.setup = need_torch  # type: ignore[attr-defined]
    track_to_torch_fused.unit = "of torch fused's time"  # type: ignore[attr-defined]
    track_to_numpy.unit = "of the time by hand in NumPy"  # type: ignore[attr-defined]

    def pair(self, base: Any) -> dict[str, Any]:
        return {"own": self.own, "base": current("measure").Contender(base, 3, 4)}

    def ratio(self, base: Any) -> float:
        found = current("measure").measure(
            self.problem, self.pair(base), "float32", ROUNDS, SECONDS, lambda name: None
        )
        pairs = zip(found.seconds["own"], found.seconds["base"], strict=True)
        return float(statistics.median(own / of_base for own, of_base in pairs))
