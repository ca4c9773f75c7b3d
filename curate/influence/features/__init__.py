"""Row values of one checkpoint on disk, known by the row's content, so that new pool rows cost only their own
gradients."""

from curate.influence.features.identity import FeatureIdentity, FeatureStoreError, row_key
from curate.influence.features.rows import BlockSource, StoredRows
from curate.influence.features.store import FeatureStore
from curate.influence.features.values import Fidelity

__all__ = [
    "BlockSource",
    "FeatureIdentity",
    "FeatureStore",
    "FeatureStoreError",
    "Fidelity",
    "StoredRows",
    "row_key",
]
