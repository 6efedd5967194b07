"""Building the pages."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.dashboard import cases, front, scripts
from benchmarks.dashboard.errors import BuildError

GRAPHS = "graphs.html"  # where asv's own front page goes
EXTRA = "the extra bench: pip install -e '.[bench]'"
MARK = "graphs"  # a folder that asv's pages have
WHOLE_HISTORY = "get the whole history (git fetch --unshallow) and try again"


def build(root: Path, output: Path) -> int:
    """Build the pages of a repository's results.

    Parameters
    ----------
    root : Path
        Of the repository, with ``asv.conf.json``.
    output : Path
        Folder for the pages. One that an earlier build has made is replaced, once the new pages are there.

    Returns
    -------
    int
        How many commits have results in them.

    Raises
    ------
    BuildError
        If there is nothing to show, or the pages cannot be made. What was in `output` is as before then.
    """
    if output.exists() and not (output / MARK).is_dir() and (output.is_file() or any(output.iterdir())):
        raise BuildError(f"--output {output} holds something else than a dashboard: name a new or empty folder")
    if importlib.util.find_spec("asv") is None:
        raise BuildError(f"the pages are made by asv, which is not installed; it comes with {EXTRA}")
    wanted = measured(root)
    if not wanted:
        raise BuildError(f"there are no results in {results(root)}: measure some commits first (asv run)")
    check_history(root)
    packages = scripts.fetch(root / ".asv" / "scripts")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        pages = Path(folder) / "pages"
        log = publish(root, pages)
        shown = published(pages) & wanted
        if not shown:
            raise BuildError(
                f"none of the {len(wanted)} commits with results is in this repository's history, so the pages "
                f"would be empty; {WHOLE_HISTORY}\n{log}"
            )
        if missing := wanted - shown:
            names = ", ".join(sorted(commit[:8] for commit in missing))
            print(f"warning: not in the history, and left out: {names}; {WHOLE_HISTORY}", file=sys.stderr)
        scripts.put_into(pages, packages)
        put_front(root, pages, shown)
        if output.exists():
            shutil.rmtree(output)
        pages.rename(output)
    return len(shown)


def results(root: Path) -> Path:
    """Return the folder of the results that ``asv.conf.json`` names."""
    from asv.config import Config

    return root / str(Config.load(str(root / "asv.conf.json")).results_dir)


def measured(root: Path) -> set[str]:
    """Return the commits that there are results of."""
    files = results(root).glob("*/*-*.json")  # machine.json has no dash
    return {json.loads(path.read_text())["commit_hash"] for path in files}


def check_history(root: Path) -> None:
    """See that there is a history.

    Raises
    ------
    BuildError
        Without git, or in a folder that is no clone, such as an unpacked archive.
    """
    if shutil.which("git") is None:
        raise BuildError("git is missing, and the pages follow the history of the repository: install git")
    if not git(root, "rev-list", "--max-count=1", "HEAD"):
        raise BuildError(
            f"{root} has no history to show (no git repository, or one without commits): run this in a clone"
        )


def git(root: Path, *arguments: str) -> str:
    """Return what git prints; nothing where it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def put_front(root: Path, pages: Path, shown: set[str]) -> None:
    """Make the front page of the commits that have results, and move asv's away from there."""
    revisions = json.loads((pages / "index.json").read_text())["revision_to_hash"]
    order = [revisions[number] for number in sorted(revisions, key=int) if revisions[number] in shown]
    (pages / "index.html").rename(pages / GRAPHS)
    feed = pages / "regressions.xml"
    if feed.exists():
        feed.write_text(feed.read_text(encoding="utf-8").replace("index.html#", f"{GRAPHS}#"), encoding="utf-8")
    places = cases.read_cases(results(root), order)
    what = ("--no-patch", "--date=short", "--format=%ad%n%s")
    commits = [front.Commit(name, *git(root, "show", *what, name).split("\n", 1)) for name in order]
    html = front.page(places, commits, cases.read_notes(), GRAPHS)
    (pages / "index.html").write_text(html, encoding="utf-8")


def publish(root: Path, pages: Path) -> str:
    """Have asv make its pages; return what it said."""
    command = [sys.executable, "-m", "asv", "--config", str(root / "asv.conf.json"), "publish", "--no-pull"]
    done = subprocess.run(
        [*command, "--html-dir", str(pages)],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(f"asv publish failed; if the clone is shallow, {WHOLE_HISTORY}\n{done.stdout.strip()}")
    return done.stdout.strip()


def published(pages: Path) -> set[str]:
    """Return the commits that have a point in any graph."""
    names = json.loads((pages / "index.json").read_text())["revision_to_hash"]
    revisions = {
        point[0] for path in (pages / MARK / "summary").glob("*.json") for point in json.loads(path.read_text())
    }
    return {names[str(revision)] for revision in revisions}
