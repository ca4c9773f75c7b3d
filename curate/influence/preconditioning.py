"""What an optimizer or a curvature estimate makes of one example's gradient, layer by layer inside the hooks.

Adam rules (LESS, arXiv 2402.04333): every example starts from the checkpoint's stored raw moments m, v; nothing is
updated. The result is not linear in g (g*g stands under the root), so targets keep their plain gradients. Constants
are folded once per checkpoint, which leaves four passes over a block.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch

from curate.influence.checkpoints import Checkpoint

AdamRule = Literal["less", "torch"]


class Preconditioner(Protocol):
    """Feature maps of single-example gradients; `block` is (B, *shape) float32, the answer (B, size) float32."""

    def pool(self, name: str, block: torch.Tensor) -> torch.Tensor: ...

    def target(self, name: str, block: torch.Tensor) -> torch.Tensor: ...


class Plain:
    """g itself on both sides (`sgd`)."""

    def pool(self, name: str, block: torch.Tensor) -> torch.Tensor:
        return block.flatten(1)

    def target(self, name: str, block: torch.Tensor) -> torch.Tensor:
        return block.flatten(1)


class Adam:
    """`less`: m' / sqrt(v' + eps), eps inside the root, no bias correction (the published code). `torch`: the update
    of torch's AdamW at step + 1 without weight decay. m' = b1 m + (1 - b1) g, v' = b2 v + (1 - b2) g g."""

    def __init__(self, checkpoint: Checkpoint, rule: AdamRule, device: torch.device | str = "cpu") -> None:
        b1, b2 = checkpoint.betas
        t = checkpoint.step + 1
        first, second = (1.0, 1.0) if rule == "less" else (1 - b1**t, 1 - b2**t)
        self.rule, self.eps = rule, checkpoint.eps
        self.g_scale, self.square_scale = (1 - b1) / first, (1 - b2) / second
        inside = self.eps if rule == "less" else 0.0
        self.moment = {name: (m * (b1 / first)).to(device) for name, m in checkpoint.m.items()}
        self.variance = {name: (v * (b2 / second) + inside).to(device) for name, v in checkpoint.v.items()}
        self.second_correction = second

    def pool(self, name: str, block: torch.Tensor) -> torch.Tensor:
        g = block.flatten(1)
        denominator = torch.addcmul(self.variance[name], g, g, value=self.square_scale)
        numerator = torch.add(self.moment[name], g, alpha=self.g_scale)
        if self.rule == "less":
            return numerator.mul_(denominator.rsqrt_())
        return numerator.div_(denominator.sqrt_().add_(self.eps))

    def target(self, name: str, block: torch.Tensor) -> torch.Tensor:
        return block.flatten(1)

    def small_second_moments(self, name: str, block: torch.Tensor) -> int:
        """Coordinates with v' < eps, where `less` is far from real Adam (influence spec, section 4)."""
        g = block.flatten(1)
        variance = torch.addcmul(self.variance[name], g, g, value=self.square_scale)
        if self.rule == "less":
            return int((variance < 2 * self.eps).sum())
        return int((variance * self.second_correction < self.eps).sum())
