"""A child for the fault tests: opens a store and puts spectra, one line on stdout for each that is acknowledged.

python -m tests.cache.putter FILE FIRST COUNT    (COUNT 0: only hold the store open until stdin ends)
"""

from __future__ import annotations

import sys

from cache.store import Store
from tests.cache.samples import PAIR, spectrum

N_VALUES = 80_000  # 320 kB a row, so that a checkpoint comes every fifty rows


def main() -> None:
    path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with Store.open(path) as store:
        print("open", flush=True)
        if count == 0:
            sys.stdin.read()
        for seed in range(first, first + count):
            store.put(PAIR.key, f"layers.{seed}.w", spectrum(seed, N_VALUES)).result()
            print(seed, flush=True)


if __name__ == "__main__":
    main()
