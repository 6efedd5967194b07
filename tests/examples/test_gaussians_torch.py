"""The picture of Gaussians in PyTorch: a revision splits and removes, and painting makes it better."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import fastadam.torch  # noqa: E402
from tests.examples.loading import load, run_main  # noqa: E402
from tests.support.torch_cases import surroundings  # noqa: E402


@pytest.fixture(scope="module")
def gaussians() -> ModuleType:
    return load("gaussians_torch")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as the program does."""
    with surroundings(threads=1):
        yield


def test_a_revision(gaussians: ModuleType) -> None:
    """The faint one goes; the one that is pulled hardest becomes two, to either side of where it was."""
    torch.manual_seed(0)
    model = gaussians.Gaussians(5, torch.zeros(3))
    with torch.no_grad():
        model.colour.fill_(0.5)
        model.colour[1] = gaussians.FAINT / 2
    optimizer = fastadam.torch.Adam(model.parameters(), lr=1e-4)
    model(torch.rand(50, 2)).square().sum().backward()
    optimizer.step()
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    moments = optimizer.state[model.centre]["exp_avg"].clone()
    gaussians.revise(model, optimizer, torch.tensor([0.1, 9.0, 0.2, 0.3, 0.1]))
    assert list(model.parameters()) == [each for group in optimizer.param_groups for each in group["params"]]
    torch.testing.assert_close(model.colour, before["colour"][[0, 2, 3, 4, 3]], rtol=0, atol=0)
    torch.testing.assert_close(model.centre[[0, 1, 3]], before["centre"][[0, 2, 4]], rtol=0, atol=0)
    torch.testing.assert_close(model.centre[[2, 4]].mean(dim=0), before["centre"][3])
    torch.testing.assert_close(model.shape[[2, 4]], gaussians.SMALLER * before["shape"][[3, 3]])
    left = optimizer.state[model.centre]["exp_avg"]
    torch.testing.assert_close(left, torch.cat([moments[[0, 2, 3, 4]], torch.zeros(1, 2)]), rtol=0, atol=0)
    model(torch.rand(50, 2)).square().sum().backward()
    optimizer.step()


def test_paints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Better in the end, and a picture is saved when asked for, and only then."""
    path = tmp_path / "gaussians.png"
    monkeypatch.chdir(tmp_path)
    run_main(monkeypatch, "gaussians_torch", "--steps", "120")
    assert list(tmp_path.iterdir()) == []
    found = re.findall(r"(\d+) Gaussians, PSNR ([\d.]+) dB", capsys.readouterr().out)
    (first, before), (last, after) = [(int(count), float(psnr)) for count, psnr in found]
    assert first == 20 < last
    assert after > before + 8
    run_main(monkeypatch, "gaussians_torch", "--steps", "1", "--plot", str(path))
    assert path.stat().st_size > 5e3
