"""The store when things go wrong: killed, opened twice, out of disk, damaged, from the future."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from analysis.errors import DiskFull, StoreBusy, StoreError, StoreNewer
from analysis.plan import Plan
from cache import migrations
from cache.masks import write_mask
from cache.store import Store
from tests.cache.putter import N_VALUES
from tests.cache.samples import PAIR, bits, matrices, register, spectrum, tally

REPOSITORY = Path(__file__).parents[2]


def putter(path: Path, first: int, count: int) -> subprocess.Popen[str]:
    """A child that puts `count` spectra; returned once it has the store open."""
    command = [sys.executable, "-m", "tests.cache.putter", str(path), str(first), str(count)]
    child = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "open\n"
    return child


def end(child: subprocess.Popen[str]) -> str:
    """Kills the child where it stands; what it still had to say."""
    child.kill()
    said, _ = child.communicate()
    return said


def test_no_acknowledged_row_is_lost_to_kill_9(tmp_path: Path):
    """Three kills at random rows, after, before and about when the log is checkpointed; each child goes on where the
    last one fell."""
    path, moments = tmp_path / "store.duckdb", random.Random(29)  # 75, 14 and 49 rows
    acknowledged = 0
    for _ in range(3):
        child = putter(path, acknowledged, 10_000)
        assert child.stdout
        for _ in range(moments.randint(5, 75)):
            acknowledged = int(child.stdout.readline()) + 1
        acknowledged = max([acknowledged, *(int(line) + 1 for line in end(child).split())])
        with Store.open(path) as store:
            found = store.spectra(PAIR.key)
        assert found.keys() >= {f"layers.{seed}.w" for seed in range(acknowledged)}
        assert len(found) <= acknowledged + 1  # at most the one that was committed and not yet acknowledged
    for seed in range(acknowledged):
        assert bits(found[f"layers.{seed}.w"]) == bits(spectrum(seed, N_VALUES))


def test_a_second_process_is_told_which_one_has_the_store(tmp_path: Path):
    child = putter(tmp_path / "store.duckdb", 0, 0)
    try:
        with pytest.raises(StoreBusy, match=rf"open in another process, PID {child.pid}\."):
            Store.open(tmp_path / "store.duckdb")
    finally:
        end(child)
    Store.open(tmp_path / "store.duckdb").close()


def test_a_second_store_on_one_file_in_one_process_is_refused(tmp_path: Path):
    with Store.open(tmp_path / "store.duckdb") as store:
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(StoreBusy, match=f"already open in this process \\({os.getpid()}\\)"):
            Store.open(tmp_path / "link" / "store.duckdb")
        store.put(PAIR.key, "w", tally(0)).result()
    Store.open(tmp_path / "store.duckdb").close()


def test_a_newer_schema_is_refused_and_not_touched(tmp_path: Path):
    path = tmp_path / "store.duckdb"
    Store.open(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO schema_steps VALUES (999, TIMESTAMP '2030-01-01')")
    with pytest.raises(StoreNewer, match=r"has schema step 999\..*Update Subnetscope"):
        Store.open(path)
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT max(step) FROM schema_steps").fetchall() == [(999,)]


def test_an_older_store_is_backed_up_then_brought_up_to_date(tmp_path: Path):
    path = tmp_path / "store.duckdb"
    with Store.open(path) as store:
        register(store, matrices(1))
        store.put(PAIR.key, "layers.0.w", tally(1)).result()
    steps = (*migrations.STEPS, "ALTER TABLE pairs ADD COLUMN note VARCHAR DEFAULT 'none'")
    with duckdb.connect(str(path)) as connection:
        assert migrations.migrate(connection, path, steps) == 1
        assert migrations.migrate(connection, path, steps) == 0
        assert connection.execute("SELECT note FROM pairs").fetchall() == [("none",)]
    shutil.move(tmp_path / f"store.duckdb.before-step-{len(steps)}", tmp_path / "copy.duckdb")
    with Store.open(tmp_path / "copy.duckdb") as copy:
        assert bits(copy.tally(PAIR.key, "layers.0.w")) == bits(tally(1))


def test_a_store_is_still_locked_after_it_was_backed_up(tmp_path: Path):
    path = tmp_path / "store.duckdb"
    Store.open(path).close()
    steps = (*migrations.STEPS, "SELECT 1")
    opening = f"import duckdb; duckdb.connect({str(path)!r})"
    with duckdb.connect(str(path)) as connection:
        migrations.migrate(connection, path, steps)
        other = subprocess.run([sys.executable, "-c", opening], capture_output=True, text=True)
    assert "Could not set lock" in other.stderr


def test_a_store_that_cannot_be_backed_up_keeps_its_schema(tmp_path: Path):
    path, steps = tmp_path / "store.duckdb", (*migrations.STEPS, "SELECT 1")
    Store.open(path).close()
    (tmp_path / f"store.duckdb.before-step-{len(steps)}").mkdir()
    with duckdb.connect(str(path)) as connection, pytest.raises(OSError, match="could not be copied"):
        migrations.migrate(connection, path, steps)
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT max(step) FROM schema_steps").fetchall() == [(len(migrations.STEPS),)]


def test_an_alignment_of_the_first_schema_reads_as_pairs_of_one_name(tmp_path: Path):
    path, key = tmp_path / "store.duckdb", PAIR.key
    with duckdb.connect(str(path)) as connection:
        migrations.migrate(connection, None, migrations.STEPS[:1])
        connection.execute(
            "INSERT INTO pairs SELECT ?, 'hub', 'org/base', ?, '', 'hub', 'org/tuned', ?, '', '{}', '{}', "
            "24, 24, 1, 1, 24, TIMESTAMP '2026-01-01'",
            [key, "b" * 40, "c" * 40],
        )
        connection.execute(
            "INSERT INTO tensors VALUES (?, 0, 'layers.0.w', 'layers.0.w', [6, 4], "
            "'BF16', 'model.safetensors', 8, 56, 'BF16', 'model.safetensors', 8, 56)",
            [key],
        )
    with Store.open(path) as store:
        assert store.alignment(key) == matrices(1)


def test_of_a_pair_that_was_measured_before_selections_everything_was_asked_for(tmp_path: Path):
    path = tmp_path / "store.duckdb"
    before = migrations.STEPS.index(migrations._ASKED)
    with duckdb.connect(str(path)) as connection:
        migrations.migrate(connection, None, migrations.STEPS[:before])
    with duckdb.connect(str(path)) as connection:
        names = [row[0] for row in connection.execute("DESCRIBE tallies").fetchall()]
        kinds = [row[1] for row in connection.execute("DESCRIBE tallies").fetchall()]
        value_of_kind = {"VARCHAR": "'w'", "TIMESTAMP": "TIMESTAMP '2026-01-01'"}
        values = [
            f"'{PAIR.key}'" if n == "pair_key" else value_of_kind.get(k, "[]" if "[]" in k else "0")
            for n, k in zip(names, kinds, strict=True)
        ]
        connection.execute(f"INSERT INTO tallies VALUES ({', '.join(values)})")
    with Store.open(path) as store:
        assert store.asked(PAIR.key) == (Plan(),)
        store.ask(PAIR.key, Plan(spectra=False)).result()
        assert set(store.asked(PAIR.key)) == {Plan(), Plan(spectra=False)}


def test_a_step_that_fails_leaves_the_store_at_the_last_good_one(tmp_path: Path):
    path = tmp_path / "store.duckdb"
    Store.open(path).close()
    steps = (*migrations.STEPS, "CREATE TABLE half (a INTEGER); SELECT no_such_thing")
    with duckdb.connect(str(path)) as connection, pytest.raises(duckdb.Error):
        migrations.migrate(connection, path, steps)
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT max(step) FROM schema_steps").fetchall() == [(len(migrations.STEPS),)]
    Store.open(path).close()


@pytest.mark.parametrize("content", [b"", b"not a database", b"x" * 20_000], ids=["empty", "text", "long text"])
def test_a_file_that_is_no_store_is_refused_and_not_touched(tmp_path: Path, content: bytes):
    path = tmp_path / "store.duckdb"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="is damaged, or is no store"):
        Store.open(path)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_an_error_with_words(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be opened or written"):
        Store.open(tmp_path / "file" / "store.duckdb")


def test_sql_in_a_name_stays_a_name(tmp_path: Path):
    name = "w'); DROP TABLE tallies; --"
    with Store.open(tmp_path / "store.duckdb") as store:
        store.put(PAIR.key, name, tally(0)).result()
        assert bits(store.tally(PAIR.key, name)) == bits(tally(0))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "ATTACH '{folder}/other.duckdb'",
        "SET threads = 1",
        "SELECT * FROM a_python_variable",
    ],
)
def test_the_connection_has_given_up_its_rights(tmp_path: Path, statement: str):
    a_python_variable = pa.table({"secret": [1]})
    with Store.open(tmp_path / "store.duckdb") as store, pytest.raises(duckdb.Error):
        store._database._connection.execute(statement.format(folder=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["store.duckdb"]
    assert a_python_variable.num_rows == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB, half of it taken."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root may mount a small file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (folder / "ballast").write_bytes(bytes(20_000_000))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_store_goes_on_once_there_is_room(small_disk: Path):
    names: list[str] = []

    def put_until_full() -> StoreError:
        for seed in range(len(names), 300):
            try:
                store.put(PAIR.key, f"{seed}", spectrum(seed, N_VALUES)).result()
            except StoreError as error:
                return error
            names.append(f"{seed}")
        raise AssertionError("300 spectra of 320 kB do not fit on this disk")

    with Store.open(small_disk / "store.duckdb") as store:
        error = put_until_full()
        assert "The disk that holds the store is full. " in str(error)
        assert "Free some space" in error.do
        assert store.spectra(PAIR.key).keys() >= set(names)  # reading still works
        n_before = len(names)
        (small_disk / "ballast").unlink()
        put_until_full()
        assert len(names) > n_before + 20
    with Store.open(small_disk / "store.duckdb") as store:
        found = store.spectra(PAIR.key)
    assert found.keys() >= set(names)
    assert all(bits(found[name]) == bits(spectrum(int(name), N_VALUES)) for name in names)


def test_a_mask_that_does_not_fit_on_the_disk_leaves_nothing_behind(small_disk: Path):
    random_bits = np.random.default_rng(0).integers(0, 256, 30_000_000, dtype=np.uint8)  # does not compress
    with pytest.raises(DiskFull, match="An update mask could not be written"):
        write_mask(small_disk, PAIR.key, "w", "exact", random_bits, 8 * len(random_bits))
    assert list((small_disk / PAIR.key).iterdir()) == []
