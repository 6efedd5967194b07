"""The commands and their arguments."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

import fastadam
from fastadam.cli.bench import Settings
from fastadam.cli.bench import run as run_bench
from fastadam.cli.demo import run as run_demo
from fastadam.cli.doctor import run as run_doctor
from fastadam.cli.info import run as run_info

app = typer.Typer(
    help="Adam as a library of its own: what is installed here, how fast it is, and what is wrong.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # help is plain text
    pretty_exceptions_enable=False,
)


class Model(str, Enum):
    """Names in `fastadam.cli.bench.MODELS`."""

    PPO = "ppo"
    TINY = "tiny"
    MLP = "mlp"
    RESNET50 = "resnet50"
    GPT2 = "gpt2"


class Backend(str, Enum):
    """Names in `fastadam.backends.HOST`."""

    C = "c"
    NUMBA = "numba"
    NUMPY = "numpy"


class Peer(str, Enum):
    """Names in `fastadam.cli.bench.PEERS`."""

    TORCH = "torch"
    OPTAX = "optax"


class StateDType(str, Enum):
    """What moments can lie in (see `fastadam.Adam`)."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class DType(str, Enum):
    """What is measured."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastadam {fastadam.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Adam as a library of its own: what is installed here, how fast it is, and what is wrong."""


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=0, help="How long all of it may take, roughly.")] = 16,
    json: Json = False,
) -> None:
    """Watch a small network learn, then see this machine's speed in plain words; takes under 20 seconds."""
    run_demo(seconds, json)


@app.command()
def info(json: Json = False) -> None:
    """Show versions, backends, thread limits, instruction sets and devices."""
    run_info(json)


@app.command()
def doctor(json: Json = False) -> None:
    """Check that all works, and say what to do where it does not (exit code 1)."""
    run_doctor(json)


@app.command()
def bench(
    sizes: Annotated[
        list[str] | None,
        typer.Argument(help="Numbers of parameters in one array, such as 1000 or 1e6.", show_default=False),
    ] = None,
    like: Annotated[
        list[Model] | None,
        typer.Option(help="Take the shapes of a model. Can be given several times.", show_default=False),
    ] = None,
    backend: Annotated[
        list[Backend] | None,
        typer.Option(help="Measure only this backend. Can be given several times.", show_default=False),
    ] = None,
    without: Annotated[
        list[Peer] | None,
        typer.Option(help="Leave these contenders out. Can be given several times.", show_default=False),
    ] = None,
    state_dtype: Annotated[
        list[StateDType] | None,
        typer.Option(help="Measure moments in this dtype, too. Can be given several times.", show_default=False),
    ] = None,
    dtype: Annotated[DType, typer.Option(help="Of parameters and gradients.")] = DType.FLOAT32,
    rounds: Annotated[int, typer.Option(min=1, max=100_000, help="Turns that each contender has.")] = 50,
    seconds: Annotated[
        float,
        typer.Option(min=0, help="Begin no round of a problem after so long, once three are done."),
    ] = 60,
    threads: Annotated[
        int | None, typer.Option(help="Most threads of fastadam and torch.", show_default="as fastadam info shows")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the ratios into this file (.png, .svg, .pdf).", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Measure a step here, beside NumPy by hand and, where installed, torch and optax.

    Without sizes and models: the networks of PPO, and one array of a million parameters.
    """
    run_bench(
        Settings(
            sizes=sizes or [],
            like=[each.value for each in like or []],
            backends=[each.value for each in backend or []],
            without=[each.value for each in without or []],
            state_dtypes=[each.value for each in state_dtype or []],
            dtype=dtype.value,
            rounds=rounds,
            seconds=seconds,
            threads=threads,
            plot=plot,
            as_json=json,
        )
    )
