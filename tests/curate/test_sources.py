"""Readers: every format and shape gives the same examples, and every row is accounted for."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from curate.records import Example, Rejected
from curate.sources import (
    SourceError,
    SourceSpec,
    TooManyRejectedError,
    read_pool,
    read_source,
    read_targets,
    to_messages,
)

CHAT = [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue, said the sky"}]
SHAPES = {
    "messages": {"messages": CHAT},
    "alpaca": {"instruction": "Name a colour.", "input": "", "output": "Blue, said the sky"},
    "prompt_completion": {"prompt": "Name a colour.", "completion": "Blue, said the sky"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Blue, said the sky"}]
    },
}


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(
                {key: value if isinstance(value, str | int) else json.dumps(value) for key, value in row.items()}
                for row in rows
            )
    return str(path)


def rows_of(spec, **options):
    return list(read_source(SourceSpec(**spec) if isinstance(spec, dict) else SourceSpec(path=spec), **options))


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_format_and_shape(tmp_path, suffix, shape):
    path = write(
        tmp_path / f"colours{suffix}", [{"id": f"r{row}", "license": "MIT", **SHAPES[shape]} for row in range(3)]
    )
    for asked in ("auto", shape):
        read = rows_of({"path": path, "shape": asked})
        assert [row.id for row in read] == ["r0", "r1", "r2"]
        assert {(row.source, row.license, row.domain) for row in read} == {("colours", "MIT", "unknown")}
        assert [(turn.role, turn.content) for turn in read[2].messages] == [(t["role"], t["content"]) for t in CHAT]
        first = 2 if suffix == ".csv" else 1  # the CSV header is line 1
        assert [row.origin for row in read] == [f"{path}:{first + row}" for row in range(3)]


def test_other_fields_of_the_shapes():
    assert to_messages({"question": "q", "answer": "a"}) == to_messages({"prompt": "q", "response": "a"})
    assert to_messages({"instruction": "i", "input": "x", "output": "o"})[0]["content"] == "i\n\nx"
    assert to_messages({**SHAPES["sharegpt"], "system": "s"})[0] == {"role": "system", "content": "s"}
    assert to_messages({**SHAPES["alpaca"], "messages": None, "system": ""}) == CHAT
    assert to_messages({"prompt": CHAT[:1], "completion": CHAT[1:]}) == CHAT


def test_settings_of_the_source_win_over_the_row(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"source": "web", "license": "MIT", "domain": "x", **SHAPES["alpaca"]}])
    assert [(row.source, row.license, row.domain) for row in rows_of(path)] == [("web", "MIT", "x")]
    spec = {"path": path, "source": "s", "license": "l", "domain": "d", "capability": "c"}
    assert [(r.source, r.license, r.domain, r.capability) for r in rows_of(spec)] == [("s", "l", "d", "c")]


def test_bad_lines_cost_themselves_only(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps(SHAPES["alpaca"]).encode()
    lines = [
        b"\xef\xbb\xbf" + good,
        b"{not json",
        b"",
        b"[1]",
        b'{"x": "\xff"}',
        b'{"text": "no shape"}',
        b"[" * 100_000,
    ]
    path.write_bytes(b"\n".join([*lines, good]))
    results = rows_of(str(path))
    assert [type(row) for row in results] == [Example, Rejected, Rejected, Rejected, Rejected, Rejected, Example]
    assert [row.origin.rsplit(":")[-1] for row in results] == ["1", "2", "4", "5", "6", "7", "8"]
    assert [row.reason[:40] for row in results[1:6]] == [
        "the line is not valid JSON",
        "the line is not a JSON object",
        "the line is not UTF-8",
        "no conversation: expected messages, conv",
        "nested too deeply",
    ]
    assert "text" in results[4].reason


def test_csv_rows(tmp_path):
    path = tmp_path / "a.csv"
    long = "y" * 150_000  # more than csv's own field limit
    path.write_bytes(b'prompt,completion\n"a, ""b""\nc",d\ne,f,g\nh,\ni,\xff\nj,' + long.encode() + b"\n")
    results = rows_of(str(path))
    assert results[0].messages[0].content == 'a, "b"\nc' and results[0].origin.endswith(":3")
    assert [row.reason for row in results[1:4]] == [
        "more fields than the header has",
        "messages[1].content is empty",
        "messages[1].content is not valid Unicode",
    ]
    assert results[4].messages[1].content == long
    assert rows_of(str(path), max_characters=1000)[4].reason == "longer than 1000 characters"


def test_parquet_reads_past_a_bad_string_and_across_batches(tmp_path):
    prompts = [f"p{row}".encode() for row in range(2500)]
    prompts[1100] = b"\xff\xfe"
    raw = pa.array(prompts, pa.binary())
    broken = pa.StringArray.from_buffers(len(prompts), raw.buffers()[1], raw.buffers()[2])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": broken, "completion": ["a"] * 2500, "vector": [[0.5]] * 2500}), path)
    results = rows_of(str(path))
    assert len(results) == 2500
    rejected = [row for row in results if isinstance(row, Rejected)]
    assert [(row.origin, row.reason) for row in rejected] == [(f"{path}:1101", "a field is not UTF-8")]
    assert results[2499].messages[0].content == "p2499"


def test_folder_in_sorted_order_and_limit(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "sub/c.csv", ".hidden/d.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, [{"id": name, **SHAPES["alpaca"]}])
    (tmp_path / "notes.txt").write_text("not data")
    assert [row.id for row in rows_of(str(tmp_path))] == ["a.jsonl", "b.jsonl", "sub/c.csv"]
    assert {row.source for row in rows_of(str(tmp_path))} == {tmp_path.name}
    assert [row.id for row in rows_of({"path": str(tmp_path), "limit": 2})] == ["a.jsonl", "b.jsonl"]


def test_pool_ids_are_unique_and_every_row_is_accounted_for(tmp_path):
    one = write(tmp_path / "one.jsonl", [{"id": "x", **SHAPES["alpaca"]}, SHAPES["alpaca"], SHAPES["alpaca"]])
    two = write(tmp_path / "two.jsonl", [{"id": "x", **SHAPES["sharegpt"]}, SHAPES["alpaca"]])
    specs = [SourceSpec(path=one, source="s"), SourceSpec(path=two, source="s")]
    examples, rejected = read_pool(specs, max_rejected=0.5)
    assert len(examples) + len(rejected) == 5
    made = examples[1].id
    assert [row.id for row in examples] == ["x", made, f"{made}-2", f"{made}-3"]
    assert [(row.origin, row.id, row.reason) for row in rejected] == [(f"{two}:1", "x", "duplicate id")]
    assert f"{one}:1" in rejected[0].excerpt


def test_too_many_rejected_names_reasons_and_the_first_place(tmp_path):
    bad = [{"prompt": "p", "completion": " "}, {"prompt": " ", "completion": "c"}, {"prompt": "q", "completion": ""}]
    path = write(tmp_path / "a.jsonl", [{"prompt": f"p{n}", "completion": "c"} for n in range(97)] + bad)
    with pytest.raises(TooManyRejectedError) as caught:
        read_pool([SourceSpec(path=path)])
    message = str(caught.value)
    assert message.startswith(f"{path}:98: messages[1].content is empty")
    assert "3 of 100 rows were rejected (3.0%; max_rejected is 1.0%)" in message
    assert "2 x messages[1].content is empty; 1 x messages[0].content is empty" in message
    assert len(caught.value.rejected) == 3
    assert len(read_pool([SourceSpec(path=path)], max_rejected=0.03)[0]) == 97


def test_targets_need_a_capability(tmp_path):
    rows = [{"id": "a", "capability": "math", **SHAPES["alpaca"]}, {"id": "b", **SHAPES["alpaca"]}]
    path = write(tmp_path / "t.jsonl", rows)
    examples, rejected = read_targets([SourceSpec(path=path)], max_rejected=0.5)
    assert [row.capability for row in examples] == ["math"]
    assert [(row.id, row.reason.split(":")[0]) for row in rejected] == [("b", "capability is missing")]
    assert [row.capability for row in read_targets([SourceSpec(path=path, capability="code")])[0]] == ["code", "code"]


def test_a_missing_file_names_the_nearest(tmp_path):
    write(tmp_path / "pool.jsonl", [SHAPES["alpaca"]])
    with pytest.raises(SourceError, match=r"pol\.jsonl: no such file or folder; did you mean .*pool\.jsonl\?.*`path`"):
        rows_of(str(tmp_path / "pol.jsonl"))


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.json").write_text("[{]")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "none").mkdir()
    for name, message in {
        "a.parquet": "not a readable Parquet file",
        "a.txt": "unknown file type '.txt'; convert it to one of .parquet",
        "a.json": "not valid JSON",
        "none": "no data file in this folder; give the one that holds .parquet, .jsonl, .json, .csv",
        "empty.jsonl": "no rows in",
    }.items():
        with pytest.raises(SourceError, match=message) as caught:
            read_pool([SourceSpec(path=str(tmp_path / name))])
        assert name in str(caught.value)
    with pytest.raises(SourceError, match="split is for hub datasets"):
        rows_of({"path": str(tmp_path / "a.json"), "split": "train"})


def test_an_unreachable_hub_dataset_is_one_clear_error(monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"nobody/no-such-set: no such local path.*hub dataset.*HF_HUB_OFFLINE"):
        rows_of("nobody/no-such-set")


def test_unknown_and_bad_settings_are_refused():
    for wrong in (
        {"path": "a.json", "licence": "MIT"},
        {"path": ""},
        {"path": "a", "limit": 0},
        {"path": "a", "shape": "x"},
    ):
        with pytest.raises(ValidationError):
            SourceSpec(**wrong)
    assert all(info.description for info in SourceSpec.model_fields.values())
