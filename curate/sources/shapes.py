"""The row shapes in which instruction data is published, each brought to a list of `{role, content}`.

The shape is recognised per row by the fields that are present and not null, because merged files mix shapes and leave
the other shape's columns null. Contents are passed on untouched: judging them is `curate.records.messages_problem`'s
work.
"""

from __future__ import annotations

import json
from typing import Any

from curate.records import DataError

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
PROMPT_FIELDS = ("prompt", "question")
COMPLETION_FIELDS = ("completion", "response", "answer")
SHAPES = ("messages", "alpaca", "prompt_completion", "sharegpt")
SHAPE_FIELDS = frozenset(
    ("messages", "instruction", "input", "output", "conversations", "system", *PROMPT_FIELDS, *COMPLETION_FIELDS)
)


class ShapeError(DataError):
    """The row does not have the fields of the shape asked for."""


def to_messages(row: dict[str, Any], shape: str = "auto") -> list[Any]:
    """The conversation in `row` as a list of `{role, content}`, still unjudged; `ShapeError` if it holds none.

    messages: `messages` [{role, content}], or that list as JSON text. alpaca: `instruction`, optional `input`,
    `output`. prompt_completion: `prompt` or `question`, then `completion`, `response` or `answer`. sharegpt:
    `conversations` [{from, value}]. A `system` field is put in front in the last three.
    """
    if shape == "auto":
        shape = detect_shape(row)
    if shape == "messages":
        return _as_list(row, "messages")
    if shape == "sharegpt":
        turns = [_sharegpt_turn(turn) for turn in _as_list(row, "conversations")]
    elif shape == "alpaca":
        turns = _alpaca(row)
    else:
        prompt, completion = _first(row, PROMPT_FIELDS), _first(row, COMPLETION_FIELDS)
        if prompt is None or completion is None:
            raise ShapeError(f"needs {' or '.join(PROMPT_FIELDS)}, and {' or '.join(COMPLETION_FIELDS)}")
        if isinstance(prompt, list) and isinstance(completion, list):
            turns = [*prompt, *completion]
        else:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return _with_system(row, turns)


def detect_shape(row: dict[str, Any]) -> str:
    """One of `SHAPES`; `ShapeError` naming the row's fields if none fits."""
    if row.get("messages") is not None:
        return "messages"
    if row.get("conversations") is not None:
        return "sharegpt"
    if row.get("instruction") is not None and row.get("output") is not None:
        return "alpaca"
    if _first(row, PROMPT_FIELDS) is not None and _first(row, COMPLETION_FIELDS) is not None:
        return "prompt_completion"
    fields = ", ".join(sorted(str(name) for name, value in row.items() if value is not None)) or "none"
    raise ShapeError(
        "no conversation: expected messages, conversations, instruction + output, prompt + completion or "
        f"question + answer; fields with a value: {fields[:200]}"
    )


def _alpaca(row: dict[str, Any]) -> list[Any]:
    instruction, extra, output = row.get("instruction"), row.get("input"), row.get("output")
    if instruction is None or output is None:
        raise ShapeError("needs instruction and output")
    if extra is not None and not isinstance(extra, str):
        raise ShapeError("input is not a string")
    has_input = isinstance(instruction, str) and isinstance(extra, str) and extra.strip()
    content = f"{instruction}\n\n{extra}" if has_input else instruction
    return [{"role": "user", "content": content}, {"role": "assistant", "content": output}]


def _sharegpt_turn(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    role = turn.get("from", turn.get("role"))
    known = SHAREGPT_ROLES.get(role.lower(), role) if isinstance(role, str) else role
    return {"role": known, "content": turn.get("value", turn.get("content"))}


def _with_system(row: dict[str, Any], turns: list[Any]) -> list[Any]:
    system = row.get("system")
    has_own = bool(turns) and isinstance(turns[0], dict) and turns[0].get("role") == "system"
    if has_own or system is None or (isinstance(system, str) and not system.strip()):
        return turns
    return [{"role": "system", "content": system}, *turns]


def _as_list(row: dict[str, Any], field: str) -> list[Any]:
    value = row.get(field)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ShapeError(f"{field} is text but not a JSON list") from error
    if not isinstance(value, list):
        raise ShapeError(f"{field} is {'missing' if value is None else 'not a list'}")
    return value


def _first(row: dict[str, Any], fields: tuple[str, ...]) -> Any:
    return next((row[field] for field in fields if row.get(field) is not None), None)
