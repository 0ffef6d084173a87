"""A pair streamed from a Hub and the same pair from downloaded files: disk, requests, memory, time, and the same bits.

    python -m benchmarks.streaming [--gigabytes 2] [--no-spectra]

Writes a sharded pair, serves it by the tests' Hub in a process of its own on 127.0.0.1, runs the terminal's `compare`
both ways into stores of their own, and prints a markdown table. Disk is what lies below the Hub cache and the data
folder at the peak; the masks, which are results, are counted apart.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.pair import write_pair
from benchmarks.processes import run
from benchmarks.tables import heading, machine, row
from cache.settings import Settings
from cache.store import Store
from tests.cache.digests import digest
from tests.hub.loopback import LoopbackHub

ROOT = Path(__file__).resolve().parents[1]

_HEADER = 100_000  # bytes of the request that reads a header


def serve(folder: Path) -> None:
    """The Hub's process: says where it is, and on each line of its input what was asked since the last."""
    with LoopbackHub() as hub:
        for side in ("base", "tuned"):
            hub.add(f"org/{side}", {path.name: path.read_bytes() for path in (folder / side).iterdir()})
        print(hub.url, flush=True)
        for _ in sys.stdin:
            asked = [(seen.method, seen.path, seen.range) for seen in hub.requests]
            hub.requests.clear()
            print(json.dumps(asked), flush=True)


@contextmanager
def hub_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.streaming", "--serve", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def asked_since(hub: subprocess.Popen[str]) -> list[int]:
    """Bytes of each GET of weights since the last call; headers are left out."""
    assert hub.stdin is not None
    assert hub.stdout is not None
    hub.stdin.write("\n")
    hub.stdin.flush()
    spans = []
    for method, path, asked in json.loads(hub.stdout.readline()):
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if method == "GET" and path.endswith(".safetensors") and match:
            spans.append(int(match[2]) + 1 - int(match[1]))
    return [span for span in spans if span != _HEADER]


class Disk:
    """The most bytes that lay in each of these folders, as often as `look` is called."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        self.peaks: dict[str, int] = dict.fromkeys(folders, 0)

    def look(self) -> None:
        for name, folder in self._folders.items():
            self.peaks[name] = max(self.peaks[name], _disk_of(folder))


def _disk_of(folder: Path) -> int:
    """Bytes that the folder's files take, those of the masks' folder apart."""
    total = 0
    for top, folders, files in os.walk(folder):
        if top == str(folder):
            folders[:] = [name for name in folders if not name.endswith(".masks")]
        for file in files:
            try:
                total += os.lstat(Path(top, file)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def compare(hub: subprocess.Popen[str], address: str, folder: Path, *options: str) -> dict[str, object]:
    """One comparison in folders of its own, and what it took."""
    folder.mkdir()
    environ = os.environ | {
        "HF_ENDPOINT": address, "HF_HOME": str(folder / "hf"), "HF_HUB_CACHE": str(folder / "hf" / "hub"),
        "SUBNETSCOPE_DATA": str(folder / "data"), "SUBNETSCOPE_DEMO": "0", "SUBNETSCOPE_DEVICE": "cpu",
    }  # fmt: skip
    store = folder / "data" / "store.duckdb"
    command = [sys.executable, "cli.py", "compare", "org/base", "org/tuned", "--store", str(store), *options]
    asked_since(hub)
    disk = Disk({"Hub cache": folder / "hf", "data": folder / "data"})
    cost = run(command, ROOT, environ, also=disk.look)
    spans = asked_since(hub)
    settings = Settings.from_environment(environ)
    with Store.open(store) as opened:
        bits = digest(opened, opened.pairs()[0].pair.key, settings)
    masks = sum(path.stat().st_size for path in settings.masks_dir.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    memory = cost.peaks.of_process
    return {"disk": disk.peaks, "masks": masks, "spans": spans, "bits": bits, "s": cost.seconds, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--no-spectra", action="store_true")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    folder = Path(tempfile.mkdtemp(prefix="subnetscope-"))
    rest = ["--no-spectra"] if options.no_spectra else []
    try:
        write_pair(folder / "pair", options.gigabytes, 2048)
        with hub_process(folder / "pair") as hub:
            assert hub.stdout is not None
            address = hub.stdout.readline().strip()
            streamed = compare(hub, address, folder / "streamed", "--stream", *rest)
            files = compare(hub, address, folder / "files", *rest)
    finally:
        shutil.rmtree(folder)
    print_table(streamed, files)


def print_table(streamed: dict, files: dict) -> None:
    both = (streamed, files)
    print(f"{machine()}\n\n{heading('what', 'streamed', 'from files')}")
    for name in ("Hub cache", "data"):
        print(row(f"disk at the peak, {name}", *(f"{each['disk'][name] / 1e6:.1f} MB" for each in both)))
    print(row("masks (results)", *(f"{each['masks'] / 1e6:.1f} MB" for each in both)))
    print(row("requests for weights", *(len(each["spans"]) for each in both)))
    means = [sum(each["spans"]) / max(1, len(each["spans"])) / 1e6 for each in both]
    print(row("bytes a request, on average", *(f"{mean:.1f} MB" for mean in means)))
    for name in sorted({*streamed["memory"], *files["memory"]}):
        cells = (f"{each['memory'][name]} MB" if name in each["memory"] else "" for each in both)
        print(row(f"peak memory, {name}", *cells))
    print(row("from command to result", *(f"{each['s']:.0f} s" for each in both)))
    print(row("SHA-256 of all results", *(f"{each['bits'][:16]}…" for each in both)))
    print(f"\nThe results are {'equal, bit by bit' if streamed['bits'] == files['bits'] else 'DIFFERENT'}.")


if __name__ == "__main__":
    main()
