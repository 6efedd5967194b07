"""The scripts and styles that asv's pages load from other hosts, taken from the npm registry instead.

``package.json`` pins their versions and ``package-lock.json`` their hashes, which npm checks. To change one:
``npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved`` in this folder.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.dashboard.errors import BuildError

HERE = Path(__file__).parent
MANIFESTS = ("package.json", "package-lock.json")
FOLDER = "scripts"  # within the pages
# The files that asv's pages name, and where npm's packages have them.
FILES = {
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
}
FONTS = "bootstrap/dist/fonts"  # which bootstrap's styles name
REMOTE = re.compile(
    r'<(?P<tag>script|link)\b[^>]*?\b(?P<key>src|href)="(?:https?:)?//[^"]*?/(?P<name>[^/"]+)"[^>]*>'
)
REMEDY = "install Node.js with npm, see that `npm ping` reaches a registry, and try again"


def fetch(cache: Path) -> Path:
    """Return the folder of the packages; it is filled by npm, unless an earlier build has done so.

    Parameters
    ----------
    cache : Path
        Where it is kept, by the hash of what it must hold.

    Raises
    ------
    BuildError
        Without npm or its registry, or if a package is not what its hash says.
    """
    wanted = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in MANIFESTS)).hexdigest()[:16]
    kept = cache / wanted
    if kept.is_dir():
        return kept / "node_modules"
    npm = shutil.which("npm")
    if npm is None:
        raise BuildError(f"the scripts of the pages come from the npm registry, and npm is missing: {REMEDY}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name) / wanted
        folder.mkdir()
        for manifest in MANIFESTS:
            shutil.copy(HERE / manifest, folder)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"npm could not get the scripts of the pages: {REMEDY}\n{done.stderr.strip()}")
        if not kept.is_dir():  # another build may have been faster
            folder.rename(kept)
    return kept / "node_modules"


def put_into(pages: Path, packages: Path) -> None:
    """Copy the files into the pages, and let ``index.html`` name them instead of other hosts.

    Raises
    ------
    BuildError
        If the page names a file that is not known here, or a package lacks one.
    """
    index = pages / "index.html"
    html = REMOTE.sub(_local, index.read_text(encoding="utf-8"))
    for place in [*FILES.values(), FONTS]:
        if not (packages / place).exists():
            raise BuildError(f"the npm packages have no {place}: see FILES in {__name__}")
        target = pages / FOLDER / place
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (packages / place).is_dir() else shutil.copy
        copy(packages / place, target)
    index.write_text(html, encoding="utf-8")


def _local(found: re.Match[str]) -> str:
    if found["name"] not in FILES:
        raise BuildError(
            f"asv's pages load {found['name']!r}, which is unknown here: add it to FILES in {__name__}"
        )
    place = f"{FOLDER}/{FILES[found['name']]}"
    if found["tag"] == "link":
        return f'<link rel="stylesheet" href="{place}">'
    return f'<script src="{place}" onerror="js_load_failure()">'
