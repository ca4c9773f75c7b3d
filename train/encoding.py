"""Turn a chat into token ids and the mask of what the model is trained on.

Only the assistant's turns carry labels; role tags, other turns and the newline after an end-of-sequence get -100.
`train.rendering` finds the turns in the rendered text; the tokenizer's character offsets carry them over to tokens,
never a prefix tokenised again: a tokenizer that merges across the boundary would shift a prefix-based mask.

A tokenizer without a chat template gets the plain form: prompt, one space unless there is white space at the joint,
answer, end-of-sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from train.audit import RowAudit
from train.rendering import EncodingError, Finding, Rendered, plain, render, template_of

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


class ChatEncoder:
    """Encodes chats with one tokenizer and says of each what became of it. max_length: in tokens."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        added = tokenizer.added_tokens_decoder.items()
        special = {i: token.content for i, token in added if token.special and token.content.strip()}
        self._end_tokens = tuple(special.values())
        self._end_ids = {*special, tokenizer.eos_token_id}
        self._bos = tokenizer.bos_token_id
        self._adds_bos = self._bos is not None and tokenizer("a")["input_ids"][:1] == [self._bos]
        self._template = template_of(tokenizer)

    def encode(self, messages: Sequence[dict], example_id: str = "", source: str = "") -> tuple[Encoded, RowAudit]:
        """Tokens and labels, truncated on the right, and what is to be told of them. Raises `EncodingError` like
        `encode_chat`."""
        if self._template:
            rendered = render(self._tokenizer, messages, example_id, self._end_tokens)
        else:
            rendered = plain(self._tokenizer, messages)
        out = self._tokenizer(rendered.text, add_special_tokens=not self._template, return_offsets_mapping=True)
        ids, kept = list(out["input_ids"]), self._max_length
        labels, found = self._labels(ids, out["offset_mapping"], rendered)
        row = Encoded(example_id, source, ids[:kept], labels[:kept], truncated=len(ids) > kept)
        lost = sum(label != IGNORED for label in labels[1:]) - row.trained_tokens
        found |= rendered.findings | self._controls(ids, messages)
        findings = tuple(finding for finding in Finding if finding in found)
        return row, RowAudit(example_id, source, len(row.input_ids), row.trained_tokens, lost, row.truncated, findings)

    def _labels(
        self, ids: Sequence[int], offsets: Sequence[tuple[int, int]], rendered: Rendered
    ) -> tuple[list[int], set[Finding]]:
        """A token is trained on when its last character lies inside a span, so a space in front that is merged with
        the answer's first word stays with it; but not a token of white space alone that begins outside, which the
        model is never asked for. Only the end counts: some tokenizers give a token of spaces the empty range there."""
        text, spans = rendered.text, rendered.spans
        found: set[Finding] = set()
        ended = [False] * len(spans)
        labels, k = [], 0
        for token, (start, end) in zip(ids, offsets, strict=True):
            while k < len(spans) and end > spans[k][1]:
                if start < spans[k][1] and spans[k][0] < spans[k][1]:
                    found.add(Finding.SPLIT_TOKEN)
                k += 1
            label = IGNORED
            if k < len(spans) and spans[k][0] < end <= spans[k][1]:
                seen = bool(text[start:end].strip())
                if start >= spans[k][0] or seen:
                    label = token
                if start < spans[k][0] and (not seen or text[start : spans[k][0]].strip()):
                    found.add(Finding.SPLIT_TOKEN if seen else Finding.SPACED)
                if seen:  # a line break behind the end is no part of the turn
                    ended[k] = token in self._end_ids
            labels.append(label)
        return labels, found if all(ended) else {*found, Finding.NO_END}

    def _controls(self, ids: Sequence[int], messages: Sequence[dict]) -> set[Finding]:
        """Begin-of-sequence tokens that are missing or one too many, and control tokens that a turn itself holds."""
        found = set()
        if self._bos is not None and list(ids[:2]) == [self._bos, self._bos]:
            found.add(Finding.DOUBLED_BOS)
        if self._adds_bos and list(ids[:1]) != [self._bos]:
            found.add(Finding.NO_BOS)
        if any(token in message["content"] for message in messages for token in self._end_tokens):
            found.add(Finding.CONTROL)
        return found


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
    return ChatEncoder(tokenizer, max_length).encode(messages, example_id, source)[0]


def encode_audited(rows: Iterable[dict], tokenizer: Any, max_length: int) -> tuple[list[Encoded], list[RowAudit]]:
    """Encode rows with `id`, `source` and `messages`; returns the usable ones, and the audit of all in their order.

    A row whose labels are all masked has an undefined loss (0/0), so it is excluded here, before any gradient.
    """
    encoder = ChatEncoder(tokenizer, max_length)
    encoded, audits = [], []
    for row in rows:
        try:
            one, audit = encoder.encode(row["messages"], row["id"], row["source"])
        except EncodingError as error:
            kinds = (error.finding,) if error.finding else ()
            audits.append(RowAudit(row["id"], row["source"], 0, 0, 0, False, kinds, excluded=str(error)))
            continue
        if one.trained_tokens == 0:
            kind = Finding.CUT_AWAY if one.truncated and audit.lost_labels else _without_answer(audit)
            reason = kind.value if kind is Finding.REWRITTEN else f"{kind.value} (max_length {max_length})"
            findings = tuple(f for f in Finding if f in {kind, *audit.findings})
            audits.append(replace(audit, tokens=0, findings=findings, excluded=reason))
            continue
        encoded.append(one)
        audits.append(audit)
    return encoded, audits


def _without_answer(audit: RowAudit) -> Finding:
    """Why a row has no labels although nothing was cut off."""
    return Finding.REWRITTEN if Finding.REWRITTEN in audit.findings else Finding.NO_ANSWER


def encode_all(rows: Iterable[dict], tokenizer: Any, max_length: int) -> tuple[list[Encoded], list[tuple[str, str]]]:
    """`encode_audited` without the audit: the usable rows, and (id, reason) of the excluded ones."""
    encoded, audits = encode_audited(rows, tokenizer, max_length)
    return encoded, [(audit.id, audit.excluded) for audit in audits if audit.excluded]


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
