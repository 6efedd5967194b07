"""Steps with sparse gradients are attempted with what is known, and are those that are taken with care."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from fastadam.torch import attempts, cache  # noqa: E402
from tests.conftest import AVAILABLE, STATES  # noqa: E402
from tests.support.strategies import examples  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    Side,
    assert_same_bits,
    assert_same_snapshot,
    draw,
    error_of,
    members,
    params,
    snapshot,
)
from tests.torch.changes import CHANGES, SHAPES  # noqa: E402
from tests.torch.test_readers import careful  # noqa: E402, F401 - a fixture
from tests.torch.test_sparse import OPTIONS, sparse  # noqa: E402

pytestmark = pytest.mark.skipif("c" not in AVAILABLE, reason=STATES["c"])

WITHOUT_AVERAGES = {name: each for name, each in OPTIONS.items() if "averages" not in name}


def gradient_of_rows(param: Any, seed: int, n: int = 4) -> Any:
    """Return a sparse gradient, of rows in any order, some of them several times."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(len(param), (n,), generator=generator)
    return sparse(indices, draw((n, *param.shape[1:]), param.dtype, seed), param.shape)


class Pair:
    """Two of our optimizers that are led through the same steps; the second one takes all of them with care."""

    def __init__(self, make: Callable[[], Any], **options: Any) -> None:
        options = {"lr": 0.1, "sparse": "lazy", **options}
        self.both = [Side(fastadam.torch.Adam, make(), options) for _ in range(2)]

    def each(self, action: Callable[[Side], object]) -> None:
        for side in self.both:
            action(side)

    def step(self, give: Callable[[Any], object]) -> None:
        """Give gradients to both, and step them: they end alike, or fail alike, and then nothing was written."""
        errors = []
        for i, side in enumerate(self.both):
            give(side.optimizer)
            if i:
                side.optimizer._memo.attempts = None
            before = snapshot(side.optimizer)
            errors.append(error_of(side.optimizer.step))
            if errors[-1] is not None:
                assert_same_snapshot(snapshot(side.optimizer), before)
        assert repr(errors[0]) == repr(errors[1])
        self.check()

    def check(self) -> None:
        first, second = (side.optimizer for side in self.both)
        assert_same_snapshot(snapshot(first), snapshot(second))
        assert repr(first.grad_norm) == repr(second.grad_norm)
        assert first.skipped_steps == second.skipped_steps
        for mine, other in zip(*(members(side.optimizer) for side in self.both), strict=True):
            averages = [side.optimizer.ema for side in self.both]
            assert (mine in averages[0]) == (other in averages[1])
            if mine in averages[0]:
                assert_same_bits(averages[0][mine], averages[1][other], "average")


def give(seed: int, kinds: str) -> Callable[[Any], None]:
    """Return what gives each parameter a gradient of a kind.

    They are (s)parse where they can be, (S)parse or none, (d)ense, (n)ot finite and sparse, or (i)nfinite.
    """

    def action(optimizer: Any) -> None:
        for i, param in enumerate(members(optimizer)):
            kind = kinds[i % len(kinds)]
            is_table = param.ndim > 0 and param.numel() > 0 and param.layout == torch.strided
            param.grad = None
            if kind in "sS" and is_table:
                param.grad = gradient_of_rows(param, 100 * seed + i)
            elif kind in "sd":
                param.grad = draw(param.shape, param.dtype, 100 * seed + i)
            elif kind == "n":
                param.grad = sparse([1, 0], torch.full((2, *param.shape[1:]), torch.nan), param.shape)
            elif kind == "i":
                param.grad = torch.full_like(param, torch.inf)

    return action


@pytest.mark.parametrize("kinds", ["s", "sd", "ds"])
@pytest.mark.parametrize("name", WITHOUT_AVERAGES)
def test_steady_steps_are_not_taken_with_care(
    name: str,
    kinds: str,
    careful: list[int],  # noqa: F811
) -> None:
    dtype, width, options = OPTIONS[name]
    (table, other) = params((23, width), (9, 64), dtype=dtype)
    optimizer = fastadam.torch.Adam([table, other], sparse="lazy", **options)
    for step in range(5):
        give(step, kinds)(optimizer)
        versions = [param._version for param in (table, other)]
        optimizer.step()
        assert optimizer.last_step == "fastadam"
        assert [param._version for param in (table, other)] == [each + 1 for each in versions]
    assert len(careful) == 1
    assert optimizer.state[table]["step"] == optimizer.state[other]["step"] == 5


@pytest.mark.parametrize("name", OPTIONS)
@hypothesis.given(patterns=st.lists(st.text("sd-", min_size=3, max_size=3), min_size=1, max_size=8))
@examples(15)
def test_steps_are_those_taken_with_care(name: str, patterns: list[str]) -> None:
    dtype, width, options = OPTIONS[name]
    pair = Pair(lambda: params((23, width), (4, 64), (9, 64), dtype=dtype), **options)
    for step, kinds in enumerate(patterns):
        pair.step(give(step, kinds))
        pair.step(give(step + 50, kinds))


@pytest.mark.parametrize("kinds", ["sd", "s", "S"])
@pytest.mark.parametrize("what", CHANGES)
def test_steps_after(what: str, kinds: str) -> None:
    """Whatever was changed behind the optimizer's back."""
    pair = Pair(lambda: params(*SHAPES), amsgrad=True)
    for seed in range(2):
        pair.step(give(seed, kinds))
    assert pair.both[0].optimizer._memo.attempts.tables.known
    for seed in range(2):
        errors = [error_of(lambda side=side: CHANGES[what](side)) for side in pair.both]
        if any(errors):
            pytest.skip(repr(errors[0]))
        pair.step(give(10 + seed, kinds))
        pair.step(give(20 + seed, kinds))
        pair.step(give(30 + seed, kinds[::-1]))


OF_THE_NORM: dict[str, dict[str, Any]] = {
    "clipped": {"max_grad_norm": 0.25},
    "hardly clipped": {"max_grad_norm": 1e9},
    "measured": {"max_grad_norm": float("inf")},
    "skipped": {"skip_nonfinite": True},
    "refused": {"error_if_nonfinite": True, "max_grad_norm": 0.5},
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("name", OF_THE_NORM)
def test_the_norm_is_that_of_all_gradients(name: str, dtype: Any, threads: int, careful: list[int]) -> None:  # noqa: F811
    pair = Pair(lambda: params((5000, 30), (4, 64), (9, 64), dtype=dtype), **OF_THE_NORM[name])
    pair.each(lambda side: setattr(side.optimizer, "threads", threads))

    def many(optimizer: Any) -> None:
        give(3, "sdd")(optimizer)
        table = members(optimizer)[0]
        table.grad = None
        table.grad = gradient_of_rows(table, 3, 4000)

    patterns = ["sds", "sds", "s--", "-ds", "sd-", "s-s", "sds"]
    if dtype == torch.float32:  # others have no numbers that are not finite here
        patterns += ["nds", "n--", "sdi", "sid", "-dn", "sds"]
    for seed, kinds in enumerate(patterns):
        pair.step(give(seed, kinds))
    pair.step(many)
    pair.step(many)
    # The second one takes all with care; the first one where a pattern is new, or it must say what is not finite.
    assert len(careful) < len(patterns) + 2 + len(patterns) // 2 + 2


@pytest.mark.parametrize("kinds", ["s", "sd"])
def test_steps_with_a_norm_are_not_taken_with_care(kinds: str, careful: list[int]) -> None:  # noqa: F811
    optimizer = fastadam.torch.Adam(params((23, 3), (9, 4)), sparse="lazy", max_grad_norm=0.5)
    for seed in range(4):
        give(seed, kinds)(optimizer)
        optimizer.step()
        assert len(careful) == 1
        assert optimizer.grad_norm > 0.5


EDITS: dict[str, Callable[[Any], object]] = {
    "lr": lambda optimizer: optimizer.param_groups[0].update(lr=0.03),
    "lr of a tensor": lambda optimizer: optimizer.param_groups[0].update(lr=torch.tensor(0.03)),
    "weight decay": lambda optimizer: optimizer.param_groups[0].update(weight_decay=0.5),
    "amsgrad": lambda optimizer: optimizer.param_groups[0].update(amsgrad=True),
    "a norm to clip to": lambda optimizer: setattr(optimizer, "max_grad_norm", 0.5),
    "no gradients that are not finite": lambda optimizer: setattr(optimizer, "skip_nonfinite", True),
    "averages": lambda optimizer: setattr(optimizer, "ema_decay", 0.5),
    "threads": lambda optimizer: setattr(optimizer, "threads", 2),
    "backend": lambda optimizer: setattr(optimizer, "backend", "numpy"),
    "a scale": lambda optimizer: setattr(optimizer, "grad_scale", torch.tensor(4.0)),
    "infinities": lambda optimizer: setattr(optimizer, "found_inf", torch.tensor(1.0)),
    "another group": lambda optimizer: optimizer.add_param_group({"params": params((3, 4)), "lr": 0.5}),
    "a state dict": lambda optimizer: optimizer.load_state_dict(optimizer.state_dict()),
    "pruned rows": lambda optimizer: optimizer.resize(members(optimizer)[0], [2, 1, 0]),
    "no moments": lambda optimizer: optimizer.reset(members(optimizer)[0]),
}


@pytest.mark.parametrize("what", EDITS)
def test_edits_between_steps(what: str) -> None:
    pair = Pair(lambda: params((23, 3), (4, 3), (9, 3)))
    for seed in range(2):
        pair.step(give(seed, "sds"))
    pair.each(lambda side: EDITS[what](side.optimizer))
    for seed in range(2, 5):
        pair.step(give(seed, "sds"))
    pair.step(give(6, "dsd"))


@pytest.mark.parametrize("what", ["weight decay", "amsgrad"])
def test_an_edit_while_a_table_has_no_gradient(what: str) -> None:
    pair = Pair(lambda: params((23, 3), (4, 3), (9, 3)))
    for seed in range(2):
        pair.step(give(seed, "sds"))
    pair.each(lambda side: EDITS[what](side.optimizer))
    for seed, kinds in enumerate(["-ds", "-ds", "sds", "sds"]):
        pair.step(give(seed + 2, kinds))


def test_gradients_that_become_sparse_are_known_from_then_on(careful: list[int]) -> None:  # noqa: F811
    optimizer = fastadam.torch.Adam(params((23, 3), (5,)), sparse="lazy")
    expected = [("dd", 1), ("dd", 1), ("sd", 2), ("sd", 2), ("dd", 2), ("sd", 2), ("s-", 2), ("d-", 2)]
    for seed, (kinds, n) in enumerate(expected):
        give(seed, kinds)(optimizer)
        optimizer.step()
        assert len(careful) == n, kinds


def test_more_patterns_than_are_kept(careful: list[int]) -> None:  # noqa: F811
    """Dense gradients come and go, and those that have none are left out of one plan over all."""
    pair = Pair(lambda: params((23, 3), *[(2, i + 1) for i in range(7)]))
    for seed in range(60):
        pair.step(give(seed, "s" + "".join("d" if seed * 37 >> i & 1 else "-" for i in range(7))))
    assert len(careful) < 60 + 8


def test_another_backend_takes_them_with_care(backend: str, careful: list[int]) -> None:  # noqa: F811
    optimizer = fastadam.torch.Adam(params((23, 3), (5,)), sparse="lazy")
    optimizer.backend = backend
    for seed in range(3):
        give(seed, "sd")(optimizer)
        optimizer.step()
    assert len(careful) == (1 if backend in ("c", "auto") else 3)


ODD: dict[str, Callable[[Any], Any]] = {
    "no rows": lambda param: gradient_of_rows(param, 1, 0),
    "another number of sparse dimensions": lambda param: sparse(
        [[1, 2], [0, 1]], draw((2,), param.dtype), param.shape
    ),
    "an index out of range": lambda param: sparse([1, 99], draw((2, 4), param.dtype), param.shape),
    "values of the parameter": lambda param: sparse([1, 2], param.detach()[3:5], param.shape),
    "values in the rows before": lambda param: sparse([1, 2, 3], param.detach()[:3], param.shape),
    "values in another order": lambda param: sparse([1, 2], draw((4, 2), param.dtype).T, param.shape),
    "coalesced": lambda param: gradient_of_rows(param, 1).coalesce(),
    "numbers that are not finite": lambda param: sparse([1], torch.full((1, 4), torch.nan), param.shape),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_gradients(what: str) -> None:
    pair = Pair(lambda: params((23, 4), (4, 3)))

    def odd(optimizer: Any) -> None:
        give(7, "sd")(optimizer)
        param = members(optimizer)[0]
        param.grad = None
        param.grad = ODD[what](param)

    for seed in range(2):
        pair.step(give(seed, "sd"))
    pair.step(odd)
    pair.step(odd)
    pair.step(give(3, "sd"))


def test_values_in_memory_that_the_step_writes_are_those_before_it() -> None:
    pair = Pair(lambda: params((23, 4), (23, 4)))

    def odd(optimizer: Any) -> None:
        give(7, "sd")(optimizer)
        table, other = members(optimizer)
        table.grad = None
        table.grad = sparse([1, 2], other.detach()[3:5], table.shape)

    for seed in range(2):
        pair.step(give(seed, "sd"))
    pair.step(odd)


def test_sparse_gradients_cannot_be_zeroed() -> None:
    optimizer = fastadam.torch.Adam(params((23, 4), (5,)), sparse="lazy")
    for seed in range(3):
        give(seed, "sd")(optimizer)
        optimizer.step()
    before = snapshot(optimizer)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="is sparse"):
            optimizer.step(zero_grad=True)
        assert_same_snapshot(snapshot(optimizer), before)
    optimizer.step()


def test_tables_that_share_memory_are_stepped_one_after_the_other(careful: list[int]) -> None:  # noqa: F811
    """Each of them alone is known before."""

    def make() -> Any:
        (whole,) = params((24, 4))
        return [torch.nn.Parameter(whole.detach()[:16]), torch.nn.Parameter(whole.detach()[8:]), *params((5,))]

    pair = Pair(make)
    for seed, kinds in enumerate(["s-d", "-sd", "s-d", "-sd"]):
        pair.step(give(seed, kinds))
    for seed, kinds in enumerate(["ssd", "ss-", "sdd", "sdd"]):
        before = len(careful)
        pair.step(give(seed, kinds))
        assert len(careful) == before + 2
    pair.step(give(9, "s-d"))


def test_counters_that_are_shared_count_each_step() -> None:
    pair = Pair(lambda: params((24, 4), (24, 4), (5,)))
    for seed, kinds in enumerate(["s--", "-s-", "--d"]):
        pair.step(give(seed, kinds))

    def share(side: Side) -> None:
        step = torch.tensor(1.0)
        for state in side.state.values():
            state["step"] = step

    pair.each(share)
    for seed, kinds in enumerate(["s--", "-s-", "--d", "ss-", "ss-", "s-d", "s-d"]):
        pair.step(give(seed + 5, kinds))


@pytest.mark.parametrize("step", [2.0**24 - 2, -1.0, torch.nan])
def test_counters_that_end(step: float) -> None:
    pair = Pair(lambda: params((24, 4), (5,)))
    for seed in range(2):
        pair.step(give(seed, "sd"))
    pair.each(lambda side: side.state[side.params[0]]["step"].fill_(step))
    for seed in range(2, 6):
        pair.step(give(seed, "sd"))


def test_many_rows_then_few() -> None:
    """The plan's memory grows, and what is left in it of other steps does nothing."""
    pair = Pair(lambda: params((2000, 4), (5,)))
    for seed, n in enumerate([3, 1500, 10, 0, 2000, 1]):
        pair.each(lambda side: None)

        def rows(optimizer: Any, seed: int = seed, n: int = n) -> None:
            give(seed, "sd")(optimizer)
            table = members(optimizer)[0]
            table.grad = None
            table.grad = gradient_of_rows(table, seed, n)

        pair.step(rows)


def test_what_the_user_frees_is_not_written() -> None:
    """The addresses of plans are those of tensors that are still there."""
    table, other = params((500, 8), (5,))
    optimizer = fastadam.torch.Adam([table, other], sparse="lazy", lr=0.5)
    for seed in range(3):
        give(seed, "sd")(optimizer)
        optimizer.step()
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[table][name] = optimizer.state[table][name].clone()
    table.data = table.data.clone()
    freed = [torch.full((500, 8), 7.0) for _ in range(8)]  # where the old ones were
    for seed in range(3, 6):
        give(seed, "sd")(optimizer)
        optimizer.step()
    assert all(bool((each == 7).all()) for each in freed)
    assert_same_bits(optimizer.state[table]["step"], torch.tensor(6.0))


class Let:
    """Does something when it is freed."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __del__(self) -> None:
        self.action()


class Fresh(torch.nn.Parameter):
    """A parameter whose gradient is another object each time, and let go by whoever has got it."""

    action: Callable[[], object] | None = None

    @property
    def grad(self) -> Any:  # type: ignore[override]
        found = gradient_of_rows(self, 1)
        if self.action is not None:
            found.of_the_user = Let(self.action)
        return found

    @grad.setter
    def grad(self, value: Any) -> None:
        pass


@pytest.mark.parametrize("others", [0, 1])
def test_gradients_are_not_let_go_before_the_step_is_over(others: int) -> None:
    """What is freed may run anyone's code, which may shrink what was looked at before."""
    table = Fresh(draw((500, 8)))
    more = [torch.nn.Parameter(draw((5,))) for _ in range(others)]
    optimizer = fastadam.torch.Adam([table, *more], sparse="lazy")
    for param in more:
        param.grad = draw((5,))
    steps: list[float] = []
    for _ in range(3):
        optimizer.step()
    table.action = lambda: steps.append(float(optimizer.state[table]["step"]))
    optimizer.step()
    assert steps == [4.0]


@pytest.mark.parametrize("kinds", ["sd", "s"])
def test_a_norm_that_is_wanted_while_a_step_is_under_way(kinds: str) -> None:
    """It is that of these gradients, and no squares of another step count."""
    pair = Pair(lambda: params((23, 4), (6, 4)))
    for seed in range(3):
        pair.step(give(seed, kinds))
    first, second = (side.optimizer for side in pair.both)
    original = attempts.Tables.make_ready

    def ready_and_then(self: Any, grads: Any) -> Any:
        found = original(self, grads)
        first.max_grad_norm = 0.25
        return found

    for optimizer in (first, second):
        give(3, kinds)(optimizer)
    second.max_grad_norm = 0.25
    second.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts.Tables, "make_ready", ready_and_then)
        first.step()
    pair.check()
    pair.step(give(4, kinds))


@pytest.mark.parametrize("where", ["cache", "tables", "options", "plans"])
@pytest.mark.parametrize("kinds", ["sd", "s", "d"])
def test_an_interrupt_while_something_is_learned_leaves_nothing_half_known(kinds: str, where: str) -> None:
    """The next step writes where the tensors are now."""
    table, other = params((500, 8), (5,))
    optimizer = fastadam.torch.Adam([table, other], sparse="lazy", lr=0.5)
    for seed in range(3):
        give(seed, kinds)(optimizer)
        optimizer.step()
    old = [param.data for param in (table, other)]
    for param in (table, other):
        param.data = param.data.clone()
    kept = [each.clone() for each in old]
    target, name = {
        "cache": (cache.TensorCache, "_note"),
        "tables": (attempts.Tables, "note"),
        "options": (attempts.Attempts, "accept"),
        "plans": (attempts.Attempts, "_expect"),
    }[where]
    original = getattr(target, name)

    def interrupted(*arguments: Any) -> None:
        original(*arguments)
        raise KeyboardInterrupt

    give(3, kinds)(optimizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    give(4, kinds)(optimizer)
    before = [param.detach().clone() for param in (table, other)]
    optimizer.step()
    for param, was, data, same in zip((table, other), before, old, kept, strict=True):
        assert_same_bits(data, same, "what it was before")
        assert not torch.equal(param, was) or param.grad is None


def test_parameters_that_were_exchanged_are_not_looked_at() -> None:
    table, other = params((23, 4), (23, 4))
    optimizer = fastadam.torch.Adam([table], sparse="lazy")
    for seed in range(3):
        table.grad = gradient_of_rows(table, seed)
        optimizer.step()
    table.grad = sparse([1, 99], draw((2, 4)), table.shape)
    optimizer.param_groups[0]["params"][0] = other
    other.grad = gradient_of_rows(other, 5)
    before = other.detach().clone()
    optimizer.step()
    assert not torch.equal(other, before)
