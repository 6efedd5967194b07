"""Building the pages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.dashboard import scripts
from benchmarks.dashboard.errors import BuildError

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
    wanted = measured(root)
    if not wanted:
        raise BuildError(f"there are no results in {results(root)}: measure some commits first (asv run)")
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
