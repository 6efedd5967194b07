"""Right uses of the face for PyTorch, in which type checkers find nothing."""

from typing import Any

import torch

import fastadam
import fastadam.torch
from fastadam import convert

model = torch.nn.Linear(4, 2)
tensor = torch.ones(3, requires_grad=True)
fastadam.torch.Adam(model.parameters())
fastadam.torch.Adam(list(model.parameters()), 1e-3, (0.9, 0.99), 1e-8, 0.1, True)
fastadam.torch.Adam(model.named_parameters(), lr=torch.tensor(1e-3), fused=True, foreach=None)
groups: list[dict[str, Any]] = [{"params": model.parameters(), "lr": 0.1}, {"params": [tensor]}]
fastadam.torch.Adam(groups)
fastadam.torch.AdamW([tensor], lr=0.1, weight_decay=0.1, capturable=False)
optimizer = fastadam.torch.Adam([tensor], maximize=True, decoupled_weight_decay=True)
theirs: torch.optim.Adam = optimizer
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def closure() -> torch.Tensor:
    return tensor.sum()


def loss_of() -> float:
    return 0.5


optimizer.step()
optimizer.step(None)
loss: torch.Tensor = optimizer.step(closure)
number: float = optimizer.step(closure=loss_of)
nothing: None = optimizer.step()
optimizer.backend = "c"
backend: fastadam.Backend = optimizer.backend
optimizer.threads = 2
optimizer.threads = None
optimizer.lr = 0.1
optimizer.lr = torch.tensor(0.1)
optimizer.betas = (0.9, 0.99)
optimizer.fused = optimizer.foreach = None
optimizer.maximize = not optimizer.maximize
went: str | None = optimizer.last_step
optimizer.zero_grad(set_to_none=False)
optimizer.add_param_group({"params": [torch.ones(2)], "lr": 0.1})
arrays = fastadam.Adam(tensor.detach().numpy())
convert.from_torch(optimizer, arrays)
convert.from_torch(optimizer.state_dict(), arrays)
optimizer.load_state_dict(convert.to_torch(arrays, optimizer))
compact = fastadam.torch.AdamW([tensor], state_dtype="int8", master_weights=True, rounding="stochastic", seed=3)
decoded: dict[str, Any] = compact.decoded_state(tensor)
compact.seed = 4
rounding: str = compact.rounding
