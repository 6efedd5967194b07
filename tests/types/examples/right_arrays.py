"""Right uses of the face for arrays, in which type checkers find nothing."""

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastadam
from fastadam.schedules import Cosine, Join, Warmup, from_dict


class Layer(NamedTuple):
    w: NDArray[np.float64]
    b: NDArray[np.float32]


class OnDevice:
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {}


class Model:
    def __iter__(self) -> Iterator[NDArray[np.float64]]:
        yield np.ones(3)


class Both(Sequence[NDArray[np.float64]]):
    def __getitem__(self, index: Any) -> Any:
        return np.ones(3)

    def __len__(self) -> int:
        return 2


w = np.ones((3, 3))
b = np.zeros(3, np.float32)
z = np.zeros(3, np.complex64)
half = np.zeros(3, np.float16)
anything: NDArray[Any] = np.ones(3)
real: NDArray[np.floating[Any]] = np.ones(3)
named = {"w": w, "v": w}
several = [w, w + 1.0]
layers = [{"w": np.ones((3, 3)), "b": np.zeros(3)} for _ in range(3)]
tree: fastadam.Params = {"trunk": [Layer(w, b), {"w": (w, b)}], "head": w}

# One array, several, in any iterable.
fastadam.Adam(w)
fastadam.Adam(z)
fastadam.Adam(anything)
fastadam.Adam(real)
fastadam.Adam(np.array([0.5, -0.3]))
fastadam.Adam([w, b])
fastadam.Adam(several)
fastadam.Adam((w, b, z))
fastadam.Adam([half, b], master_weights=True, state_dtype="int8").step([b, half])
fastadam.Adam(deque([w]))
fastadam.Adam(each for each in several)
fastadam.Adam(iter(several))
fastadam.Adam(map(np.ascontiguousarray, several))
fastadam.Adam(named.values())
fastadam.Adam(Model())
fastadam.Adam(Both())

# With names, as mappings and pairs.
fastadam.Adam({"w": w, "b": b})
fastadam.Adam(named)
fastadam.Adam(OrderedDict(w=w))
fastadam.Adam(named.items())
fastadam.Adam([("w", w), ("b", b)])
fastadam.Adam((f"layer{i}", each) for i, each in enumerate(several))

# Nested, to any depth.
fastadam.Adam([{"w": w, "b": b}, {"w": w}])
fastadam.Adam(layers)
fastadam.Adam([[w, w], [b, b]])
fastadam.Adam({"a": {"w": w}, "b": [w, (b, {"c": b})]})
fastadam.Adam(Layer(w, b))
fastadam.Adam([Layer(w, b), Layer(w, b)])
fastadam.Adam(tree)

# Parameters, packed buffers, arrays on devices.
p = fastadam.Parameter(w)
fastadam.Adam(p)
fastadam.Adam([p, w])
fastadam.Adam({"p": p})
flat = fastadam.pack({"w": w, "b": w})
fastadam.Adam(flat)
fastadam.Adam(OnDevice())
fastadam.Adam([OnDevice(), w])
fastadam.Adam({"w": fastadam.Parameter(OnDevice())})
p.grad = w
p.grad = None
p.grad = OnDevice()
p.data[...] = 2.0
p.data -= 1.0
flat.grads["w"][...] = 0.1
flat.param *= 2.0
fastadam.pack([w, w + 1])
fastadam.pack((w, w), device="cuda:1")
fastadam.pack(each for each in several)
fastadam.pack(named.values())

# Groups.
group: fastadam.ParamGroup = {"params": w, "lr": 1e-3}
groups: list[fastadam.ParamGroup] = [group, {"params": [w, b], "betas": (0.8, 0.9), "eps": 1e-6}]
fastadam.Adam(groups)
fastadam.Adam([group, group])
fastadam.Adam([{"params": w, "lr": 1e-3}, {"params": [w, b]}])
fastadam.Adam([{"params": named, "lr": lambda step: 1.0 / step}, {"params": named.values(), "weight_decay": 1}])
fastadam.Adam([{"params": flat}, {"params": [("w", w)], "amsgrad": True}, {"params": p, "maximize": True}])
fastadam.Adam([{"params": layers, "decoupled_weight_decay": True}])
fastadam.Adam([{"params": layers, "lr": {"0": 1e-2, "*.b": 0}, "weight_decay": {"*.w": 0.1}}])
optimizer = fastadam.Adam(each for each in groups)
optimizer.add_param_group({"params": [w], "lr": Cosine(1e-3, 100)})
optimizer.add_param_group(group)
again: dict[str, Any] = optimizer.param_groups[0]
optimizer.add_param_group(again)
fastadam.Adam(optimizer.param_groups)
optimizer.param_groups[0]["lr"] *= 0.5


# Options.
def decayed(step: int) -> float:
    return 0.1 / step


def decayed_in_float32(step: int) -> np.float32:
    rate: np.float32 = np.float32(0.1 / step)
    return rate


schedule: fastadam.Schedule = decayed
settings: fastadam.Options = {"lr": 0.1, "backend": "c", "threads": 2}
fastadam.Adam(w, 1, (0, 0.5), 0, 0, True, maximize=True)
fastadam.Adam(w, lr=decayed, betas=(0.9, 0.99), eps=1e-6, weight_decay=1e-2, amsgrad=True)
fastadam.Adam(w, lr=schedule)
fastadam.Adam(w, lr=decayed_in_float32)
fastadam.Adam(w, lr=np.float32(0.1), eps=np.float64(1e-6))
fastadam.Adam(w, lr=lambda step: 1.0 / step)
fastadam.Adam(w, lr=Warmup(Cosine(1e-2, steps=900, end=1e-4), steps=100))
fastadam.Adam(w, lr=Join([0.1, Cosine(1e-2, 100)], [10]))
fastadam.Adam(w, lr=from_dict(Cosine(0.1, 100).to_dict()))
fastadam.Adam(w, **settings)
fastadam.AdamW(w, weight_decay=0.1, backend="numpy", threads=None)
fastadam.AdamW({"w": w}, lr=schedule, threads=os.cpu_count())
backend: fastadam.Backend = "numba"
fastadam.Adam(w, backend=backend)
for name, state in fastadam.available_backends().items():
    if state == "available":
        fastadam.Adam(w, backend=name)

# Steps, with gradients in the same forms.
optimizer.step()
optimizer.step(None)
optimizer.step(w)
optimizer.step(2 * (w - 1.0))
optimizer.step([w, None, b])
optimizer.step((w, 2 * b))
optimizer.step(each for each in several)
optimizer.step(named)
optimizer.step({"w": w, "b": None})
optimizer.step(layers)
optimizer.step({"trunk": [Layer(w, b), {"w": (w, None)}], "head": w})
optimizer.step(named.values())
optimizer.step(w.sum())
optimizer.step([np.float64(3.0), w.mean()])
optimizer.step(OnDevice())
optimizer.step([w @ w, np.exp(w), np.zeros_like(w), w.T])
grads: fastadam.Grads = {"w": w, "rest": [w, None]}
optimizer.step(grads)
optimizer.step(fastadam.Rows([1, 2], w))
optimizer.step({"w": fastadam.Rows(np.array([3]), w[:1]), "b": None}, mask={"b": b > 0})
optimizer.step([w, b], mask={0: np.array([True]), "b": None})
fastadam.Adam(w, lazy="exact").step(w, mask=w > 0)
fastadam.AdamW([w], lazy="skip").catch_up()


# Closures keep the type of what they return.
def closure() -> float:
    return 0.5


def complicated() -> tuple[str, NDArray[Any]]:
    return "", w


loss: float = optimizer.step(closure=closure)
pair: tuple[str, NDArray[Any]] = optimizer.step(closure=complicated)
nothing: None = optimizer.step([w], closure=None)

# State, checkpoints.
moment: NDArray[Any] = optimizer.state["w"]["exp_avg"]
optimizer.state[0]["step"]
optimizer.state[w]["exp_avg_sq"][...] = 0.0
count: int = len(optimizer.state)
saved: dict[str, Any] = optimizer.state_dict()
optimizer.load_state_dict(saved)
optimizer.zero_grad(set_to_none=False)

# What is assigned, and read.
optimizer.lr = 0.1
optimizer.lr = np.float32(0.1)
optimizer.lr = Cosine(1e-3, 100)
optimizer.lr = lambda step: 0.1 / step
optimizer.betas = (0.9, np.float64(0.99))
optimizer.eps = optimizer.weight_decay = 0
optimizer.amsgrad = optimizer.maximize = optimizer.decoupled_weight_decay = True
optimizer.backend = "numpy"
optimizer.threads = 2
optimizer.threads = None
beta1, beta2 = optimizer.betas
decays: bool = float(optimizer.weight_decay) > 0 and not optimizer.decoupled_weight_decay
used: str = optimizer.backend
limit: int | None = optimizer.threads
fastadam.save("run.safetensors", optimizer, extra={"epoch": 7})
fastadam.save(Path("run.safetensors"), optimizer, False)
epoch = fastadam.load(Path("run.safetensors"), optimizer)["epoch"]


# A loop around it.
def line(params: dict[str, NDArray[np.float64]], rows: NDArray[np.int64]) -> tuple[float, fastadam.Grads]:
    return 0.5, params


def bowl(x: NDArray[np.float64]) -> tuple[np.float64, NDArray[np.float64]]:
    return np.float64(x @ x / 2), x


batches = (np.arange(3) for _ in range(10))
found = fastadam.minimize(line, named, batches=batches, lr=Cosine(0.1, 10), backend="c")
found = fastadam.minimize(line, named, batches=[np.arange(3)], steps=1, keep_best=True)
found = fastadam.minimize(bowl, np.ones(3), steps=10, betas=(0.8, 0.9), threads=1)
found = fastadam.minimize(lambda x: (x @ x / 2, x), np.ones(3), steps=10, callback=lambda step, loss: None)
losses: NDArray[np.float64] = found.losses
found.params.round(2)
found.optimizer.step([w])


# Functions of the user's own.
def train(params: fastadam.Params, lr: float | fastadam.Schedule, on: fastadam.Backend = "auto") -> fastadam.Adam:
    return fastadam.Adam(params, lr=lr, backend=on)


def scaled(schedule: fastadam.Schedule, by: float) -> fastadam.Schedule:
    return lambda step: by * schedule(step)


def stepped(optimizer: fastadam.Adam, gradients: Callable[[], Mapping[str, NDArray[np.float32]]]) -> None:
    optimizer.step(gradients())


train({"w": w}, scaled(Cosine(0.1, 10), 2.0), "numpy")
train(layers, 0.1)
