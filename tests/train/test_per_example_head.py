"""train.per_example: logits are formed at labelled positions only, with the same losses and gradients, in every
family's way of scaling, capping and slicing them."""

import pytest
import torch

from tests.tiny import ARCHITECTURES, PAD, ROUTED, make_model, make_rows
from train.encoding import collate
from train.losses import per_example_loss
from train.models import trainable
from train.per_example import find_taps, flat_gradients
from train.per_example.passes import batch_losses

ROWS = make_rows(4)
LABELLED = sum(row.trained_tokens for row in ROWS)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *ROUTED])
def test_labelled_positions_alone_give_the_whole_models_losses_and_gradients(architecture):
    model, seen = make_model(architecture), []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _m, _x, y: seen.append(y.shape[:-1].numel()))
    alone = batch_losses(model, ROWS, PAD, find_taps(model))
    handle.remove()
    assert seen == [LABELLED]
    batch = collate(ROWS, PAD)
    labels = batch.pop("labels")
    whole = per_example_loss(model(**batch).logits, labels)[0]
    torch.testing.assert_close(alone, whole, rtol=2e-6, atol=1e-6)  # float32 products of another shape
    parameters = list(trainable(model).values())
    for mine, wanted in zip(*(torch.autograd.grad(part.sum(), parameters) for part in (alone, whole)), strict=True):
        assert (mine - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("tapped", ["adapter", "full_rank"])
def test_tapped_head_sees_whole_examples(tapped):
    model, seen = make_model("qwen2", targets=("q_proj", "lm_head") if tapped == "adapter" else None), []
    taps = find_taps(model, full_rank=["lm_head"] if tapped == "full_rank" else ())
    model.get_output_embeddings().register_forward_hook(lambda _m, x, _y: seen.append(tuple(x[0].shape[:2])))
    flat_gradients(model, ROWS, PAD, taps=taps)
    assert seen == [(len(ROWS), max(len(row.input_ids) for row in ROWS))]
