"""A selection as a dataset folder that opens elsewhere."""

from curate.export.card import CARD, CHAT, MANIFEST, CardInfo, PoolSource, dataset_card, pool_sources
from curate.export.dataset import EXPORT_SCHEMA, ROWS_PER_SHARD, ExportError, export_dataset
from curate.export.licenses import hub_license

__all__ = [
    "CARD",
    "CHAT",
    "EXPORT_SCHEMA",
    "MANIFEST",
    "ROWS_PER_SHARD",
    "CardInfo",
    "ExportError",
    "PoolSource",
    "dataset_card",
    "export_dataset",
    "hub_license",
    "pool_sources",
]
