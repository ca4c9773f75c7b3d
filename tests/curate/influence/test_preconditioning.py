"""curate.influence.preconditioning: the worked example of the spec, and torch's own AdamW."""

from pathlib import Path

import pytest
import torch

from curate.influence.checkpoints import Checkpoint
from curate.influence.preconditioning import Adam, Plain
from tests.reference.influence import feature

M, V = torch.tensor([0.1, -0.2], dtype=torch.float64), torch.tensor([0.01, 0.0004], dtype=torch.float64)
G = torch.tensor([[0.5, 0.3]], dtype=torch.float64)


def adam(rule, m, v, step, betas=(0.9, 0.999), eps=1e-8) -> Adam:
    return Adam(Checkpoint(Path("checkpoint-1"), step, betas, eps, [1e-3], {"w": m}, {"w": v}), rule)


@pytest.mark.parametrize(("rule", "expected"), [("less", (1.3834958, -6.7790076)), ("torch", (0.2109333, -1.0335647))])
def test_worked_example(rule, expected):
    before = G.clone(), M.clone(), V.clone()
    mine = adam(rule, M, V, step=10)
    first, second = mine.pool("w", G), mine.pool("w", G)
    assert first[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(first, second)  # nothing is updated
    assert all(torch.equal(old, new) for old, new in zip(before, (G, M, V), strict=True))
    assert torch.equal(mine.target("w", G), G)
    single = adam(rule, M.float(), V.float(), step=10).pool("w", G.float())
    assert single.dtype == torch.float32 and single[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_torch_rule_is_the_next_step_of_adamw():
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter], lr=0.5, weight_decay=0.0)
    for _ in range(3):
        parameter.grad = torch.randn(6, generator=generator, dtype=torch.float64)
        optimizer.step()
    state = {key: value.clone() for key, value in optimizer.state[parameter].items()}
    start, g = parameter.detach().clone(), torch.randn(6, generator=generator, dtype=torch.float64)
    parameter.grad = g
    optimizer.step()
    u = adam("torch", state["exp_avg"], state["exp_avg_sq"], step=3).pool("w", g[None])
    torch.testing.assert_close(u[0], (start - parameter.detach()) / 0.5)


@pytest.mark.parametrize("rule", ["less", "torch"])
def test_rows_are_independent_and_equal_the_formula(rule):
    generator = torch.Generator().manual_seed(1)
    g = torch.randn(3, 5, 2, generator=generator, dtype=torch.float64)
    m, v = torch.randn(10, generator=generator, dtype=torch.float64), torch.rand(10, generator=generator).double()
    u = adam(rule, m, v, 7, (0.8, 0.95), 1e-6).pool("w", g)
    for i, row in enumerate(g.flatten(1)):
        expected = [feature(row[p].item(), m[p].item(), v[p].item(), 7, rule, 0.8, 0.95, 1e-6) for p in range(10)]
        assert u[i].tolist() == pytest.approx(expected, rel=1e-12)


def test_before_the_first_step_torch_rule_is_the_sign():
    zero = torch.zeros(3, dtype=torch.float64)
    u = adam("torch", zero, zero, step=0).pool("w", torch.tensor([[0.5, -0.3, 0.0]], dtype=torch.float64))
    assert u[0].tolist() == pytest.approx([1.0, -1.0, 0.0], abs=1e-6)


def test_plain_is_the_gradient_on_both_sides():
    block = torch.arange(12.0).view(2, 2, 3)
    for side in (Plain().pool, Plain().target):
        assert torch.equal(side("w", block), block.view(2, 6))


@pytest.mark.parametrize("rule", ["less", "torch"])
def test_coordinates_with_small_second_moments_are_counted(rule):
    """v' = .999 v + .001 g g against eps = 1e-8, two rows of three coordinates."""
    v = torch.tensor([0.0, 9e-9, 2e-8])
    g = torch.tensor([[0.0, 0.0, 0.0], [4e-3, 2e-3, 0.0]])  # .001 g g = 1.6e-8, 4e-9
    # row one: 0, 9e-9 and 2e-8; row two: 1.6e-8, 1.3e-8 and 2e-8
    assert adam(rule, torch.zeros(3), v, step=5).small_second_moments("w", g) == 2
