"""Turn a chat into token ids and the mask of what the model is trained on.

Only the assistant's turns carry labels; role tags, other turns and the newline after an end-of-sequence get -100.
Spans come from the rendered text and the tokenizer's character offsets, never from tokenising a prefix again: a
tokenizer that merges across the boundary would shift a prefix-based mask. Two ways to find the spans, chosen by the
template itself:

* a template with `{% generation %}` blocks marks them (transformers returns the mask);
* any other template is rendered turn by turn as *text*; the text of the first k turns must be a prefix of the whole,
  and the answer must follow unchanged, else it is an error.

A tokenizer without a chat template gets the plain form: prompt, one space unless there is white space at the joint,
answer, end-of-sequence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

IGNORED = -100
ENCODED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("truncated", pa.bool_()),
    ]
)
_GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class EncodingError(ValueError):
    """A chat or a template that cannot be turned into tokens and labels."""


@dataclass(frozen=True)
class Encoded:
    """One example as the model sees it. `labels[i]` is `input_ids[i]` where the model is trained, -100 elsewhere (not
    shifted)."""

    id: str
    source: str
    input_ids: list[int]
    labels: list[int]
    truncated: bool = False

    @property
    def trained_tokens(self) -> int:
        """Tokens that enter the loss: labels after the shift, so never the first one."""
        return sum(label != IGNORED for label in self.labels[1:])


def _text(tokenizer: Any, messages: Sequence[dict], **kwargs: Any) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, **kwargs)


def _spans_of_turns(tokenizer: Any, messages: Sequence[dict]) -> tuple[str, list[tuple[int, int]]]:
    """Rendered text and the (start, end) characters of the assistant's turns, for a template without generation
    blocks."""
    text = _text(tokenizer, messages)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        bare = _text(tokenizer, messages[:i]) if i else ""
        prompted = _text(tokenizer, messages[:i], add_generation_prompt=True) if i else ""
        tagged = prompted != bare and text.startswith(prompted)
        before = prompted if tagged else bare
        # templates may trim the content
        found = ((text.find(part, len(before)), part) for part in (message["content"], message["content"].strip()))
        content, answer = next(((at, part) for at, part in found if at >= 0), (-1, ""))
        if content < 0 or not text.startswith(before):
            raise EncodingError(
                "the chat template rewrites earlier turns when a later one is added, or changes the answer's text, so "
                "the answer's place in the text cannot be found; put {% generation %} ... {% endgeneration %} around "
                "the assistant's content in it"
            )
        # what follows the generation prompt is the model's own; without such a prompt a role tag may come first
        start = len(before) if tagged or not text[len(before) : content].strip() else content
        spans.append((start, _end_of_turn(tokenizer, text, content + len(answer))))
    return text, spans


def _end_of_turn(tokenizer: Any, text: str, end: int) -> int:
    """`end` of the answer, moved past the end-of-sequence token, or the end-of-turn token right behind the answer."""
    eos = tokenizer.eos_token
    at = len(text) - len(text[end:].lstrip())
    if eos and text.startswith(eos, at):
        return at + len(eos)
    special = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return end + max((len(token) for token in special if text.startswith(token, end)), default=0)


def _plain(tokenizer: Any, messages: Sequence[dict]) -> tuple[str, list[tuple[int, int]]]:
    """Turns joined by one space unless there is white space at the joint; end-of-sequence after each answer."""
    eos = tokenizer.eos_token
    if not eos:
        raise EncodingError("the tokenizer has neither a chat template nor an end-of-sequence token; set one of them")
    text, spans = "", []
    for message in messages:
        content = message["content"]
        if text and not text[-1].isspace() and not content[:1].isspace():
            text += " "
        start = len(text)
        text += content
        if message["role"] == "assistant":
            text += eos
            spans.append((start, len(text)))
    return text, spans


def _label_by_spans(
    offsets: Sequence[tuple[int, int]], ids: Sequence[int], spans: Sequence[tuple[int, int]]
) -> list[int]:
    """A token is trained on when its last character lies inside a span (so a merged leading space stays with the
    answer). Only its end counts: some tokenizers give a token of spaces the empty range at its end."""
    labels, k = [], 0
    for token, (_, end) in zip(ids, offsets, strict=True):
        while k < len(spans) and end > spans[k][1]:
            k += 1
        inside = k < len(spans) and spans[k][0] < end <= spans[k][1]
        labels.append(token if inside else IGNORED)
    return labels


def encode_chat(
    messages: Sequence[dict],
    tokenizer: Any,
    max_length: int,
    *,
    example_id: str = "",
    source: str = "",
) -> Encoded:
    """Encode one chat (`[{role, content}, ...]`), truncated on the right to `max_length` tokens.

    Raises `EncodingError` when the template refuses the turns or the answer's place in the text is not known.
    """
    template = getattr(tokenizer, "chat_template", None)
    try:
        if template and _GENERATION_BLOCK.search(template):
            out = tokenizer.apply_chat_template(
                list(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            ids = list(out["input_ids"])
            labels = [token if keep else IGNORED for token, keep in zip(ids, out["assistant_masks"], strict=True)]
        else:
            text, spans = _spans_of_turns(tokenizer, messages) if template else _plain(tokenizer, messages)
            out = tokenizer(text, add_special_tokens=not template, return_offsets_mapping=True)
            ids = list(out["input_ids"])
            labels = _label_by_spans(out["offset_mapping"], ids, spans)
    except EncodingError:
        raise
    except Exception as error:  # jinja's own errors, and a template's raise_exception()
        raise EncodingError(f"the chat template refused {example_id or 'a chat'}: {error}") from error
    return Encoded(example_id, source, ids[:max_length], labels[:max_length], truncated=len(ids) > max_length)


def encode_all(rows: Iterable[dict], tokenizer: Any, max_length: int) -> tuple[list[Encoded], list[tuple[str, str]]]:
    """Encode rows with `id`, `source` and `messages`; returns the usable ones and (id, reason) of the excluded ones.

    A row whose labels are all masked has an undefined loss (0/0), so it is excluded here, before any gradient.
    """
    encoded, excluded = [], []
    for row in rows:
        try:
            one = encode_chat(row["messages"], tokenizer, max_length, example_id=row["id"], source=row["source"])
        except EncodingError as error:
            excluded.append((row["id"], str(error)))
            continue
        if one.trained_tokens == 0:
            reason = "truncation removed the whole answer" if one.truncated else "the answer has no token"
            excluded.append((row["id"], f"{reason} (max_length {max_length})"))
            continue
        encoded.append(one)
    return encoded, excluded


def write_encoded(path: Path, rows: Iterable[Encoded]) -> None:
    pq.write_table(pa.Table.from_pylist([vars(row) for row in rows], schema=ENCODED_SCHEMA), path)


def read_encoded(path: Path) -> list[Encoded]:
    return [Encoded(**row) for row in pq.read_table(path, schema=ENCODED_SCHEMA).to_pylist()]


def collate(rows: Sequence[Any], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded batch of rows with `input_ids` and `labels`: `input_ids, attention_mask, labels`, each (B, T)
    int64."""
    width = max(len(row.input_ids) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[i, :length] = torch.as_tensor(row.input_ids, dtype=torch.long)
        labels[i, :length] = torch.as_tensor(row.labels, dtype=torch.long)
        attention_mask[i, :length] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def token_budget_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Positions grouped so that a padded batch holds at most `tokens_per_batch` tokens (one row at least), longest
    rows first.

    Sorting by length keeps padding small; longest first means that a batch too large for memory shows at once.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        width = lengths[current[0]] if current else lengths[position]
        if current and width * (len(current) + 1) > tokens_per_batch:
            batches.append(current)
            current = []
        current.append(position)
    if current:
        batches.append(current)
    return batches
