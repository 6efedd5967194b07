"""The dashboard: what it refuses, and that its pages show the results in a browser without network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import PROMISED, browser, missing, need

if not os.environ.get(PROMISED):
    pytest.importorskip("asv", reason="asv is in the extra bench")

from benchmarks.dashboard import build, scripts
from benchmarks.dashboard.__main__ import main
from benchmarks.dashboard.errors import BuildError
from benchmarks.dashboard.serve import make_server

ROOT = Path(__file__).parents[2]
GRAPH = "steps.Step.track_seconds"
COMMITS = 4
# The points of a graph page, and how many pixels of its canvas have the colour of the first series.
SERIES = """
    const plot = $('#main-graph').data('plot');
    if (!plot) return null;
    const series = plot.getData().filter(s => s.data.filter(point => point[1] !== null).length > 1);
    const canvas = $('#main-graph canvas.flot-base')[0];
    return {
        series: series.length,
        points: series.length ? series[0].data.length : 0,
        pixels: series.length ? coloured(canvas, series[0].color) : 0,
    };
"""
# The small graphs of the summary page that are drawn: the colour is asv's own.
SUMMARY = """
    return $('#summarygrid-display canvas.flot-base').toArray().map(canvas => coloured(canvas, 'rgb(31,119,180)'));
"""
# The front page: rows with a curve each, and whether it is wider than the window.
FRONT = """
    const rows = document.querySelectorAll('section tbody tr').length;
    if (!rows) return null;
    return {
        rows: rows,
        curves: document.querySelectorAll('section svg polyline').length,
        points: document.querySelectorAll('section svg circle').length,
        graphs: document.querySelector('section a').getAttribute('href').split('#')[0],
        wide: document.documentElement.scrollWidth,
        room: window.innerWidth,
    };
"""
COLOURED = """
    function coloured(canvas, colour) {
        const probe = document.createElement('canvas').getContext('2d');
        probe.fillStyle = colour;
        probe.fillRect(0, 0, 1, 1);
        const wanted = probe.getImageData(0, 0, 1, 1).data;
        const found = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        let count = 0;
        for (let i = 0; i < found.length; i += 4) {
            if (found[i + 3] > 127 && [0, 1, 2].every(k => Math.abs(found[i + k] - wanted[k]) < 40)) count++;
        }
        return count;
    }
"""


def git(folder: Path, *args: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *args]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a repository of a few commits, with results that were measured for others."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "-q")
    shutil.copy(ROOT / "asv.conf.json", folder)
    git(folder, "add", ".")
    own = ROOT / "benchmarks" / "results"
    results = folder / "benchmarks" / "results"
    machine = next(own.glob("*/*-virtualenv*.json")).parent
    shutil.copytree(own, results, ignore=lambda _, names: [name for name in names if "-virtualenv" in name])
    for path in sorted(machine.glob("*-virtualenv*.json"))[:COMMITS]:
        git(folder, "commit", "-q", "--allow-empty", "-m", path.name)
        commit = git(folder, "rev-parse", "HEAD")
        moved = json.loads(path.read_text()) | {"commit_hash": commit}
        (results / machine.name / f"{commit[:8]}{path.name[8:]}").write_text(json.dumps(moved))
    return folder


@pytest.fixture(scope="module")
def pages(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        need("npm is missing, from which the scripts of the pages come")
    output = tmp_path_factory.mktemp("pages") / "html"
    assert build.build(repository, output) == COMMITS
    return output


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    need(missing())
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def ask(driver: Any, pages: Path, place: str, script: str) -> Any:
    """Open a page and return what a script finds there, once it finds something; None if it never does."""
    from selenium.common.exceptions import JavascriptException, TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    server = make_server(pages, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        driver.get("about:blank")
        driver.get(f"http://127.0.0.1:{server.server_port}/{place}")
        wait = WebDriverWait(driver, 15, ignored_exceptions=[JavascriptException])
        try:
            return wait.until(lambda driver: driver.execute_script(COLOURED + script))
        except TimeoutException:
            return None
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("width", [400, 1400])
def test_the_front_page_shows_a_curve_for_each_case_and_fits(driver: Any, pages: Path, width: int) -> None:
    before = driver.get_window_size()
    driver.set_window_size(width, 1000)
    try:
        found = ask(driver, pages, "", FRONT)
    finally:
        driver.set_window_size(before["width"], before["height"])
    assert found["curves"] == found["rows"] > 50
    assert found["points"] > COMMITS
    assert found["graphs"] == build.GRAPHS
    assert found["wide"] <= found["room"], "it has to be scrolled to the side"


def test_the_summary_page_shows_graphs(driver: Any, pages: Path) -> None:
    drawn = ask(driver, pages, build.GRAPHS, SUMMARY)
    assert drawn
    assert max(drawn) > 100, drawn


def test_a_graph_page_shows_the_series(driver: Any, pages: Path) -> None:
    found = ask(driver, pages, f"{build.GRAPHS}#{GRAPH}", SERIES)
    assert found
    assert found["series"] >= 2
    assert found["points"] >= COMMITS - 1
    assert found["pixels"] > 100


@pytest.mark.parametrize(("place", "script"), [("", SUMMARY), (f"#{GRAPH}", SERIES)])
def test_without_the_scripts_nothing_is_found(
    driver: Any, pages: Path, tmp_path: Path, place: str, script: str
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(pages, bare, ignore=shutil.ignore_patterns(scripts.FOLDER))
    assert not ask(driver, bare, f"{build.GRAPHS}{place}", script)


def test_the_pages_name_no_other_host(pages: Path) -> None:
    for name in ("index.html", build.GRAPHS):
        assert not scripts.REMOTE.search((pages / name).read_text())
    for place in scripts.FILES.values():
        assert (pages / scripts.FOLDER / place).stat().st_size > 0


def test_a_build_replaces_the_one_before_and_nothing_else(repository: Path, pages: Path, tmp_path: Path) -> None:
    assert build.build(repository, pages) == COMMITS
    (tmp_path / "precious").write_text("kept")
    with pytest.raises(BuildError, match="something else than a dashboard"):
        build.build(repository, tmp_path)
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_history_without_the_commits_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "fetch", lambda cache: cache)
    shallow = tmp_path / "shallow"
    git(tmp_path, "init", "-q", str(shallow))
    shutil.copytree(repository, shallow, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
    git(shallow, "add", ".")
    git(shallow, "commit", "-q", "-m", "the last commit alone")
    with pytest.raises(BuildError, match="git fetch --unshallow"):
        build.build(shallow, tmp_path / "html")
    assert not (tmp_path / "html").exists()


def test_without_results_there_is_nothing_to_build(tmp_path: Path) -> None:
    shutil.copy(ROOT / "asv.conf.json", tmp_path)
    with pytest.raises(BuildError, match="no results"):
        build.build(tmp_path, tmp_path / "html")


def test_without_asv_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["dashboard", "--no-serve", "--output", str(tmp_path / "html")])
    assert main() == 1
    assert "asv, which is not installed; it comes with the extra bench: pip install" in capsys.readouterr().err


def test_without_a_history_the_remedy_is_named(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy, ignore=shutil.ignore_patterns(".git"))
    with pytest.raises(BuildError, match=r"no history to show .*: run this in a clone"):
        build.build(copy, tmp_path / "html")


def test_without_npm_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"npm is missing: install Node\.js"):
        scripts.fetch(tmp_path / "cache")


def test_a_package_that_is_not_what_was_pinned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What compares the hashes is npm; here it is one that always finds a difference."""
    npm = tmp_path / "npm"
    npm.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('npm error code EINTEGRITY')\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match="EINTEGRITY"):
        scripts.fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_every_package_is_pinned_with_a_hash_and_without_an_address() -> None:
    wanted = json.loads((scripts.HERE / "package.json").read_text())["dependencies"]
    lock = (scripts.HERE / "package-lock.json").read_text()
    packages = {name: entry for name, entry in json.loads(lock)["packages"].items() if name}
    assert {name.removeprefix("node_modules/"): entry["version"] for name, entry in packages.items()} == wanted
    assert all(entry["integrity"].startswith("sha512-") for entry in packages.values())
    assert "http" not in lock


def test_a_file_of_asv_that_is_not_known_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<script src="https://cdn.example/new.min.js"></script>')
    with pytest.raises(BuildError, match=r"new\.min\.js"):
        scripts.put_into(tmp_path, tmp_path)


def test_results_are_of_commits_that_graphs_show() -> None:
    """On the first parents of this history, which asv's graphs follow."""
    if not (ROOT / ".git").exists() or git(ROOT, "rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("this is no clone with the whole history")
    assert build.measured(ROOT) <= set(git(ROOT, "rev-list", "--first-parent", "HEAD").split())


def test_results_tell_nothing_of_the_machine_but_its_kind() -> None:
    for path in (ROOT / "benchmarks" / "results").rglob("*.json"):
        text = path.read_text()
        for told in ("/work", "/home", "/tmp", "/root", "http:", "https:"):
            assert told not in text, f"{path} has {told}"
