"""train.losses: the mean is over an example's own tokens, and nothing else in the batch matters."""

import math

import pytest
import torch

from tests.reference import per_example as reference
from tests.tiny import PAD, make_model, make_rows
from train.encoding import IGNORED, collate
from train.losses import per_example_loss


def test_mean_over_own_tokens_by_hand():
    # two classes with logits (0, log 3): p = (1/4, 3/4)
    logits = torch.tensor([0.0, math.log(3.0)]).expand(2, 4, 2)
    labels = torch.tensor([[IGNORED, 0, 1, 1], [0, IGNORED, IGNORED, 0]])
    losses, counts = per_example_loss(logits, labels)
    expected = [(math.log(4) + 2 * math.log(4 / 3)) / 3, math.log(4)]
    assert losses.tolist() == pytest.approx(expected, abs=1e-6)
    assert counts.tolist() == [3, 1]
    assert losses.dtype == torch.float32


def test_first_label_is_never_predicted():
    logits = torch.zeros(1, 3, 5)
    losses, counts = per_example_loss(logits, torch.tensor([[2, IGNORED, IGNORED]]))
    assert counts.tolist() == [0]
    assert losses.isnan().all()


def test_example_without_label_is_nan_and_alone():
    losses, counts = per_example_loss(torch.zeros(2, 3, 5), torch.tensor([[IGNORED] * 3, [IGNORED, 1, 2]]))
    assert losses[0].isnan()
    assert losses[1].item() == pytest.approx(math.log(5))
    assert counts.tolist() == [0, 2]


def test_padding_and_neighbours_do_not_matter():
    model, rows = make_model(), make_rows(6)
    batch = collate(rows, PAD)
    labels = batch.pop("labels")
    with torch.no_grad():
        together, _ = per_example_loss(model(**batch).logits, labels)
        alone = torch.stack([reference.loss(model, row) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)  # float32 sums in another order


def test_half_precision_logits_are_softmaxed_in_float32():
    logits = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([[IGNORED, 3, 4, 5]])
    assert torch.equal(per_example_loss(logits, labels)[0], per_example_loss(logits.float(), labels)[0])
