"""The row shapes in which instruction data is published, each brought to a list of `{role, content}`.

The shape is recognised per row by the fields that are present and not null, because merged files mix shapes and leave
the other shape's columns null. Contents are passed on as they are (tool calls as text, see `curate.sources.turns`):
judging them is `curate.records.messages_problem`'s work.
"""

from __future__ import annotations

from typing import Any

from curate.sources.json_text import JsonError, parse_json
from curate.sources.turns import ShapeError, to_turn, with_tools

PROMPT_FIELDS = ("prompt", "question")
COMPLETION_FIELDS = ("completion", "response", "answer")
MULTI_TURN_FIELDS = ("conversation", "dialogue", "dialog", "turns", "data")
TOOLS_FIELDS = ("tools", "functions")
# what the two halves of an exchange are called inside a multi-turn list
ASKED = (*PROMPT_FIELDS, "instruction", "input", "human", "user")
ANSWERED = (*COMPLETION_FIELDS, "output", "assistant", "bot")
SHAPES = ("messages", "alpaca", "prompt_completion", "sharegpt", "multi_turn")
SHAPE_FIELDS = frozenset(
    (
        *("messages", "instruction", "input", "output", "conversations", "system"),
        *PROMPT_FIELDS,
        *COMPLETION_FIELDS,
        *MULTI_TURN_FIELDS,
        *TOOLS_FIELDS,
    )
)
OPENAI = (("role", "from"), ("content", "value"))
SHAREGPT = (("from", "role"), ("value", "content"))


def to_messages(row: dict[str, Any], shape: str = "auto") -> list[Any]:
    """The conversation in `row` as a list of `{role, content}`, still unjudged; `ShapeError` if it holds none.

    messages: `messages` [{role, content}] with `tool_calls` and tool turns, or that list as JSON text. alpaca:
    `instruction`, optional `input`, `output`. prompt_completion: `prompt` or `question`, then `completion`, `response`
    or `answer`. sharegpt: `conversations` [{from, value}]. multi_turn: `conversation`, `dialogue`, `dialog`, `turns`
    or `data`, a list of texts that alternate (the user's first), of pairs, of {asked, answered} or of turns. A
    `system` field is put in front in all but the first; the definitions in `tools` or `functions` join the system turn
    where a tool is used.
    """
    if shape == "auto":
        shape = detect_shape(row)
    if shape == "messages":
        turns = [to_turn(turn, OPENAI) for turn in _as_list(row, "messages")]
    elif shape == "sharegpt":
        turns = _with_system(row, [to_turn(turn, SHAREGPT) for turn in _as_list(row, "conversations")])
    elif shape == "alpaca":
        turns = _with_system(row, _alpaca(row))
    elif shape == "multi_turn":
        turns = _with_system(row, _multi_turn(row))
    else:
        turns = _with_system(row, _prompt_completion(row))
    return with_tools(turns, _first(row, TOOLS_FIELDS))


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
    if any(isinstance(row.get(field), list) for field in MULTI_TURN_FIELDS):
        return "multi_turn"
    fields = ", ".join(sorted(str(name) for name, value in row.items() if value is not None)) or "none"
    raise ShapeError(
        "no conversation: expected messages, conversations, instruction + output, prompt + completion, "
        f"question + answer or conversation; fields with a value: {fields[:200]}"
    )


def _prompt_completion(row: dict[str, Any]) -> list[Any]:
    prompt, completion = _first(row, PROMPT_FIELDS), _first(row, COMPLETION_FIELDS)
    if prompt is None or completion is None:
        raise ShapeError(f"needs {' or '.join(PROMPT_FIELDS)}, and {' or '.join(COMPLETION_FIELDS)}")
    if isinstance(prompt, list) and isinstance(completion, list):
        return [to_turn(turn, OPENAI) for turn in (*prompt, *completion)]
    return _exchange(prompt, completion)


def _alpaca(row: dict[str, Any]) -> list[Any]:
    instruction, extra, output = row.get("instruction"), row.get("input"), row.get("output")
    if instruction is None or output is None:
        raise ShapeError("needs instruction and output")
    if extra is not None and not isinstance(extra, str):
        raise ShapeError("input is not a string")
    has_input = isinstance(instruction, str) and isinstance(extra, str) and extra.strip()
    return _exchange(f"{instruction}\n\n{extra}" if has_input else instruction, output)


def _multi_turn(row: dict[str, Any]) -> list[Any]:
    field = next((name for name in MULTI_TURN_FIELDS if row.get(name) is not None), None)
    if field is None:
        raise ShapeError(f"needs {' or '.join(MULTI_TURN_FIELDS)}")
    entries = _as_list(row, field)
    if all(isinstance(entry, str) for entry in entries):
        roles = ("user", "assistant")
        return [{"role": roles[position % 2], "content": entry} for position, entry in enumerate(entries)]
    turns: list[Any] = []
    for position, entry in enumerate(entries):
        if isinstance(entry, dict) and (entry.get("role") is not None or entry.get("from") is not None):
            turns.append(to_turn(entry, OPENAI))
        elif isinstance(entry, dict):
            turns += _exchange(_first(entry, ASKED), _first(entry, ANSWERED))
        elif isinstance(entry, list) and len(entry) == 2:
            turns += _exchange(*entry)
        else:
            raise ShapeError(f"{field}[{position}] is neither a turn nor a pair of question and answer")
    return turns


def _exchange(asked: Any, answered: Any) -> list[Any]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


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
            value = parse_json(value)
        except JsonError as error:
            what = "text but not a JSON list" if str(error) == "not valid JSON" else f"text, but {error}"
            raise ShapeError(f"{field} is {what}") from error
    if not isinstance(value, list):
        raise ShapeError(f"{field} is {'missing' if value is None else 'not a list'}")
    return value


def _first(row: dict[str, Any], fields: tuple[str, ...]) -> Any:
    return next((row[field] for field in fields if row.get(field) is not None), None)
