"""curate.influence.preconditioning: the worked example of the spec, and torch's own AdamW."""

import pytest
import torch

from curate.influence.preconditioning import precondition
from tests.reference.influence import feature

M, V = torch.tensor([0.1, -0.2], dtype=torch.float64), torch.tensor([0.01, 0.0004], dtype=torch.float64)
G = torch.tensor([[0.5, 0.3]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("less", (1.3834958, -6.7790076)), ("torch", (0.2109333, -1.0335647)), ("sgd", (0.5, 0.3))],
)
def test_worked_example(rule, expected):
    before = G.clone(), M.clone(), V.clone()
    u = precondition(G, M, V, step=10, rule=rule)
    assert u[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert all(torch.equal(old, new) for old, new in zip(before, (G, M, V), strict=True))  # nothing is updated
    single = precondition(G.float(), M.float(), V.float(), step=10, rule=rule)
    assert single[0].tolist() == pytest.approx(expected, rel=1e-6)


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
    u = precondition(g[None], state["exp_avg"], state["exp_avg_sq"], step=3, rule="torch")
    torch.testing.assert_close(u[0], (start - parameter.detach()) / 0.5)


@pytest.mark.parametrize("rule", ["less", "torch", "sgd"])
def test_rows_are_independent_and_equal_the_formula(rule):
    generator = torch.Generator().manual_seed(1)
    g = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    m, v = torch.randn(5, generator=generator, dtype=torch.float64), torch.rand(5, generator=generator).double()
    u = precondition(g, m, v, step=7, rule=rule, betas=(0.8, 0.95), eps=1e-6)
    for i in range(3):
        expected = [feature(g[i, p].item(), m[p].item(), v[p].item(), 7, rule, 0.8, 0.95, 1e-6) for p in range(5)]
        assert u[i].tolist() == pytest.approx(expected, rel=1e-12)


def test_before_the_first_step_torch_rule_is_the_sign():
    zero = torch.zeros(2, dtype=torch.float64)
    u = precondition(G * torch.tensor([1.0, -1.0]), zero, zero, step=0, rule="torch")
    assert u[0].tolist() == pytest.approx([1.0, -1.0], abs=1e-6)
