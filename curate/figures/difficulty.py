"""What the base model loses on an answer with its prompt and without: the instruction-following difficulty.

IFD = loss(answer | prompt) / loss(answer) (Cherry LLM, arXiv 2308.12032). Near or above 1 the prompt does not help the
model to write the answer; near 0 the prompt gives it away. Both losses are means over the same tokens, the row's first
answer with its end: without the prompt the answer stands behind the begin-of-sequence token, or the end-of-sequence
token where the tokenizer has none, so that its first token counts in both. Cost: two forward passes of the answers'
tokens and one of the prompts', logits at the answers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from train.encoding import IGNORED, Encoded, token_budget_batches
from train.forward import batch_losses, frozen_evaluation


def first_answer(row: Encoded) -> tuple[int, int]:
    """(start, end) of the first run of labelled tokens; (0, 0) where there is none."""
    start = next((i for i, label in enumerate(row.labels) if label != IGNORED), None)
    if start is None:
        return 0, 0
    end = next((i for i in range(start, len(row.labels)) if row.labels[i] == IGNORED), len(row.labels))
    return start, end


def with_prompt(row: Encoded) -> Encoded:
    """The row up to the end of its first answer."""
    end = first_answer(row)[1]
    return Encoded(row.id, row.source, row.input_ids[:end], row.labels[:end])


def without_prompt(row: Encoded, begin_id: int) -> Encoded:
    """The first answer alone behind `begin_id`."""
    start, end = first_answer(row)
    return Encoded(row.id, row.source, [begin_id, *row.input_ids[start:end]], [IGNORED, *row.labels[start:end]])


def answer_losses(
    model: Any, rows: Sequence[Encoded], begin_id: int, pad_id: int, *, tokens_per_batch: int = 4096
) -> np.ndarray:
    """(N, 2) float64 losses of the first answers in nats a token, with the prompt and without; NaN where not finite.

    A row whose first token is labelled has no prompt; it gets the same loss twice.
    """
    forms = [without_prompt(row, begin_id) if first_answer(row)[0] == 0 else with_prompt(row) for row in rows]
    forms += [without_prompt(row, begin_id) for row in rows]
    found = np.full(len(forms), np.nan)
    with frozen_evaluation(model), torch.inference_mode():
        for places in token_budget_batches([len(form.input_ids) for form in forms], tokens_per_batch):
            batch = [forms[i] for i in places]
            losses = batch_losses(model, batch, pad_id, model.device, model.get_output_embeddings())
            found[places] = losses.double().cpu().numpy()
    found[~np.isfinite(found)] = np.nan
    return found.reshape(2, len(rows)).T


def ifd(losses: np.ndarray) -> np.ndarray:
    """(N,) of (N, 2) losses as `answer_losses` gives them; NaN where the answer alone costs nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = losses[:, 0] / losses[:, 1]
    return np.where(np.isfinite(ratio), ratio, np.nan)
