"""Libraries on torch that make their optimizers themselves, unedited, under `fastadam.torch.patched`."""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch as face  # noqa: E402 - where torch is missing, this module is skipped
from tests.support.processes import python  # noqa: E402

PPO = """
import contextlib, json, sys, warnings
warnings.simplefilter("ignore")
import torch, fastadam.torch
torch.set_num_threads(1)
how = sys.argv[1]
if how == "inside":  # the library is imported within the context, with what it binds then
    context, options = fastadam.torch.patched(), {}
else:
    import stable_baselines3
    context = fastadam.torch.patched() if how == "class" else contextlib.nullcontext()
    options = {"optimizer_class": fastadam.torch.Adam} if how == "class" else {}
with context:
    from stable_baselines3 import PPO
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu",
                policy_kwargs=options)
    model.learn(64)
    ours = torch.nn.utils.clip_grad_norm_ is fastadam.torch.clip_grad_norm_
optimizer = model.policy.optimizer
print(json.dumps({
    "class": type(optimizer).__module__, "step": getattr(optimizer, "last_step", None), "clips": ours,
    "weights": [number for param in model.policy.parameters() for number in param.detach().flatten().tolist()],
}))
"""


def test_stable_baselines3() -> None:
    """PPO on CartPole comes to the weights that it comes to with torch's own optimizer and clipping."""
    pytest.importorskip("stable_baselines3")
    torchs, inside, by_class = (json.loads(python(PPO, how)) for how in ("torch", "inside", "class"))
    assert (torchs["class"], torchs["clips"]) == ("torch.optim.adam", False)
    for each in (inside, by_class):
        assert (each["class"], each["step"], each["clips"]) == ("fastadam.torch", "fastadam", True)
        torch.testing.assert_close(
            torch.tensor(each["weights"]), torch.tensor(torchs["weights"]), rtol=1e-4, atol=1e-5
        )
    assert inside["weights"] == by_class["weights"]


LIGHTNING = """
import contextlib, json, logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import torch, fastadam.torch, lightning
torch.set_num_threads(1)

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    def training_step(self, batch, index):
        x, y = batch
        return 100 * (self.net(x) - y).square().mean()
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)

torch.manual_seed(1)
data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
with fastadam.torch.patched() if sys.argv[1] == "patched" else contextlib.nullcontext():
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=2, gradient_clip_val=0.5, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=sys.argv[2],
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=16))
    optimizer = trainer.optimizers[0]
print(json.dumps({
    "class": type(optimizer).__module__, "step": getattr(optimizer, "last_step", None),
    "weights": [number for param in module.parameters() for number in param.detach().flatten().tolist()],
}))
"""


def test_lightning(tmp_path: Any) -> None:
    """A trainer that clips comes to the weights that it comes to with torch's own."""
    pytest.importorskip("lightning")
    torchs, ours = (
        json.loads(python(LIGHTNING, how, str(tmp_path)).splitlines()[-1]) for how in ("torch", "patched")
    )
    assert torchs["class"] == "torch.optim.adamw"
    assert (ours["class"], ours["step"]) == (face.__name__, "fastadam")
    torch.testing.assert_close(
        torch.tensor(ours["weights"]), torch.tensor(torchs["weights"]), rtol=1e-4, atol=1e-5
    )
