"""curate.figures.difficulty: losses with and without the prompt beside a token-by-token twin."""

import numpy as np
import pytest

from curate.figures.difficulty import answer_losses, first_answer, ifd, with_prompt, without_prompt
from tests.reference import figures as reference
from tests.tiny import PAD, make_base, make_rows
from train.encoding import IGNORED, Encoded

BEGIN = 1


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_difficulty_is_the_twins(architecture):
    model, rows = make_base(architecture), make_rows(7)
    found = ifd(answer_losses(model, rows, BEGIN, PAD, tokens_per_batch=30))
    for row, value in zip(rows, found, strict=True):
        start, end = first_answer(row)
        wanted = reference.ifd(model, row.input_ids[:start], row.input_ids[start:end], BEGIN)
        assert value == pytest.approx(wanted, rel=1e-4)  # float32 in batches, float64 sums in the twin


def test_the_first_answer_counts_alone():
    row = Encoded("r", "s", [5, 6, 7, 8, 9, 10], [IGNORED, 6, 7, IGNORED, IGNORED, 10])
    assert first_answer(row) == (1, 3)
    assert with_prompt(row).input_ids == [5, 6, 7] and with_prompt(row).labels == [IGNORED, 6, 7]
    assert without_prompt(row, BEGIN).input_ids == [BEGIN, 6, 7]
    assert without_prompt(row, BEGIN).labels == [IGNORED, 6, 7]


def test_a_row_that_opens_with_the_answer_has_no_prompt_to_help():
    rows = [Encoded("r", "s", [6, 7, 8], [6, 7, IGNORED])]
    assert ifd(answer_losses(make_base(), rows, BEGIN, PAD)) == pytest.approx([1.0], rel=1e-5)


def test_batches_do_not_matter_and_the_model_stays_as_it_was():
    model, rows = make_base().train(), make_rows(9)
    one, many = (answer_losses(model, rows, BEGIN, PAD, tokens_per_batch=size) for size in (1, 10_000))
    assert np.allclose(one, many, rtol=1e-4)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_with_broken_weights_gives_no_number():
    model = make_base()
    model.get_output_embeddings().weight.data[:] = float("nan")
    assert np.isnan(answer_losses(model, make_rows(2), BEGIN, PAD)).all()
