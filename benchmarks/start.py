"""How long it takes to begin: the terminal on a tiny pair and the server, cold and warm, and what each imports.

    python -m benchmarks.start [--repeats 5]

Cold: a copy of the program that never ran, so nothing of it is compiled, neither by Python nor by numba; the libraries
are as they are installed. Warm: the same once more. The server is timed from its start to the first byte of its page,
and until it says that it is ready. Prints markdown tables.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.growth import write_matrices
from benchmarks.tables import heading, machine, row, spread

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    *("torch", "numba", "scipy", "streamlit", "plotly", "pandas", "pyarrow", "duckdb", "numpy", "huggingface_hub"),
    *("safetensors", "PIL", "yaml"),
)
_SOON = 120.0  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), options.repeats)


def run(folder: Path, repeats: int) -> None:
    write_matrices(folder / "pair", 4, 64)
    seconds: dict[str, list[float]] = {}
    for number in range(repeats):
        program = _copy(folder / f"program-{number}")
        for when in ("cold", "warm"):
            seconds.setdefault(f"`cli.py compare`, 4 matrices, {when}", []).append(_compare(program, folder)[0])
        for when in ("cold", "warm"):
            first_byte, ready = _serve(program, folder)[0]
            seconds.setdefault(f"server, first byte, {when}", []).append(first_byte)
            seconds.setdefault(f"server, ready, {when}", []).append(ready)
    print(f"{machine()}; {repeats} rounds\n\n{heading('what', 'seconds, median (least to most)')}")
    for name, each in seconds.items():
        print(row(name, spread(each, 2)))
    print(f"\n{heading('process', 'imports of the larger libraries')}")
    print(row("`cli.py compare`", ", ".join(_compare(program, folder, look=True)[1])))
    print(row("server", ", ".join(_serve(program, folder, look=True)[1])))


def _copy(place: Path) -> Path:
    shutil.copytree(
        ROOT, place, ignore=shutil.ignore_patterns(".git", "__pycache__", "*.nbi", "*.nbc", ".venv", ".*_cache")
    )
    return place


def _compare(program: Path, folder: Path, *, look: bool = False) -> tuple[float, list[str]]:
    data, log = folder / "data", folder / "log"
    command = ["cli.py", "compare", str(folder / "pair" / "base"), str(folder / "pair" / "tuned"), "--no-spectra"]
    with log.open("wb") as written:
        began = time.monotonic()
        subprocess.run(
            [sys.executable, *_looking(look), *command],
            cwd=program, env=_environ(folder), stdout=subprocess.DEVNULL, stderr=written, check=True,
        )  # fmt: skip
        took = time.monotonic() - began
    shutil.rmtree(data)
    return took, _imported(log)


def _serve(program: Path, folder: Path, *, look: bool = False) -> tuple[tuple[float, float], list[str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log"
    arguments = ["-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.headless", "true"]
    with log.open("wb") as written:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *_looking(look), *arguments],
            cwd=program, env=_environ(folder), stdout=subprocess.DEVNULL, stderr=written,
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/")
            first_byte = time.monotonic() - began
            _wait_for(f"http://127.0.0.1:{port}/readyz")
            ready = time.monotonic() - began
        finally:
            process.terminate()
            process.wait()
    shutil.rmtree(folder / "data", ignore_errors=True)
    return (first_byte, ready), _imported(log)


def _environ(folder: Path) -> dict[str, str]:
    own = {"SUBNETSCOPE_DATA": str(folder / "data"), "SUBNETSCOPE_LOCAL_ROOTS": str(folder / "pair")}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "NUMBA_CACHE_DIR")}
    return kept | own | {"SUBNETSCOPE_DEMO": "0"}


def _looking(look: bool) -> list[str]:
    return ["-X", "importtime"] if look else []


def _imported(log: Path) -> list[str]:
    """The larger libraries that Python says it imported, with the seconds that each and all it brings took."""
    found = {
        match[2]: int(match[1]) / 1e6
        for match in re.finditer(r"import time:\s+\d+ \|\s+(\d+) \|\s+(\S+)\n", log.read_text(errors="replace"))
    }
    return [f"{name} ({found[name]:.2f} s)" for name in HEAVY if name in found]


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + _SOON
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                answer.read(1)
                return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"{address} did not answer")


if __name__ == "__main__":
    main()
