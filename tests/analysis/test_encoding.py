"""Files of numbers: the same rows in all three formats, with where they come from, harmless in a spreadsheet."""

import io
import json
import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis import encoding

ORIGIN = {"subnetscope": {"version": "1"}, "pairs": [{"base": {"id": "org/base, with a comma", "commit": "a" * 40}}]}
ROWS = [
    {"name": "model.a#1", "layer": None, "entries": 2**53 + 1, "share": 0.1, "rank": math.nan},
    {"name": 'b, "quoted"', "layer": 3, "entries": 5, "share": np.float64(1 / 3), "rank": 7},
]


def bytes_of(form: str, rows) -> bytes:
    return b"".join(encoding.ENCODERS[form][1](rows, ORIGIN))


def test_csv_reads_back_with_comments_skipped():
    table = pd.read_csv(io.BytesIO(bytes_of("csv", ROWS)), comment="#")
    assert list(table.columns) == ["name", "layer", "entries", "share", "rank"]
    assert table["name"].tolist() == ["model.a#1", 'b, "quoted"']
    assert table["entries"].tolist() == [2**53 + 1, 5]
    assert table["share"].tolist() == [0.1, 1 / 3]
    assert table["layer"].isna().tolist() == [True, False]


def test_csv_says_where_it_comes_from():
    lines = bytes_of("csv", ROWS).decode().splitlines()
    assert lines[0] == "# subnetscope.version: 1"
    assert f"# pairs.0.base.commit: {'a' * 40}" in lines


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"], ids=["=", "+", "-", "@", "tab"])
def test_text_that_a_spreadsheet_would_run_is_quoted(start):
    table = pd.read_csv(io.BytesIO(bytes_of("csv", [{"name": f"{start}cmd()"}])), comment="#")
    assert not table["name"][0].startswith(start)


def test_a_model_cannot_put_a_formula_into_the_comments():
    text = b"".join(encoding.csv(ROWS, {"base": 'x,=cmd()\n"=cmd()'})).decode()
    assert text.splitlines()[0] == "# base: x,'=cmd()\\u000a\"=cmd()"


def test_parquet_has_types_and_its_origin():
    table = pq.read_table(io.BytesIO(bytes_of("parquet", ROWS)))
    assert [str(field.type) for field in table.schema] == ["string", "int64", "int64", "double", "int64"]
    assert table.column("rank").to_pylist() == [None, 7]
    assert table.column("entries").to_pylist() == [2**53 + 1, 5]
    assert json.loads(table.schema.metadata[b"subnetscope"]) == ORIGIN


def test_json_has_rows_and_origin():
    document = json.loads(bytes_of("json", ROWS))
    assert document["provenance"] == ORIGIN
    assert document["rows"] == [
        {"name": "model.a#1", "layer": None, "entries": 2**53 + 1, "share": 0.1, "rank": None},
        {"name": 'b, "quoted"', "layer": 3, "entries": 5, "share": 1 / 3, "rank": 7},
    ]


@pytest.mark.parametrize("form", list(encoding.ENCODERS))
def test_rows_made_as_they_are_asked_for_come_in_pieces_and_whole(form: str):
    pieces = list(encoding.ENCODERS[form][1](({"n": i, "half": i / 2} for i in range(50_001)), ORIGIN))
    assert len(pieces) > 3
    whole = io.BytesIO(b"".join(pieces))
    if form == "csv":
        found = pd.read_csv(whole, comment="#")["n"].tolist()
    elif form == "parquet":
        found = pq.read_table(whole).column("n").to_pylist()
    else:
        found = [row["n"] for row in json.load(whole)["rows"]]
    assert found == list(range(50_001))


def test_no_rows_are_a_file_that_says_so():
    assert json.loads(bytes_of("json", [])) == {"provenance": ORIGIN, "rows": []}
    assert pq.read_table(io.BytesIO(bytes_of("parquet", []))).num_rows == 0
    assert all(line.startswith("#") for line in bytes_of("csv", []).decode().splitlines())


def test_every_table_of_a_view_in_one_document():
    text = b"".join(encoding.json_tables({"a": lambda: ROWS[1:], "b": list}, ORIGIN))
    document = json.loads(text)
    assert document["tables"]["a"][0]["layer"] == 3
    assert document["tables"]["b"] == []
