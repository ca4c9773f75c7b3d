"""curate.influence.ekfac: against a dense float64 reference, against a Fisher matrix that is known, and the draws of
labels from the model."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from curate.influence.ekfac import DAMPING, Eigenbasis, Ekfac, fit_ekfac, load_bases, sample_labels, save_bases
from curate.influence.scoring import InfluenceError, score_rows, target_gradients
from tests.curate.influence.builders import make_engine
from tests.reference import influence as reference
from tests.tiny import PAD, VOCABULARY, make_base, make_model, make_rows
from train.encoding import IGNORED, Encoded
from train.per_example import find_taps, flat_gradients

SAMPLE = make_rows(24, seed=7, prefix="sample")
POOL, TARGETS = make_rows(5, seed=1), make_rows(3, seed=2, prefix="target")


def cosines(model, taps, bases, pool=POOL, targets=TARGETS, damping=DAMPING) -> np.ndarray:
    engine = replace(make_engine(model, Ekfac(bases, damping)), taps=taps)
    return score_rows(engine, pool, target_gradients(engine, targets)).cosines


CASES = {
    "lora": ("llama", {}, {}),
    "dora": ("qwen2", {"dora": True}, {}),
    "full rank": ("qwen2", {"targets": ("v_proj",)}, {"full_rank": ["down_proj"]}),
    "transposed": ("gpt2", {"targets": ("c_attn",)}, {"full_rank": ["c_fc"]}),
}


@pytest.mark.parametrize(
    ("case", "damping"), [("lora", 0.1), ("lora", 1.0), ("dora", 0.1), ("full rank", 0.1), ("transposed", 1.0)]
)
def test_cosines_equal_the_dense_reference(case, damping):
    architecture, parts, layers = CASES[case]
    model = make_model(architecture, **parts)
    taps = find_taps(model, **layers)
    shapes = {name: tuple(tap.parameter.shape) for name, tap in taps.items()}
    if case == "transposed":
        assert (16, 64) in shapes.values()  # c_fc's weight is (in, out)
    if case == "dora":
        assert any(len(shape) == 1 for shape in shapes.values())
    modules = {name: tap.module for name, tap in taps.items() if len(shapes[name]) == 2}
    wanted = reference.ekfac_cosines(model, modules, shapes, SAMPLE, damping, POOL, TARGETS)
    bases = fit_ekfac(model, taps, SAMPLE, PAD, tokens_per_batch=60)
    mine = cosines(model, taps, bases, damping=damping)
    np.testing.assert_allclose(mine, wanted, atol=1e-4)  # float32 eigenvectors against float64 ones
    plain = make_engine(model)
    plain = replace(plain, taps=taps)
    unmapped = score_rows(plain, POOL, target_gradients(plain, TARGETS)).cosines
    assert np.abs(unmapped - wanted).max() > 0.05  # the two would otherwise not be told apart


def test_linear_model_whose_fisher_is_a_kronecker_product():
    """With a head of zeros every prediction is uniform, so e = 1/V - onehot(label) whatever x is, and the Fisher matrix
    of the head's weight over all labels is exactly S (x) A with S = I/V - 11^T/V^2 and A = mean of x x^T."""
    model, contexts, V = make_base("qwen2"), range(2, 34), VOCABULARY
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.zero_()
    model.requires_grad_(False)
    taps = find_taps(model, full_rank=["lm_head"], adapter=False)
    rows = [Encoded(f"{c}-{v}", "a", [c, v], [IGNORED, v]) for c in contexts for v in range(V)]
    bases = fit_ekfac(model, taps, rows, PAD)
    seen = []
    handle = head.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()[:, 0].double()))
    model(input_ids=torch.tensor([[c] for c in contexts]))
    handle.remove()
    x = seen[0].numpy()
    fisher = np.kron(np.eye(V) / V - 1 / V**2, x.T @ x / len(x))
    damped = fisher + 0.1 * np.trace(fisher) / len(fisher) * np.eye(len(fisher))
    (gradients,) = flat_gradients(model, rows[::97], PAD, taps=taps).values()
    g = gradients.double().numpy()
    wanted = g @ np.linalg.solve(damped, g.T)
    u = Ekfac(bases, 0.1).pool("lm_head.weight", gradients.view(-1, V, 16)).double().numpy()
    np.testing.assert_allclose(u @ u.T, wanted, atol=1e-4 * np.abs(wanted).max())


def test_damping_is_a_share_of_the_layers_mean_eigenvalue():
    basis = Eigenbasis(None, None, torch.tensor([1.0, 3.0]))
    u = Ekfac({"w": basis}, damping=0.5).pool("w", torch.tensor([[2.0, 4.0]]))
    np.testing.assert_allclose(u, [[2 / 2**0.5, 4 / 4**0.5]], rtol=1e-6)  # 1 + 0.5 x 2 and 3 + 0.5 x 2


def test_heavy_damping_leaves_the_plain_angles_of_a_layer():
    model = make_model(targets=("o_proj",))
    taps = {name: tap for name, tap in find_taps(model).items() if "layers.1" in name and "lora_B" in name}
    assert len(taps) == 1
    bases = fit_ekfac(model, taps, SAMPLE, PAD)
    plain = replace(make_engine(model), taps=taps)
    wanted = score_rows(plain, POOL, target_gradients(plain, TARGETS)).cosines
    np.testing.assert_allclose(cosines(model, taps, bases, damping=1e6), wanted, atol=1e-4)
    assert np.abs(cosines(model, taps, bases, damping=0.1) - wanted).max() > 0.05


def test_layer_without_any_gradient_is_left_out():
    u = Ekfac({"w": Eigenbasis(None, None, torch.zeros(3))}).pool("w", torch.ones(2, 3))
    assert torch.equal(u, torch.zeros(2, 3))


def test_batches_do_not_matter():
    model = make_model()
    taps = find_taps(model)
    whole = cosines(model, taps, fit_ekfac(model, taps, SAMPLE, PAD))
    small = cosines(model, taps, fit_ekfac(model, taps, SAMPLE[::-1], PAD, tokens_per_batch=20))
    np.testing.assert_allclose(small, whole, atol=1e-4)


def test_bases_are_the_same_after_saving(tmp_path):
    model = make_model(dora=True)
    bases = fit_ekfac(model, find_taps(model), SAMPLE[:6], PAD)
    save_bases(bases, tmp_path / "ekfac.safetensors")
    again = load_bases(tmp_path / "ekfac.safetensors", "cpu")
    assert set(again) == set(bases)
    for name, basis in bases.items():
        for mine, theirs in zip(vars(again[name]).values(), vars(basis).values(), strict=True):
            assert mine is theirs is None or torch.equal(mine, theirs)


@pytest.mark.parametrize("tokens_per_batch", [16, 4096])
def test_rows_without_a_finite_gradient_are_left_out_and_named(caplog, tokens_per_batch):
    model = make_model("qwen2")
    clean = [replace(row, input_ids=[min(token, 46) for token in row.input_ids]) for row in SAMPLE]
    with torch.no_grad():
        model.get_input_embeddings().weight[47] = torch.nan
    broken = replace(clean[0], id="broken", input_ids=[47, *clean[0].input_ids[1:]])
    masked = replace(clean[1], id="masked", labels=[IGNORED] * len(clean[1].labels))
    taps = find_taps(model)
    wanted = fit_ekfac(model, taps, clean, PAD, tokens_per_batch)
    with caplog.at_level(logging.WARNING):
        mine = fit_ekfac(model, taps, [broken, *clean[:9], masked, *clean[9:]], PAD, tokens_per_batch)
    assert "2 of 26 rows have no finite gradient, the first is broken" in caplog.text
    for name, basis in wanted.items():
        torch.testing.assert_close(mine[name].eigenvalues.sum(), basis.eigenvalues.sum(), rtol=1e-4, atol=0)
    one, other = (cosines(model, taps, bases, clean[:5], clean[5:8]) for bases in (mine, wanted))
    np.testing.assert_allclose(one, other, atol=1e-4)
    sampled = sample_labels(model, [broken, clean[0]], PAD, seed=3)
    assert set(sampled[0].labels) == {IGNORED} and sampled[1].trained_tokens == clean[0].trained_tokens
    with pytest.raises(InfluenceError, match=r"none of 2 rows has a finite gradient.*use preconditioner"):
        fit_ekfac(model, taps, [broken, masked], PAD)


def test_sampled_labels_have_the_models_distribution():
    model = make_model("qwen2")
    ids = [5, 9, 30, 11]
    rows = [Encoded(f"r{i}", "a", ids, [IGNORED, IGNORED, 30, 11]) for i in range(3000)]
    sampled = sample_labels(model, rows, PAD, seed=0)
    with torch.no_grad():
        probabilities = model(input_ids=torch.tensor([ids])).logits[0].double().softmax(dim=-1).numpy()

    def p_value(column: int, predicted_at: int) -> float:
        counts = np.bincount([row.labels[column] for row in sampled], minlength=VOCABULARY)
        expected = len(rows) * probabilities[predicted_at]
        rare = expected < 5  # the chi-square distribution is not reached there: one class for all of them
        observed = [*counts[~rare], counts[rare].sum()]
        return chisquare(observed, [*expected[~rare], expected[rare].sum()]).pvalue

    for column in (2, 3):
        assert p_value(column, column - 1) > 0.01
        assert p_value(column, column) < 1e-9  # the next place's prediction is another one


def test_sampled_labels_leave_the_input_alone_and_depend_on_seed_and_row_only():
    model = make_model("qwen2")
    sampled = sample_labels(model, SAMPLE, PAD, seed=4)
    for mine, row in zip(sampled, SAMPLE, strict=True):
        assert (mine.id, mine.input_ids) == (row.id, row.input_ids)
        assert mine.labels[0] == IGNORED
        assert [label != IGNORED for label in mine.labels[1:]] == [label != IGNORED for label in row.labels[1:]]
        assert all(0 <= label < VOCABULARY for label in mine.labels if label != IGNORED)
    assert any(mine.labels != row.labels for mine, row in zip(sampled, SAMPLE, strict=True))
    assert sample_labels(model, SAMPLE[::-1], PAD, seed=4, tokens_per_batch=16) == sampled[::-1]
    assert sample_labels(model, SAMPLE, PAD, seed=5) != sampled
