"""The exported folder is opened as its users open it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from curate.export import (
    CardInfo,
    ExportError,
    ExportSettings,
    LicenseError,
    PoolSource,
    export_dataset,
    hub_license,
    pool_sources,
)
from curate.records import Example, Message

POOL = [
    Example(
        f"row-{number}",
        "we|b" if number % 3 else "books",
        (Message("user", f"Frage {number}?\nnaïve"), Message("assistant", "数 \u2028 <b>")),
        "MIT" if number % 3 else "CC-BY-SA-3.0 (Stack Overflow)",
        "d",
        f"f:{number}",
    )
    for number in range(12)
]
COLUMNS = ["id", "source", "license", "domain", "messages", "rank", "utility", "task"]
ORDER = [7, 2, 9, 0, 11]
EXAMPLES = [POOL[row] for row in ORDER]
ROWS = [{"id": f"row-{row}", "rank": rank, "utility": 2.5 - rank, "task": "math"} for rank, row in enumerate(ORDER)]
CARD = CardInfo(
    title="Five: a small set",
    summary="Five conversations.",
    method="BIDS, 5 of 12 rows.",
    pool=pool_sources(POOL),
    read=12,
    fates={"removed by exact_duplicates": 3, "not selected": 4},
    gaps=("No dialogue of more than one turn.",),
    languages=("de",),
)


def header(folder):
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


@pytest.mark.parametrize("rows_per_shard", [2, 100])
def test_load_dataset_opens_it_in_rank_order(tmp_path, rows_per_shard):
    import datasets

    folder = tmp_path / "set"
    export_dataset(folder, EXAMPLES, ROWS, CARD, settings=ExportSettings(rows_per_shard=rows_per_shard))
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    train = loaded["train"]
    assert train.column_names == COLUMNS
    assert train["id"][:] == [example.id for example in EXAMPLES]
    assert train["rank"][:] == [0, 1, 2, 3, 4] and train["utility"][:] == [2.5, 1.5, 0.5, -0.5, -1.5]
    chat = [[{"role": turn.role, "content": turn.content} for turn in example.messages] for example in EXAMPLES]
    assert train["messages"][:] == chat
    lines = (folder / "chat.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["messages"] for line in lines[:-1]] == chat and lines[-1] == ""
    shards = sorted(path.name for path in (folder / "data").iterdir())
    assert shards == (
        [f"train-{part:05d}-of-00003.parquet" for part in range(3)]
        if rows_per_shard == 2
        else ["train-00000-of-00001.parquet"]
    )


def test_card(tmp_path):
    export_dataset(tmp_path, EXAMPLES, ROWS, CARD)
    head = header(tmp_path)
    info = head.pop("dataset_info")
    assert head == {
        "pretty_name": "Five: a small set",
        "language": ["de"],
        "license": "other",
        "license_name": "several-see-license-md",
        "license_link": "LICENSE.md",
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["equipoise", "instruction-tuning", "data-selection"],
        "configs": [
            {
                "config_name": "default",
                "default": True,
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            },
            {"config_name": "lineage", "data_files": [{"split": "train", "path": "lineage.parquet"}]},
        ],
    }
    assert [field["name"] for field in info["features"]] == COLUMNS
    assert info["splits"][0]["num_examples"] == 5
    assert info["download_size"] == sum(path.stat().st_size for path in (tmp_path / "data").iterdir())
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| we\\|b | MIT | local files | 8 | 66.7% | 3 | 60.0% |" in text
    assert "| books | CC-BY-SA-3.0 (Stack Overflow) | local files | 4 | 33.3% | 2 | 40.0% |" in text
    assert "| read | 12 |\n| removed by exact_duplicates | 3 |\n| not selected | 4 |\n| exported | 5 |" in text
    assert "- No dialogue of more than one turn." in text and "BIDS, 5 of 12 rows." in text


def test_the_header_passes_the_hub_librarys_reader(tmp_path):
    from huggingface_hub import DatasetCard

    alone = [replace(example, license="Apache License 2.0") for example in EXAMPLES]
    for folder, examples in ((tmp_path / "a", EXAMPLES), (tmp_path / "b", alone)):
        export_dataset(folder, examples, ROWS, CARD)
        card = DatasetCard((folder / "README.md").read_text(encoding="utf-8"), ignore_metadata_errors=False)
        assert (card.data.license, card.data.pretty_name) == (
            "other" if examples is EXAMPLES else "apache-2.0",
            "Five: a small set",
        )
        assert card.data.to_dict() == header(folder)


def test_a_licence_that_forbids_stops_before_anything_is_written(tmp_path):
    bound = [replace(EXAMPLES[0], license="CC BY-ND 4.0"), *EXAMPLES[1:]]
    with pytest.raises(LicenseError, match=r"we\|b: the licence 'CC BY-ND 4.0' .*allow_licenses: \[cc-by-nd-4.0\]"):
        export_dataset(tmp_path / "set", bound, ROWS, CARD)
    assert not (tmp_path / "set").exists()
    manifest = export_dataset(
        tmp_path / "set", bound, ROWS, CARD, settings=ExportSettings(allow_licenses=["cc-by-nd-4.0"])
    )
    assert manifest["licenses"]["CC BY-ND 4.0"] == {"rows": 1, "standing": "forbidden", "allowed_by_name": True}
    assert "Allowed by name by whoever exported this: CC BY-ND 4.0." in (tmp_path / "set/README.md").read_text()


def test_rows_that_do_not_add_up_are_a_bug(tmp_path):
    with pytest.raises(ExportError, match="does not add up"):
        export_dataset(tmp_path, EXAMPLES, ROWS, replace(CARD, read=13))


def test_manifest_and_equal_bytes(tmp_path):
    lineage = {"selection": "abc", "seed": 0}
    first = export_dataset(tmp_path / "a", EXAMPLES, ROWS, CARD, lineage=lineage)
    export_dataset(tmp_path / "b", EXAMPLES, ROWS, CARD, lineage=lineage)
    names = sorted(
        path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*") if path.is_file()
    )
    assert names == [
        *("LICENSE.md", "README.md", "axolotl.yaml", "chat.jsonl", "croissant.json"),
        *("data/train-00000-of-00001.parquet", "dataset_info.json", "lineage.parquet", "manifest.json"),
    ]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert json.loads((tmp_path / "a" / "manifest.json").read_text(encoding="utf-8")) == first
    assert (first["rows"], first["tasks"]) == (5, {"math": 5})
    assert first["sources"] == {"books": 2, "we|b": 3} and first["lineage"] == lineage
    assert sorted(first["files"]) == names[:-1]
    for name, entry in first["files"].items():
        content = (tmp_path / "a" / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_a_random_selection_has_no_task_or_utility(tmp_path):
    rows = [{**row, "task": None, "utility": None} for row in ROWS]
    assert export_dataset(tmp_path, EXAMPLES, rows, CARD)["tasks"] == {}


@pytest.mark.parametrize(
    ("examples", "rows", "message"),
    [
        ([], [], "nothing to export"),
        (EXAMPLES[:3], ROWS, "3 examples but 5 selection rows"),
        (EXAMPLES[::-1], ROWS, "row 0: example 'row-11' stands where the selection has 'row-7'"),
        (EXAMPLES, [{**row, "rank": 0} for row in ROWS], r"row 1 \('row-2'\): rank 0 does not ascend"),
    ],
)
def test_lists_that_do_not_belong_together(tmp_path, examples, rows, message):
    with pytest.raises(ExportError, match=message):
        export_dataset(tmp_path, examples, rows, CARD)


def test_licences_and_pool_counts():
    assert hub_license("CC-BY-SA-4.0") == "cc-by-sa-4.0" and hub_license("my own") == "other"
    assert pool_sources(POOL) == (PoolSource("we|b", "MIT", 8), PoolSource("books", "CC-BY-SA-3.0 (Stack Overflow)", 4))


def test_many_rows_and_a_very_long_one_are_written_by_groups_in_order(tmp_path):
    turns = (Message("user", "?"), Message("assistant", "!"))
    many = [Example(f"r{n}", "s", turns, "MIT", "d", f"f:{n + 1}") for n in range(2500)]
    many[7] = replace(many[7], messages=(Message("user", "?"), Message("assistant", "数" * 190_000)))
    rows = [{"id": example.id, "rank": n, "utility": None, "task": None} for n, example in enumerate(many)]
    card = CardInfo("T", "S.", "M.", pool_sources(many))
    export_dataset(tmp_path, many, rows, card, settings=ExportSettings(rows_per_shard=2100))
    first, second = (pq.ParquetFile(tmp_path / f"data/train-0000{n}-of-00002.parquet") for n in range(2))
    sizes = [[file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] for file in (first, second)]
    assert sizes == [[1000, 1000, 100], [400]]
    table = pa.concat_tables([first.read(), second.read()])
    assert table["id"].to_pylist() == [example.id for example in many]
    assert table["messages"][7].as_py()[1]["content"] == "数" * 190_000
