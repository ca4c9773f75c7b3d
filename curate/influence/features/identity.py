"""What makes two stored row values comparable, and by what a row is known.

Values made with another model, checkpoint, template, rule or sketch look alike on disk and mean something else, so all
of that is written beside them and compared before a value is read or added (influence spec, sections 8 and 10).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from train.settings import Settings

if TYPE_CHECKING:  # encoding imports torch, which a reader of features does not need
    from train.encoding import Encoded

KEY_LENGTH = 32  # hexadecimal digits: 128 bits, so no two of 10^9 rows are taken for one
# of one row beside its values: key, norm, token count, scale
SIDE_TYPE = np.dtype([("key", f"S{KEY_LENGTH}"), ("norm", "<f4"), ("tokens", "<i4"), ("scale", "<f4")])
Dtype = Literal["float32", "float16", "int8"]


class FeatureStoreError(ValueError):
    """Features that do not belong together, cannot be stored as asked, or are not there."""


class FeatureIdentity(Settings):
    """Everything that a stored row value depends on, except the row. Digests are content hashes."""

    kind: Literal["cosines", "sketch", "rademacher"] = Field(
        description="cosines with the targets, or the unit gradient after a sparse sign or a dense Rademacher sketch"
    )
    width: int = Field(ge=1, description="values per row: the targets M, or the dimension d of the sketch")
    seed: int | None = Field(description="seed of the sketch; null for cosines")
    dtype: Dtype = Field(description="how a value is stored; int8 has one scale per row")
    model: str = Field(description="digest of the base model")
    checkpoint: str = Field(description="digest of the adapter and its Adam moments")
    template: str = Field(description="digest of the tokenizer and its chat template")
    max_length: int = Field(ge=1, description="tokens per example; longer ones are cut")
    preconditioner: str = Field(description="rule by which Adam's moments shape a pool gradient")
    betas: tuple[float, float] = Field(description="Adam's decay rates")
    eps: float = Field(description="Adam's epsilon")
    step: int = Field(ge=0, description="optimizer steps done at the checkpoint")
    parameters: str = Field(description="digest of the parameters' names and shapes, in their order")
    targets: str | None = Field(description="digest of the targets, in their order; null unless cosines")
    precision: str = Field(description="number type of the forward and backward pass")
    code: str = Field("", description="digest of the sources that compute the values; empty outside of a run")

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> FeatureIdentity:
        cosines = self.kind == "cosines"
        if cosines != (self.targets is not None):
            raise ValueError(f"kind {self.kind} {'needs' if cosines else 'must not have'} a digest of the targets")
        if cosines != (self.seed is None):
            raise ValueError(f"kind {self.kind} {'must not have' if cosines else 'needs'} a seed")
        return self

    @property
    def bytes_per_row(self) -> int:
        """Bytes on disk per row, all files: the values once, plus key, norm, token count and scale."""
        return self.width * np.dtype(self.dtype).itemsize + SIDE_TYPE.itemsize

    def difference(self, other: FeatureIdentity) -> str:
        """Every field in which `other` differs, with this one's value first; empty when they are equal."""
        mine, theirs = self.model_dump(), other.model_dump()
        return ", ".join(f"{name} {mine[name]!r} != {theirs[name]!r}" for name in mine if mine[name] != theirs[name])


def row_key(row: Encoded) -> str:
    """The name of a row's content: equal tokens and labels have equal keys, whatever their id and source."""
    digest = hashlib.sha256(len(row.input_ids).to_bytes(8, "little"))
    for tokens in (row.input_ids, row.labels):
        digest.update(np.asarray(tokens, dtype="<i4").tobytes())
    return digest.hexdigest()[:KEY_LENGTH]
