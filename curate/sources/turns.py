"""One turn of a conversation, however it was written, as `{role, content}` with text as content.

Tool calls become text of the assistant's turn, in the form that Hermes and Qwen models write themselves and that most
open tool data uses: `<tool_call>` around `{"name": ..., "arguments": {...}}`. So every chat template renders them, the
loss reaches them like the rest of the answer, and files keep two columns per turn. What a tool returned is a turn of
its own with the role `tool`. Lost: the ids that tie a result to its call (their order stays), and a model's own form
of writing calls, where that is another one.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from curate.records import DataError
from curate.sources.json_text import JsonError, parse_json

ROLE_NAMES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"),
}
CALL_ROLES = ("function_call", "tool_call")  # ShareGPT's assistant turns that are a call and nothing else
TOOLS_TEXT = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


class ShapeError(DataError):
    """The row does not have the fields of the shape asked for, or holds something that is no text."""


def to_turn(raw: Any, names: tuple[tuple[str, str], tuple[str, str]]) -> Any:
    """`{role, content}` of a turn; what is no object is passed on for `messages_problem` to name.

    names: the keys of the role and of the content, each in the order to look for them.
    """
    if not isinstance(raw, dict):
        return raw
    role, content = (_first_of(raw, keys) for keys in names)
    if isinstance(role, str) and role.lower() in CALL_ROLES:
        return {"role": "assistant", "content": _called(content)}
    role = ROLE_NAMES.get(role.lower(), role) if isinstance(role, str) else role
    content = _text(content)
    if role == "tool" and content is not None and not isinstance(content, str):
        content = _json(content)
    calls = [_call_text(call) for call in _calls(raw)] if role == "assistant" else []
    if calls:
        content = "\n".join([content, *calls] if isinstance(content, str) and content.strip() else calls)
    return {"role": role, "content": content}


def uses_tools(turns: list[Any]) -> bool:
    """Whether a tool is called or answers in these turns."""
    return any(isinstance(turn, dict) and (turn.get("role") == "tool" or _is_call(turn)) for turn in turns)


def _is_call(turn: dict[str, Any]) -> bool:
    content = turn.get("content")
    return turn.get("role") == "assistant" and isinstance(content, str) and "<tool_call>" in content


def with_tools(turns: list[Any], tools: Any) -> list[Any]:
    """The turns with the tools' definitions at the end of the system turn, which is put in front if there is none.

    Only where a tool is used: a conversation without is left as it is, and so is a system turn that names tools itself.
    """
    if not tools or not uses_tools(turns):
        return turns
    if isinstance(tools, str):
        tools = _parsed(tools, "tools") if tools.strip() else []
    if not isinstance(tools, list):
        raise ShapeError("tools is not a list")
    has_system = isinstance(turns[0], dict) and turns[0].get("role") == "system"
    system = turns[0]["content"] if has_system else ""
    if not tools or not isinstance(system, str) or "<tools>" in system:
        return turns
    lines = [_json(tool if "function" in tool else {"type": "function", "function": tool}) for tool in _objects(tools)]
    text = TOOLS_TEXT.format(tools="\n".join(lines))
    content = f"{system}\n\n{text}" if system.strip() else text
    return [{"role": "system", "content": content}, *turns[1 if has_system else 0 :]]


def _first_of(raw: dict[str, Any], keys: tuple[str, str]) -> Any:
    return next((raw[key] for key in keys if raw.get(key) is not None), None)


def _text(content: Any) -> Any:
    """Content written as a list of parts as their text; anything else as it is."""
    if not isinstance(content, list) or not all(isinstance(part, dict) and "type" in part for part in content):
        return content
    parts = []
    for part in content:
        if part["type"] != "text" or not isinstance(part.get("text"), str):
            raise ShapeError(f"a part of the content is of type {repr(part['type'])[:40]}; only text is read")
        parts.append(part["text"])
    return "".join(parts)


def _calls(raw: dict[str, Any]) -> list[dict[str, Any]]:
    calls = raw.get("tool_calls") or ([raw["function_call"]] if raw.get("function_call") else [])
    if isinstance(calls, str):
        calls = _parsed(calls, "tool_calls")
    if not isinstance(calls, list):
        raise ShapeError("tool_calls is not a list")
    return _objects(calls)


def _objects(values: list[Any]) -> list[dict[str, Any]]:
    found = [_parsed(value, "a tool") if isinstance(value, str) else value for value in values]
    if not all(isinstance(value, dict) for value in found):
        raise ShapeError("a tool or a tool call is not an object")
    return found


def _call_text(call: dict[str, Any]) -> str:
    function = call["function"] if isinstance(call.get("function"), dict) else call
    name, arguments = function.get("name"), function.get("arguments", function.get("parameters"))
    if not isinstance(name, str) or not name.strip():
        raise ShapeError("a tool call has no name")
    if isinstance(arguments, str) and arguments.strip():
        with suppress(JsonError):  # else kept as the text it is: the model wrote it so
            arguments = parse_json(arguments)
    return f"<tool_call>\n{_json({'name': name, 'arguments': {} if arguments is None else arguments})}\n</tool_call>"


def _called(content: Any) -> Any:
    """The content of a turn that is a call: already marked, JSON (one call or a list), or any text."""
    value = content
    if isinstance(content, str):
        if not content.strip() or "<tool_call>" in content:
            return content
        try:
            value = parse_json(content)
        except JsonError:
            return f"<tool_call>\n{content.strip()}\n</tool_call>"
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, dict) for call in calls):
        return content
    return "\n".join(_call_text(call) for call in calls)


def _json(value: Any) -> str:
    """JSON text; keys without a value are left out, since columnar files give every object the keys of all."""
    try:
        return json.dumps(_without_nulls(value), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ShapeError("a tool's definition, call or result holds a value that JSON has not") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _parsed(text: str, what: str) -> Any:
    try:
        return parse_json(text)
    except JsonError as error:
        raise ShapeError(f"{what}: {error}") from error
