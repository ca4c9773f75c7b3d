"""Files of evaluation items with mistakes in them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.items import ItemError, read_items

GOOD = {"id": "a", "capability": "math", "prompt": "2+2?", "target": "4"}


def _file(path, *rows):
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_items_of_all_files_come_in_order(tmp_path):
    files = [_file(tmp_path / f"{name}.parquet", GOOD | {"id": name}) for name in ("b", "a")]
    assert [item.id for item in read_items(files)] == ["b", "a"]


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [("prompt", None, "prompt must be a text, and is None"), ("target", None, "target must"), ("id", None, "id must")],
)
def test_a_missing_text_is_named_with_its_row(tmp_path, column, value, told):
    path = _file(tmp_path / "items.parquet", GOOD, GOOD | {"id": "b"} | {column: value})
    with pytest.raises(ItemError, match=rf"items\.parquet, row 1, id .*: {told}"):
        read_items([path])


def test_a_number_for_a_text_is_named(tmp_path):
    with pytest.raises(ItemError, match="row 0, id 7: id must be a text, and is 7"):
        read_items([_file(tmp_path / "items.parquet", GOOD | {"id": 7})])


def test_what_is_no_parquet_file_is_named(tmp_path):
    (tmp_path / "items.parquet").write_text("id,prompt")
    with pytest.raises(ItemError, match=r"items\.parquet is no Parquet file"):
        read_items([tmp_path / "items.parquet"])
