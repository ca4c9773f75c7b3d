"""The stage store: every stage's output in `<store>/<stage>/<key>/`, keyed by what made it.

The key is a hash of the stage's parameters, of the source code it runs and of the keys of its inputs. So a second run
of the same configuration does no work, a changed parameter redoes only what depends on it, and stale input cannot be
read. `stages` is the store itself; `folder` what a complete stage looks like on disk; `digests` what keys are made of;
`locks` who is working on what; `mirror` the same store behind a URL.
"""

from flows.store.digests import path_digest, source_digest
from flows.store.errors import StoreError
from flows.store.folder import MANIFEST
from flows.store.opening import open_store
from flows.store.stages import Accounting, StageOutput, StageStore

__all__ = [
    "MANIFEST",
    "Accounting",
    "StageOutput",
    "StageStore",
    "StoreError",
    "open_store",
    "path_digest",
    "source_digest",
]
