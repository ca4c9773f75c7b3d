"""Oracle of curate.influence: every pair of pool row and target on its own, float64, the formulas as printed."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from curate.influence.checkpoints import Checkpoint
from tests.reference.per_example import gradient, loss
from train.encoding import IGNORED, Encoded


def feature(g: float, m: float, v: float, step: int, rule: str, b1: float, b2: float, eps: float) -> float:
    """One coordinate of U (influence spec, section 4)."""
    if rule == "sgd":
        return g
    m_new = b1 * m + (1 - b1) * g
    v_new = b2 * v + (1 - b2) * g * g
    if rule == "less":
        return m_new / math.sqrt(v_new + eps)
    return (m_new / (1 - b1 ** (step + 1))) / (math.sqrt(v_new / (1 - b2 ** (step + 1))) + eps)


def _flat(parts: dict, names: list[str]) -> np.ndarray:
    return np.concatenate([parts[name].detach().double().numpy() for name in names])


def pool_feature(model: Any, checkpoint: Checkpoint, row: Encoded, rule: str) -> np.ndarray:
    """(P,) float64 U of one row, parameters in alphabetical order."""
    names = sorted(checkpoint.m)
    m, v = _flat(checkpoint.m, names), _flat(checkpoint.v, names)
    g = _flat(gradient(model, row), names)
    fixed = checkpoint.step, rule, *checkpoint.betas, checkpoint.eps
    return np.array([feature(*one, *fixed) for one in zip(g, m, v, strict=True)])


def cosines(model: Any, checkpoint: Checkpoint, pool: list[Encoded], targets: list[Encoded], rule: str) -> np.ndarray:
    """(N, M) float64."""
    mine = [pool_feature(model, checkpoint, row, rule) for row in pool]
    theirs = [_flat(gradient(model, target), sorted(checkpoint.m)) for target in targets]
    return np.array([[u @ g / math.sqrt((u @ u) * (g @ g)) for g in theirs] for u in mine])


# EK-FAC


def single_example(model: Any, row: Encoded, modules: dict[str, Any]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Name -> the row's inputs (T, in) and output gradients (T, out) at that module."""
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            output = output if output.requires_grad else output.requires_grad_()
            output.retain_grad()
            seen[name] = [inputs[0].detach()[0], output]
            return output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    loss(model, row).backward()
    for handle in handles:
        handle.remove()
    return {name: (x, y.grad[0]) for name, (x, y) in seen.items()}


def ekfac_inverse_roots(
    model: Any, modules: dict[str, Any], shapes: dict[str, tuple[int, ...]], rows: list[Encoded], damping: float
) -> dict[str, np.ndarray]:
    """Name -> (P, P) float64 symmetric F^(-1/2) of that parameter, as a full matrix.

    modules: of the parameters whose gradient is the sum of e x^T, or of x e^T where the shape says so; a parameter of
    any other shape has a diagonal F. `model` is in float64.
    """
    left = {name: np.zeros((shape[0], shape[0])) for name, shape in shapes.items() if len(shape) == 2}
    right = {name: np.zeros((shape[1], shape[1])) for name, shape in shapes.items() if len(shape) == 2}
    for row in rows:
        for name, (x, e) in single_example(model, row, modules).items():
            last_label = max(t for t in range(len(x)) if row.labels[t] != IGNORED)
            for t in range(last_label):  # what comes later has no part in the loss
                input_t, gradient_t = x[t].double().numpy(), e[t].double().numpy()
                rows_of, columns_of = gradient_t, input_t
                if len(gradient_t) != shapes[name][0]:  # GPT-2's transposed layers
                    rows_of, columns_of = input_t, gradient_t
                left[name] += np.outer(rows_of, rows_of)
                right[name] += np.outer(columns_of, columns_of)
    singles = [all_gradients(model, row, list(shapes)) for row in rows]
    roots = {}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        basis = np.eye(size)
        if len(shape) == 2:
            basis = np.kron(np.linalg.eigh(left[name])[1], np.linalg.eigh(right[name])[1])
        eigenvalues = np.mean([(basis.T @ single[name]) ** 2 for single in singles], axis=0)
        damped = eigenvalues + damping * eigenvalues.mean()
        roots[name] = basis @ np.diag(damped**-0.5) @ basis.T
    return roots


def all_gradients(model: Any, row: Encoded, names: list[str]) -> dict[str, np.ndarray]:
    """Name -> flat float64 gradient, of frozen parameters too."""
    named = dict(model.named_parameters())
    wanted = [named[name] for name in names]
    before = [parameter.requires_grad for parameter in wanted]
    for parameter in wanted:
        parameter.requires_grad_(True)
    parts = torch.autograd.grad(loss(model, row), wanted)
    for parameter, state in zip(wanted, before, strict=True):
        parameter.requires_grad_(state)
    return {name: part.flatten().double().numpy() for name, part in zip(names, parts, strict=True)}


def ekfac_cosines(
    model: Any, modules: dict[str, Any], shapes: dict[str, tuple[int, ...]], sample: list[Encoded], damping: float,
    pool: list[Encoded], targets: list[Encoded],
) -> np.ndarray:  # fmt: skip
    """(N, M) float64 cosines of gradients mapped by F^(-1/2), everything in float64 and one row at a time."""
    places = {name: path for path, module in model.named_modules() for name, m in modules.items() if m is module}
    model = deepcopy(model).double()
    found = dict(model.named_modules())
    modules = {name: found[path] for name, path in places.items()}
    roots = ekfac_inverse_roots(model, modules, shapes, sample, damping)

    def mapped(row: Encoded) -> np.ndarray:
        parts = all_gradients(model, row, list(shapes))
        return np.concatenate([roots[name] @ parts[name] for name in shapes])

    mine, theirs = [mapped(row) for row in pool], [mapped(row) for row in targets]
    return np.array([[u @ g / math.sqrt((u @ u) * (g @ g)) for g in theirs] for u in mine])
