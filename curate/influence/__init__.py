"""Gradient influence of every pool example on every target: per-checkpoint cosines and the attribution matrix."""

from curate.influence.attribution import AttributionMatrix, attribution_matrix, write_attribution

__all__ = ["AttributionMatrix", "attribution_matrix", "write_attribution"]
