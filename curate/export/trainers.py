"""The conversations for trainers that read no Parquet: chat JSONL, and what LLaMA-Factory and Axolotl want described.

All three read `{"messages": [{"role", "content"}]}`; TRL and Axolotl leave the order of turns to the chat template.
LLaMA-Factory's sharegpt reader wants user and assistant to alternate after an optional system turn and skips other
rows with a warning (`SharegptDatasetConverter`), so rows that do not alternate are given to it in a file of their own,
with neighbours of one side joined: results of tools as it joins them itself, other turns by an empty line. A
conversation that begins with the assistant cannot be mended that way; it is left as it is and counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from curate.records import Example, Message, messages_as_dicts

CHAT = "chat.jsonl"
ALTERNATING = "chat-alternating.jsonl"
LLAMA_FACTORY, AXOLOTL = "dataset_info.json", "axolotl.yaml"
BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"
ASKING = ("user", "tool", "system")  # a system turn inside a conversation speaks to the assistant


@dataclass(frozen=True)
class TrainerFiles:
    """joined: rows whose turns were joined for LLaMA-Factory; skipped: rows it skips all the same."""

    llama_factory_file: str
    joined: int
    skipped: int


def write_trainer_files(folder: Path, examples: Sequence[Example], name: str) -> TrainerFiles:
    """Write the chat file, the descriptions and, if a row needs it, the alternating chat file. name: what
    `dataset_info.json` calls the dataset."""
    _write_chat(folder / CHAT, [example.messages for example in examples])
    turns = [alternating(example.messages) for example in examples]
    joined = sum(new != example.messages for new, example in zip(turns, examples, strict=True))
    if joined:
        _write_chat(folder / ALTERNATING, turns)
    file = ALTERNATING if joined else CHAT
    skipped = sum(_opens_with_answer(messages) for messages in turns)
    _write_json(folder / LLAMA_FACTORY, {name: llama_factory_entry(file)})
    (folder / AXOLOTL).write_text(axolotl_text(CHAT), encoding="utf-8", newline="\n")
    return TrainerFiles(file, joined, skipped)


def alternating(messages: Sequence[Message]) -> tuple[Message, ...]:
    """At most one system turn in front, then turns of the two sides in turn."""
    head = 0
    while messages[head].role == "system":
        head += 1
    system = (Message("system", "\n\n".join(turn.content for turn in messages[:head])),) if head else ()
    sides = groupby(messages[head:], key=lambda turn: turn.role in ASKING)
    return (*system, *(_join(list(turns), asking) for asking, turns in sides))


def llama_factory_entry(file: str) -> dict[str, Any]:
    """The dataset's entry in LLaMA-Factory's `dataset_info.json`."""
    return {
        "file_name": file,
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "observation_tag": "tool",
            "function_tag": "function_call",  # no row has it: calls are text of the assistant's turn
            "system_tag": "system",
        },
    }


def axolotl_entry(file: str) -> dict[str, Any]:
    """The dataset's entry under `datasets:` of an Axolotl configuration."""
    return {
        "path": file,
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles": {role: [role] for role in ("user", "assistant", "system", "tool")},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }


def axolotl_text(file: str) -> str:
    """The entry as YAML to paste, with what to change."""
    text = yaml.safe_dump({"datasets": [axolotl_entry(file)]}, sort_keys=False)
    return f"# For an Axolotl configuration; `path` is relative to where `axolotl train` is started.\n{text}"


def _join(turns: list[Message], asking: bool) -> Message:
    if len(turns) == 1 and turns[0].role != "system":
        return turns[0]
    only_tools = all(turn.role == "tool" for turn in turns)
    text = (BETWEEN_RESULTS if only_tools else "\n\n").join(turn.content for turn in turns)
    return Message("tool" if only_tools else "user" if asking else "assistant", text)


def _opens_with_answer(messages: Sequence[Message]) -> bool:
    return next(turn.role for turn in messages if turn.role != "system") == "assistant"


def _write_chat(path: Path, conversations: Sequence[Sequence[Message]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        for messages in conversations:
            lines.write(json.dumps({"messages": messages_as_dicts(messages)}, ensure_ascii=False) + "\n")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
