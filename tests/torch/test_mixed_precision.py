"""fastadam.torch under GradScaler and autocast."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")


from tests.support.torch_cases import (  # noqa: E402
    FEW_SHAPES,
    NAMES,
    Twins,
    assert_close,
    assert_same_bits,
    draw,
    give_grads,
    linear,
    params,
    snapshot,
)

# Scaled gradients.


@pytest.mark.parametrize("clip", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("fused", [None, True], ids=["", "fused"])
@pytest.mark.parametrize("name", NAMES)
def test_grad_scaler(name: str, fused: bool | None, clip: bool) -> None:
    """A scaler hands its scale and its findings to optimizers that were made with ``fused=True``."""
    twins = Twins(lambda: params((7,), (3, 4)), name, fused=fused, weight_decay=0.1)
    scalers = twins.each(lambda side: torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3))
    for step in range(12):
        bad, scale = step in (0, 4, 5), scalers[0].get_scale()
        for side, scaler in zip((twins.ours, twins.theirs), scalers, strict=True):
            side.optimizer.zero_grad()
            loss = sum((param * draw(param.shape, seed=step)).sum() for param in side.params)
            scaler.scale(loss).backward()
            if bad:
                side.params[1].grad[0, 0] = torch.inf if step != 5 else torch.nan
            if clip:
                scaler.unscale_(side.optimizer)
                torch.nn.utils.clip_grad_norm_(side.params, 0.5)
            before = snapshot(side.optimizer)
            scaler.step(side.optimizer)
            scaler.update()
            if bad:
                after = snapshot(side.optimizer)
                for i in range(2):
                    assert_same_bits(after[f"param {i}"], before[f"param {i}"])
                    if step:
                        for key in ("exp_avg", "exp_avg_sq", "step"):
                            assert_same_bits(after[f"{key} {i}"], before[f"{key} {i}"])
        assert scalers[0].get_scale() == scalers[1].get_scale()
        for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
            assert_close(a, b, "parameter")
            if not fused or clip:  # torch's fused kernel divides them in place, unless there are infinities
                assert_close(a.grad, b.grad, "gradient")
            elif not bad:
                assert_close(a.grad / scale, b.grad, "gradient")
            if b in twins.theirs.state and a in twins.ours.state:
                assert twins.ours.state[a]["step"] == twins.theirs.state[b]["step"]


def test_grad_scaler_over_two_optimizers_one_of_which_is_skipped() -> None:
    pairs = [Twins(lambda: params(*FEW_SHAPES)) for _ in range(2)]
    scalers = [torch.amp.GradScaler("cpu", init_scale=4.0) for _ in range(2)]
    for step in range(4):
        for which, scaler in enumerate(scalers):
            sides = [(twins.ours, twins.theirs)[which] for twins in pairs]
            for i, side in enumerate(sides):
                give_grads(side.optimizer, 10 * step + i)
                if (step + i) % 2:
                    side.params[0].grad[0] = torch.inf
            scaler.scale(torch.ones(()))
            for side in sides:
                scaler.step(side.optimizer)
            scaler.update()
    for twins in pairs:
        twins.check()


def test_training_under_autocast() -> None:
    twins = Twins(linear())
    for step in range(4):
        for side in (twins.ours, twins.theirs):
            side.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = side.model(draw((3, 4), seed=step)).float().square().sum()
                loss.backward()
                side.optimizer.step()
        twins.check()
        twins.level()
    assert all(param.dtype == torch.float32 for param in twins.ours.params)
