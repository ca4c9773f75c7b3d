"""Runs an encoder or a classifier over texts of any length: windows, batches, and one vector or distribution a text.

A text longer than the model's window is read in several, so that nothing of it goes unseen. Batches are filled with
windows of like length to a number of tokens; they change a result by float32 rounding only, and what the filters
decide by is rounded to `DECIMALS`. Cost: one forward pass of every token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from curate.cleaning.scored import DECIMALS
from train.encoding import token_budget_batches
from train.models import ModelError


@dataclass(frozen=True)
class Window:
    """Tokens of one part of the text at position `text`."""

    text: int
    input_ids: list[int]


def embed(model: Any, tokenizer: Any, texts: Sequence[str], max_length: int, tokens_per_batch: int) -> np.ndarray:
    """(N, H) float32 vectors of length 1: the mean over all tokens' last hidden states; NaN where it has no length."""
    sums = np.zeros((len(texts), int(model.config.hidden_size)), dtype=np.float64)
    tokens = np.zeros(len(texts), dtype=np.int64)

    def take(windows: Sequence[Window], states: Any, mask: torch.Tensor) -> None:
        summed = states.last_hidden_state.double().masked_fill(mask.unsqueeze(2) == 0, 0.0).sum(dim=1)
        for window, vector in zip(windows, summed.cpu().numpy(), strict=True):
            sums[window.text] += vector
            tokens[window.text] += len(window.input_ids)

    _run(model, tokenizer, texts, max_length, tokens_per_batch, take)
    means = sums / np.maximum(tokens, 1)[:, None]
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(lengths) & (lengths > 0), means / lengths, np.nan).astype(np.float32)


def label_probabilities(
    model: Any, tokenizer: Any, texts: Sequence[str], max_length: int, tokens_per_batch: int
) -> np.ndarray:
    """(N, L) float64 probabilities of the classifier's labels, the largest over a text's windows, rounded.

    Labels are independent (sigmoid) where the model says multi-label or has one label, else exclusive (softmax).
    """
    largest = np.zeros((len(texts), int(model.config.num_labels)), dtype=np.float64)
    independent = model.config.num_labels == 1 or model.config.problem_type == "multi_label_classification"

    def take(windows: Sequence[Window], states: Any, mask: torch.Tensor) -> None:
        logits = states.logits.double()
        found = (torch.sigmoid(logits) if independent else torch.softmax(logits, dim=-1)).cpu().numpy()
        for window, row in zip(windows, found, strict=True):
            np.maximum(largest[window.text], row, out=largest[window.text])

    _run(model, tokenizer, texts, max_length, tokens_per_batch, take)
    return np.round(largest, DECIMALS)


def _run(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int,
    tokens_per_batch: int,
    take: Callable[[Sequence[Window], Any, torch.Tensor], None],
) -> None:
    """Every window of the texts through the model; `take` gets a batch's windows, outputs and (b, T) mask."""
    windows = list(_windows(tokenizer, texts, _longest(model, tokenizer, max_length)))
    if model.config.pad_token_id is None:  # a classifier on a decoder finds the last token by it
        model.config.pad_token_id = tokenizer.pad_token_id
    for places in token_budget_batches([len(window.input_ids) for window in windows], tokens_per_batch):
        batch = [windows[place] for place in places]
        padded = tokenizer.pad(
            {"input_ids": [window.input_ids for window in batch]}, return_tensors="pt", padding_side="right"
        )
        mask = padded["attention_mask"].to(model.device)
        with torch.inference_mode():
            take(batch, model(input_ids=padded["input_ids"].to(model.device), attention_mask=mask), mask)


def _windows(tokenizer: Any, texts: Sequence[str], length: int) -> Iterator[Window]:
    """The texts in windows of at most `length` tokens, special ones included. Raises `ModelError`."""
    if not tokenizer.is_fast:
        raise ModelError(
            f"{tokenizer.name_or_path}: its tokenizer gives no windows; save it with tokenizer.json (a fast tokenizer)"
        )
    for position, text in enumerate(texts):
        given = tokenizer(text, truncation=True, max_length=length, return_overflowing_tokens=True)
        for ids in given["input_ids"]:
            if ids:
                yield Window(position, ids)


def _longest(model: Any, tokenizer: Any, wanted: int) -> int:
    """Tokens of a window that both the model and its tokenizer take."""
    return min(wanted, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or wanted)
