"""The command that runs PyTorch's own tests says what passes with torch's classes and not with ours."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests import upstream

STAND_IN = """
import unittest
import torch

class TestOptimRenewedCPU(unittest.TestCase):
    def test_both_Adam_cpu(self): self.assertTrue(issubclass(torch.optim.Adam, torch.optim.Optimizer))
    def test_theirs_AdamW_cpu(self): self.assertTrue(torch.optim.AdamW.__module__.startswith("torch."))
    def test_neither_Adam_cpu(self): self.fail("for both")
    def test_of_another_SGD_cpu(self): self.fail("is not asked")
    @unittest.skip("no such machine")
    def test_elsewhere_Adam_cpu(self): pass

class TestDifferentiableOptimizer(unittest.TestCase):
    def test_ours(self): {body}
"""


@pytest.mark.parametrize("worse", [False, True])
def test_what_passes_with_torchs_alone_is_listed(
    worse: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "test_stand_in.py"
    text = STAND_IN.replace("{body}", "pass")
    if not worse:
        text = text.replace('startswith("torch.")', 'startswith("")')
    path.write_text(text)
    assert upstream.main([str(path)]) == int(worse)
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[:4]] == [
        "TestOptimRenewedCPU torch.optim 2 of 4 pass, 1 need another machine",
        f"TestOptimRenewedCPU fastadam.torch {2 - worse} of 4 pass, 1 need another machine",
        "TestDifferentiableOptimizer torch.optim 1 of 1 pass, 0 need another machine",
        "TestDifferentiableOptimizer fastadam.torch 1 of 1 pass, 0 need another machine",
    ]
    assert [line.split(":")[1].strip() for line in lines[4:]] == [
        "TestOptimRenewedCPU.test_theirs_AdamW_cpu"
    ] * worse
