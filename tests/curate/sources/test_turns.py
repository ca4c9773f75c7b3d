"""Tool turns keep what was called and what came back, in whatever shape they were written, and only answers train."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.records import Example, content_hash, messages_as_dicts
from curate.sources import SourceSpec, read_source, to_messages
from curate.sources.turns import ShapeError
from tests.tiny import make_tokenizer
from train.encoding import IGNORED, encode_chat

ARGUMENTS = {"city": "Köln"}
WEATHER = {"name": "weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": WEATHER}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
PLAIN = [
    {"role": "user", "content": "Weather in Köln?"},
    {"role": "assistant", "content": CALL},
    {"role": "tool", "content": "14 degrees"},
    {"role": "assistant", "content": "It is 14 degrees."},
]
OPENAI_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS, ensure_ascii=False)},
}
OPENAI = [
    PLAIN[0],
    {"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "14 degrees"},
    PLAIN[3],
]
WAYS = {
    "openai": {"messages": OPENAI},
    "openai, arguments as an object": {
        "messages": [
            PLAIN[0],
            {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": ARGUMENTS}}]},
            *OPENAI[2:],
        ]
    },
    "openai, functions": {
        "messages": [
            PLAIN[0],
            {"role": "assistant", "content": "", "function_call": OPENAI_CALL["function"]},
            {"role": "function", "name": "weather", "content": "14 degrees"},
            PLAIN[3],
        ]
    },
    "openai, parts": {
        "messages": [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in PLAIN],
    },
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Weather in Köln?"},
            {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": ARGUMENTS})},
            {"from": "observation", "value": "14 degrees"},
            {"from": "gpt", "value": "It is 14 degrees."},
        ]
    },
    "sharegpt, hermes": {
        "conversations": [
            {"from": "human", "value": "Weather in Köln?"},
            {"from": "gpt", "value": CALL},
            {"from": "tool", "value": "14 degrees"},
            {"from": "gpt", "value": "It is 14 degrees."},
        ]
    },
}
# The tool parts of Qwen 2.5's published template: what a tool returned is shown as the user's.
QWEN = """\
{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0]['role'] == 'system' %}{{- messages[0]['content'] }}\
{%- endif %}{{- "\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are \
provided with function signatures within <tools></tools> XML tags:\\n<tools>" }}{%- for tool in tools %}{{- "\\n" }}\
{{- tool | tojson }}{%- endfor %}{{- "\\n</tools>\\n\\nFor each function call, return a json object with function name \
and arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": \
<args-json-object>}\\n</tool_call><|im_end|>\\n" }}{%- elif messages[0]['role'] == 'system' %}\
{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}{%- endif %}{%- for message in messages %}\
{%- if (message.role == "user") or (message.role == "assistant" and not message.tool_calls) %}\
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\
{%- elif message.role == "assistant" %}{{- '<|im_start|>' + message.role }}{%- if message.content %}\
{{- '\\n' + message.content }}{%- endif %}{%- for tool_call in message.tool_calls %}\
{%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}\
{{- '\\n<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- tool_call.arguments | tojson }}\
{{- '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- elif message.role == "tool" %}\
{%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}\
{{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}\
{%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endif %}\
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize("way", sorted(WAYS))
def test_every_way_of_writing_a_call_is_the_same_conversation(tmp_path, way):
    assert to_messages(WAYS[way]) == PLAIN
    (tmp_path / "a.jsonl").write_text(json.dumps(WAYS[way]) + "\n")
    pq.write_table(pa.Table.from_pylist([WAYS[way]]), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        (row,) = read_source(SourceSpec(path=str(tmp_path / name)))
        assert isinstance(row, Example) and messages_as_dicts(row.messages) == PLAIN


def test_calls_follow_what_was_said_and_each_other():
    two = [OPENAI_CALL, {"function": {"name": "time"}}]
    turns = to_messages({"messages": [PLAIN[0], {"role": "assistant", "content": "I look.", "tool_calls": two}]})
    assert turns[1]["content"] == f'I look.\n{CALL}\n<tool_call>\n{{"name": "time", "arguments": {{}}}}\n</tool_call>'


def test_definitions_join_the_system_turn_where_a_tool_is_used():
    rows = {"messages": OPENAI, "tools": [TOOL]}
    first = to_messages(rows)[0]
    assert first["role"] == "system" and json.dumps(TOOL) in first["content"]
    assert to_messages({"messages": OPENAI, "tools": json.dumps([WEATHER])})[0] == first
    assert to_messages({"messages": OPENAI, "functions": [WEATHER]})[0] == first
    spoken = {"role": "system", "content": "Be brief."}
    assert to_messages({"messages": [spoken, *OPENAI], "tools": [TOOL]})[0]["content"] == (
        f"Be brief.\n\n{first['content']}"
    )
    own = {"role": "system", "content": "Use <tools>[]</tools>."}
    assert to_messages({"messages": [own, *OPENAI], "tools": [TOOL]})[0] == own


def test_a_row_without_tool_turns_keeps_its_id(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": talk, "tools": [TOOL], "tool_calls": None}) + "\n")
    (row,) = read_source(SourceSpec(path=str(tmp_path / "a.jsonl")))
    assert messages_as_dicts(row.messages) == talk
    assert row.id == f"a-{content_hash(row.messages)}" == "a-de615ee0a74cae9c"


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, "a tool call has no name"),
        ({"role": "assistant", "tool_calls": [3]}, "a tool or a tool call is not an object"),
        ({"role": "assistant", "tool_calls": "{"}, "tool_calls: not valid JSON"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "a part of the content is of type 'image_url'; only text is read",
        ),
    ],
)
def test_what_cannot_be_kept_is_named(turn, reason):
    with pytest.raises(ShapeError) as caught:
        to_messages({"messages": [PLAIN[0], turn]})
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "entries",
    [
        ["q", "a", "r", "b"],
        [["q", "a"], ["r", "b"]],
        [{"input": "q", "output": "a"}, {"human": "r", "assistant": "b"}],
        [{"role": "user", "content": "q"}, {"from": "gpt", "value": "a"}, {"question": "r", "answer": "b"}],
    ],
)
def test_multi_turn_lists(entries):
    expected = [("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b")]
    for field in ("conversation", "dialogue", "turns", "data"):
        for row in ({field: entries}, {field: entries, "system": " "}):
            assert [(turn["role"], turn["content"]) for turn in to_messages(row)] == expected
    assert to_messages({"dialog": entries, "system": "s"})[0] == {"role": "system", "content": "s"}
    assert to_messages({"dialog": json.dumps(entries)}, "multi_turn") == to_messages({"dialog": entries})
    with pytest.raises(ShapeError, match=r"turns\[1\] is neither a turn nor a pair"):
        to_messages({"turns": [["q", "a"], 3]})


def test_the_text_is_what_a_tool_template_writes():
    tokenizer = make_tokenizer(QWEN, CHATML_TOKENS, "<|im_end|>")
    system = {"role": "system", "content": "Be brief."}
    structured = [
        system,
        PLAIN[0],
        {"role": "assistant", "content": "I look.", "tool_calls": [{"function": {**WEATHER, "arguments": ARGUMENTS}}]},
        *PLAIN[2:],
    ]
    ours = to_messages({"messages": structured, "tools": [TOOL]})
    assert tokenizer.apply_chat_template(ours, tokenize=False) == tokenizer.apply_chat_template(
        structured, tools=[TOOL], tokenize=False
    )


@pytest.mark.parametrize("template", [QWEN, "demo", None], ids=["qwen", "demo", "none"])
def test_only_the_assistant_is_trained_on(template):
    if template == QWEN:
        tokenizer, end = make_tokenizer(QWEN, CHATML_TOKENS, "<|im_end|>"), "<|im_end|>"
    else:
        tokenizer, end = (make_tokenizer() if template else make_tokenizer(None)), "<|end|>"
    turns = [*PLAIN[:3], {"role": "tool", "content": "and wind"}, PLAIN[3]]
    encoded = encode_chat(turns, tokenizer, 2048)
    pieces, run = [], []
    for token, label in [*zip(encoded.input_ids, encoded.labels, strict=True), (0, IGNORED)]:
        if label != IGNORED:
            run.append(token)
        elif run:
            pieces.append(tokenizer.decode(run, skip_special_tokens=False))
            run = []
    assert pieces == [CALL + end, "It is 14 degrees." + end]
