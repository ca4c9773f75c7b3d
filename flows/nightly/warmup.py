"""Which warmup a nightly run uses: the pinned one as long as it fits, so that only new rows cost a gradient.

A warmup is trained on a random sample of the pool, so another pool makes another warmup, other checkpoints and every
gradient anew, although the few rows that the sample would exchange say next to nothing about which rows are good for a
target. So the first night's warmup is pinned, and used until the model, its settings or its code are others, or until
so much of the pool is new (`promotion.rewarm_after`) that it no longer stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from curate.influence.features import row_key
from flows.config import RunConfig
from flows.log import logger
from flows.nightly.files import PIN, Kept, Record, RecordError, promoted_folder, read_record, share, write_whole
from flows.stages.data import POOL
from flows.stages.influence import WARMUP_CODE, warmup
from flows.stages.outside import external_digest
from flows.store import StageOutput, StageStore, source_digest
from flows.store.digests import value_digest
from train.encoding import Encoded

BATCH_ROWS = 4096
FIRST = "the first night of this name"


class Pin(Record):
    """A pinned warmup. encoded: the pool it was trained from; made_of: what else it depends on, name -> digest; why:
    the reason it was trained for, in words."""

    warmup: Kept
    encoded: Kept
    made_of: dict[str, str]
    why: str


def keep_warmup(config: RunConfig, store: StageStore, encoded: StageOutput) -> StageOutput:
    """The pinned warmup if it still fits tonight's configuration and pool; else one is trained, and pinned at once."""
    path = promoted_folder(store.root, config.name) / PIN
    made_of = _made_of(config)
    pin = read_pin(path)
    why = FIRST if pin is None else _outdated(config, store, pin, made_of, encoded)
    if pin is not None and why is None:
        found = store.find(pin.warmup.stage, pin.warmup.key)
        if found:
            logger.info("warmup: kept, so that only new rows cost a gradient (trained because of: %s)", pin.why)
            return found
        why = "the pinned one is gone from the store"
    logger.info("warmup: trained (%s); all gradients are computed with it", why)
    output = warmup(config, store, encoded)
    path.parent.mkdir(parents=True, exist_ok=True)
    pinned = Pin(
        warmup=Kept(stage=output.stage, key=output.key),
        encoded=Kept(stage=encoded.stage, key=encoded.key),
        made_of=made_of,
        why=str(why),
    )
    write_whole(path, pinned)
    share(store, path)
    return output


def read_pin(path: Path) -> Pin | None:
    """None where nothing is pinned, or nothing that this version can read: a warmup is only work."""
    if not path.exists():
        return None
    try:
        return read_record(path, Pin)
    except RecordError as error:
        logger.warning("the warmup is trained anew: %s", error)
        return None


def new_share(before: Path, now: Path) -> float:
    """Share of the encoded pool `now` whose content was not in `before`."""
    known = set(_contents(before))
    fresh = [key not in known for key in _contents(now)]
    return sum(fresh) / max(1, len(fresh))


def _made_of(config: RunConfig) -> dict[str, str]:
    """What a warmup depends on other than the pool's rows."""
    return {
        "model": value_digest(external_digest(config.model)),
        "settings": value_digest(config.warmup.model_dump(mode="json")),
        "seed": str(config.seed),
        "max_length": str(config.max_length),
        "code": source_digest(WARMUP_CODE),
    }


def _outdated(
    config: RunConfig, store: StageStore, pin: Pin, made_of: dict[str, str], encoded: StageOutput
) -> str | None:
    """Why the pinned warmup does not fit any more; None where it does."""
    others = [name for name in made_of if made_of[name] != pin.made_of.get(name)]
    if others:
        return f"changed since the last one: {', '.join(others)}"
    if pin.encoded.key == encoded.key:
        return None
    then = store.find(pin.encoded.stage, pin.encoded.key)
    if then is None:
        return "the pool of the last one is gone from the store, so nobody can tell how much of tonight's is new"
    share = new_share(then.path / POOL, encoded.path / POOL)
    if share > config.promotion.rewarm_after:
        return f"{share:.0%} of the pool is new since the last one (promotion.rewarm_after)"
    return None


def _contents(pool: Path) -> Iterator[str]:
    """The content key of every row, read a part of the file at a time."""
    with pq.ParquetFile(pool) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["input_ids", "labels"]):
            for row in batch.to_pylist():
                yield row_key(Encoded("", "", row["input_ids"], row["labels"]))
