"""Training-side feature: what AdamW would do with one example's gradient (LESS, arXiv 2402.04333).

Every example starts from the checkpoint's stored raw moments m, v; nothing is updated. The result is not linear in g
(g*g stands under the root), so it cannot be moved to the target side.
"""

from __future__ import annotations

from typing import Literal

import torch

AdamRule = Literal["less", "torch", "sgd"]


def second_moment(g: torch.Tensor, v: torch.Tensor, beta2: float) -> torch.Tensor:
    """v' = b2 v + (1 - b2) g g, the shape of `g`: (B, P) for gradients (B, P) and a stored moment (P,)."""
    return torch.addcmul(beta2 * v, g, g, value=1 - beta2)


def precondition(
    g: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    *,
    step: int,
    rule: AdamRule = "less",
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    second: torch.Tensor | None = None,
) -> torch.Tensor:
    """Preconditioned gradients U, the shape of `g`.

    g: (B, P) float32 gradients of single examples; m, v: (P,) raw (not bias-corrected) moments; step: optimizer steps
    done; second: `second_moment(g, v, b2)` where the caller has it already. `less`: m' / sqrt(v' + eps), eps inside the
    root, no bias correction (the published code). `torch`: the update of torch's AdamW at step + 1 without weight
    decay. `sgd`: g itself.
    """
    if rule == "sgd":
        return g
    b1, b2 = betas
    m1 = torch.lerp(g, m.expand_as(g), b1)
    v1 = second_moment(g, v, b2) if second is None else second
    if rule == "less":
        return m1.div_((v1 + eps).sqrt_())
    t = step + 1
    return m1.div_(1 - b1**t).div_((v1 / (1 - b2**t)).sqrt_().add_(eps))
