"""An export made by the real stages, opened by those it is for, offline: `datasets`, TRL, mlcroissant and, by the
schemas they document, LLaMA-Factory and Axolotl.

These two cannot be dependencies (they pin torch and each other's neighbours). What is checked follows their documents:
LLaMA-Factory's data/README.md (`dataset_info.json`, sharegpt) and Axolotl's docs/dataset-formats/conversation.qmd and
config reference (`datasets`, type chat_template). By hand, LLaMA-Factory 0.9.5's own parser and converter and Axolotl
0.19.0's `SFTDataset` took this same export, with the same row skipped as is counted here.
"""

from __future__ import annotations

import json
from typing import Literal

import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel, ConfigDict

from curate.export.rows import SHARDS
from tests.flows.exported import ROWS, load, run, write_sources
from tests.tiny import make_base, make_tokenizer

SELECTED = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("elsewhere")
    write_sources(made)
    return run(load(made)).folder


@pytest.fixture(scope="module")
def rows(folder):
    return [row for path in sorted(folder.glob(SHARDS)) for row in pq.read_table(path).to_pylist()]


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.fixture(scope="module")
def loaded(folder, tmp_path_factory):
    import datasets

    return datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path_factory.mktemp("cache")))


def test_datasets_opens_it_whole_and_streamed(folder, rows, loaded, tmp_path):
    import datasets

    assert loaded.to_list() == rows and len(rows) == SELECTED
    streamed = datasets.load_dataset(str(folder), split="train", streaming=True)
    assert list(streamed) == rows and streamed.features == loaded.features
    lineage = datasets.load_dataset(str(folder), "lineage", split="train", cache_dir=str(tmp_path))
    assert lineage["id"][:] == [row["id"] for row in rows]
    card = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("\n---\n")[0].removeprefix("---\n"))
    info = loaded.info.splits["train"]
    assert info.num_examples == card["dataset_info"]["splits"][0]["num_examples"] == SELECTED
    chat = datasets.load_dataset("json", data_files=str(folder / "chat.jsonl"), split="train", cache_dir=str(tmp_path))
    assert chat["messages"][:] == [row["messages"] for row in rows]


def test_trl_trains_on_the_answers_of_it(loaded, tmp_path):
    """The card's own call, with a tiny model; the labels that TRL makes are exactly the assistant's turns."""
    import torch
    from trl import SFTConfig, SFTTrainer

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    model = make_base(vocabulary=len(tokenizer))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path),
            assistant_only_loss=True,
            max_steps=1,
            per_device_train_batch_size=4,
            max_length=None,
            learning_rate=0.1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            dataloader_pin_memory=False,
        ),
        train_dataset=loaded.select_columns(["messages"]),
        processing_class=tokenizer,
    )
    assert len(trainer.train_dataset) == SELECTED
    by_id = dict(zip(loaded["id"], trainer.train_dataset, strict=True))
    answers = {}
    for name in ("tools", "systems", "greeting", "signs"):
        (batch,) = [trainer.data_collator([by_id[name]])]
        kept = batch["input_ids"][batch["labels"] != -100]
        answers[name] = tokenizer.decode(kept, skip_special_tokens=False)
        turns = [text for role, text in ROWS[name] if role == "assistant"]
        assert answers[name] == "".join(f"{text}<|end|>" for text in turns)
    result = trainer.train()
    assert result.global_step == 1 and 0 < result.training_loss < 100
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


class LlamaFactoryTags(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role_tag: str
    content_tag: str
    user_tag: str
    assistant_tag: str
    observation_tag: str
    function_tag: str
    system_tag: str


class LlamaFactoryEntry(BaseModel):
    """What data/README.md documents of a local sharegpt dataset without tools, images or rankings."""

    model_config = ConfigDict(extra="forbid")

    file_name: str
    formatting: Literal["sharegpt"]
    columns: dict[Literal["messages"], str]
    tags: LlamaFactoryTags


def alternates(turns, tags: LlamaFactoryTags) -> bool:
    """The documented condition: after a system turn, user and observation stand at odd places, the others at even."""
    if turns and turns[0][tags.role_tag] == tags.system_tag:
        turns = turns[1:]
    sides = ((tags.user_tag, tags.observation_tag), (tags.assistant_tag, tags.function_tag))
    return len(turns) % 2 == 0 and all(turn[tags.role_tag] in sides[k % 2] for k, turn in enumerate(turns))


def test_llama_factory_finds_its_file_and_skips_what_is_counted(folder, rows):
    described = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    assert list(described) == ["demo-bm25"] and "dataset: demo-bm25" in (folder / "README.md").read_text("utf-8")
    entry = LlamaFactoryEntry.model_validate(described["demo-bm25"])
    conversations = [line[entry.columns["messages"]] for line in read_lines(folder / entry.file_name)]
    assert len(conversations) == SELECTED
    skipped = [row["id"] for row, turns in zip(rows, conversations, strict=True) if not alternates(turns, entry.tags)]
    told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["llama_factory"]
    joined = [row["id"] for row, turns in zip(rows, conversations, strict=True) if turns != row["messages"]]
    assert skipped == ["greeting"] and sorted(joined) == ["systems", "tools"]
    assert told == {"file": entry.file_name, "rows_joined": 2, "rows_skipped": 1}
    original = [row["id"] for row in rows if not alternates(row["messages"], entry.tags)]
    assert sorted(original) == ["greeting", "systems", "tools"]  # what would be lost without the file of its own


class AxolotlDataset(BaseModel):
    """The documented keys of an entry with type chat_template that are used here; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")

    path: str
    ds_type: Literal["json", "parquet", "arrow", "csv", "text"]
    type: Literal["chat_template"]
    field_messages: str
    message_property_mappings: dict[str, str]
    roles: dict[str, list[str]]
    roles_to_train: list[str]
    train_on_eos: Literal["all", "turn", "last"]


def test_axolotl_finds_its_fields(folder, rows):
    text = (folder / "axolotl.yaml").read_text(encoding="utf-8")
    (entry,) = yaml.safe_load(text)["datasets"]
    dataset = AxolotlDataset.model_validate(entry)
    lines = read_lines(folder / dataset.path)
    roles = {given: role for role, all_given in dataset.roles.items() for given in all_given}
    mapped = [
        [
            {
                "role": roles[turn[dataset.message_property_mappings["role"]]],
                "content": turn[dataset.message_property_mappings["content"]],
            }
            for turn in line[dataset.field_messages]
        ]
        for line in lines
    ]
    assert mapped == [row["messages"] for row in rows] and dataset.roles_to_train == ["assistant"]
    assert text.rstrip() in (folder / "README.md").read_text(encoding="utf-8")


def test_croissant_is_valid_and_its_records_are_the_rows(folder, rows):
    import mlcroissant

    described = mlcroissant.Dataset(str(folder / "croissant.json"))
    issues = described.metadata.ctx.issues
    assert not issues.errors
    assert [warning.partition("]")[2] for warning in issues.warnings] == [
        ' Property "https://schema.org/datePublished" is recommended, but does not exist.'
    ]
    records = list(described.records("rows"))
    assert len(records) == SELECTED
    for record, row in zip(records, rows, strict=True):
        plain = {name.removeprefix("rows/"): value for name, value in record.items()}
        turns = [
            {key.rpartition("/")[2]: text.decode() for key, text in turn.items()} for turn in plain.pop("messages")
        ]
        assert turns == row["messages"]
        assert {name: value.decode() if isinstance(value, bytes) else value for name, value in plain.items()} == {
            name: row[name] for name in plain
        }
    sums = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    files = {file.uuid: file.sha256 for file in described.metadata.distribution if hasattr(file, "sha256")}
    assert files == {name: sums[name]["sha256"] for name in files} and len(files) == 4
