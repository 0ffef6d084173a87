"""A pair streamed from a Hub and the same pair from downloaded files: disk, requests, memory, time, and the same bits.

    python benchmarks/streaming.py [--gigabytes 2] [--no-spectra]

Writes a sharded pair, serves it by the tests' Hub in a process of its own on 127.0.0.1, runs the terminal's `compare`
both ways into stores of their own, and prints a markdown table. Disk is what lies below the Hub cache and the data
folder at the peak; the masks, which are results, are counted apart.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from cache.settings import Settings  # noqa: E402
from cache.store import Store  # noqa: E402
from pair import write_pair  # noqa: E402
from tests.cache.digests import digest  # noqa: E402
from tests.hub.loopback import LoopbackHub  # noqa: E402

_HEADER = 100_000  # bytes of the request that reads a header
_BETWEEN_LOOKS = 0.05  # seconds


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
    command = [sys.executable, __file__, "--serve", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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


class Watch:
    """Looks at the disk and at the memory of a process and its children until it is told to stop."""

    def __init__(self, pid: int, folders: dict[str, Path]) -> None:
        self._pid, self._folders = pid, folders
        self.disk: dict[str, int] = dict.fromkeys(folders, 0)
        self.memory: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_BETWEEN_LOOKS):
            for name, folder in self._folders.items():
                self.disk[name] = max(self.disk[name], _disk_of(folder))
            for pid in (self._pid, *_children(self._pid)):
                _remember_peak(pid, self.memory)


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


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        found += [entry for child in children for entry in (child, *_children(child))]
    return found


def _remember_peak(pid: int, peaks: dict[str, int]) -> None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return
    name = next((part.rpartition(".")[2] for part in command if part.startswith("cache.backends")), "parent")
    if peak := re.search(r"VmHWM:\s+(\d+)", status):
        peaks[name] = max(peaks.get(name, 0), int(peak[1]) // 1000)


def run(hub: subprocess.Popen[str], address: str, folder: Path, *options: str) -> dict[str, object]:
    """One comparison in folders of its own, and what it took."""
    folder.mkdir()
    environ = os.environ | {
        "HF_ENDPOINT": address, "HF_HOME": str(folder / "hf"), "HF_HUB_CACHE": str(folder / "hf" / "hub"),
        "SUBNETSCOPE_DATA": str(folder / "data"), "SUBNETSCOPE_DEMO": "0", "SUBNETSCOPE_DEVICE": "cpu",
    }  # fmt: skip
    store = folder / "data" / "store.duckdb"
    command = [sys.executable, "cli.py", "compare", "org/base", "org/tuned", "--store", str(store), *options]
    asked_since(hub)
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
    watch = Watch(process.pid, {"Hub cache": folder / "hf", "data": folder / "data"})
    if process.wait() != 0:
        raise SystemExit("the comparison failed")
    seconds = time.monotonic() - began
    watch.stop()
    spans = asked_since(hub)
    settings = Settings.from_environment(environ)
    with Store.open(store) as opened:
        bits = digest(opened, opened.pairs()[0].pair.key, settings)
    masks = sum(path.stat().st_size for path in settings.masks_dir.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    return {"disk": watch.disk, "masks": masks, "spans": spans, "bits": bits, "s": seconds, "memory": watch.memory}


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
            streamed = run(hub, address, folder / "streamed", "--stream", *rest)
            files = run(hub, address, folder / "files", *rest)
    finally:
        shutil.rmtree(folder)
    print_table(streamed, files)


def print_table(streamed: dict, files: dict) -> None:
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}\n")
    print("| what | streamed | from files |\n|---|---|---|")
    for name in ("Hub cache", "data"):
        print(
            f"| disk at the peak, {name} | {streamed['disk'][name] / 1e6:.1f} MB | {files['disk'][name] / 1e6:.1f} MB |"
        )
    print(f"| masks (results) | {streamed['masks'] / 1e6:.1f} MB | {files['masks'] / 1e6:.1f} MB |")
    print(f"| requests for weights | {len(streamed['spans'])} | {len(files['spans'])} |")
    means = [sum(each["spans"]) / max(1, len(each["spans"])) / 1e6 for each in (streamed, files)]
    print(f"| bytes a request, on average | {means[0]:.1f} MB | {means[1]:.1f} MB |")
    for name in sorted({*streamed["memory"], *files["memory"]}):
        cells = [f"{each['memory'][name]} MB" if name in each["memory"] else "" for each in (streamed, files)]
        print(f"| peak memory, {name} | {cells[0]} | {cells[1]} |")
    print(f"| from command to result | {streamed['s']:.0f} s | {files['s']:.0f} s |")
    print(f"| SHA-256 of all results | {streamed['bits'][:16]}… | {files['bits'][:16]}… |")
    print(f"\nThe results are {'equal, bit by bit' if streamed['bits'] == files['bits'] else 'DIFFERENT'}.")


if __name__ == "__main__":
    main()
