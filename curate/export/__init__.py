"""A selection as a dataset folder that opens elsewhere: one file of the folder per file here.

rows         data/train-*.parquet
lineage      lineage.parquet
trainers     chat.jsonl, dataset_info.json, axolotl.yaml
croissant    croissant.json
card         README.md, LICENSE.md
manifest     manifest.json
dataset      all of them in order
licenses     what a licence permits
push         upload of a finished folder
"""

from curate.export.card import CARD, CardInfo, PoolSource, dataset_card, pool_sources
from curate.export.dataset import ExportError, export_dataset
from curate.export.licenses import LicenseError, hub_license
from curate.export.lineage import LINEAGE, Trail
from curate.export.manifest import MANIFEST, ManifestError
from curate.export.rows import EXPORT_SCHEMA
from curate.export.settings import ROWS_PER_SHARD, ExportSettings
from curate.export.trainers import CHAT

__all__ = [
    "CARD",
    "CHAT",
    "EXPORT_SCHEMA",
    "LINEAGE",
    "MANIFEST",
    "ROWS_PER_SHARD",
    "CardInfo",
    "ExportError",
    "ExportSettings",
    "LicenseError",
    "ManifestError",
    "PoolSource",
    "Trail",
    "dataset_card",
    "export_dataset",
    "hub_license",
    "pool_sources",
]
