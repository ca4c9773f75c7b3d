"""What each stage makes of the work and the machine's speed. The constants were measured on the demo, 2 CPU cores."""

from __future__ import annotations

from dataclasses import dataclass

from curate.selection.inputs import INPUTS
from flows.config import RunConfig
from flows.estimate.machine import Speed
from flows.estimate.workload import Workload
from train.settings import TrainingParts

PROCESS = 700 << 20  # bytes of a Python process with torch and transformers
RUN = 1100 << 20  # bytes of the run's own process, and of Prefect's temporary server beside it
TRAINING_START, ENGINE_START, REPORT = 12.0, 35.0, 4.5  # seconds
MODEL_START = 8.0  # seconds to merge and load one more model into the engine
ENGINE = 2800 << 20  # bytes of vLLM beside the model and its cache
PER_ROW = {"ingest": 3e-5, "clean": 1e-4, "encode": 3.5e-4, "select": 1e-5, "similarity": 3e-4, "analysis": 4.5e-4}
EXPORT = 1e-4  # seconds per exported row
FIGURES = 1e-3  # seconds per row counted
FIGURE_PASSES = 2.4  # over the tokens of the rows read: losses, embeddings, and the answers alone
# of a training step, per token; rows of one length stand together, so there is next to no padding
GRADIENT_PASS, FORWARD = 1.15, 0.3
PREFIX, REPLAY = 0.1, 0.1  # the coreset's selection pass, of a training step, per token; a replay for each direction
EXAMPLE = 6  # bytes in memory per byte of text
TOKEN = 8  # bytes on disk of a token with its label, compressed to about half
CHARACTERS = 4.0  # of a token
ITEM = 600  # bytes on disk of an item and a model: its values, and what the model said
ACTIVATIONS = 40  # values kept per token, layer and hidden unit for the backward pass
FLOAT = 4


@dataclass(frozen=True)
class StageCost:
    """seconds; memory: bytes at the peak, over all processes of the stage; disk: bytes left in the store."""

    stage: str
    seconds: float
    memory: float
    disk: float


def costs(config: RunConfig, work: Workload, speed: Speed, layers: int, hidden: int) -> list[StageCost]:
    """One entry per kind of stage, in the order of the run; stages that run several times are summed.

    layers, hidden: of the model. Memory is the largest of a stage's runs, as they come one after another.
    """
    arms, seeds, checkpoints = len(config.selection.methods), len(config.training_seeds()), config.warmup.checkpoints
    rate, weights = speed.seconds_per_token, FLOAT * work.parameters
    text = work.tokens * CHARACTERS
    pool_in_memory = RUN + EXAMPLE * text
    per_row = work.tokens / max(work.rows, 1)
    activations = FLOAT * ACTIVATIONS * layers * hidden
    at_once = _trained_at_once(config.finetune)
    training = RUN + PROCESS + weights + activations * at_once * work.padding(at_once) * per_row
    warm, tuned = config.warmup, config.finetune
    selected = work.selected * work.tokens
    kinds = {INPUTS[method] for method in config.selection.methods} - {"influence"}
    adapter = 4 * FLOAT * config.finetune.lora.r * hidden * 2 * layers
    models, scores = 1 + arms * seeds, work.rows * work.targets

    def by_rows(stage: str, times: int = 1, disk: float = 0.0) -> StageCost:
        return StageCost(stage, times * PER_ROW[stage] * work.rows, pool_in_memory, disk)

    found = [
        by_rows("ingest", disk=text / 2),
        by_rows("clean", disk=text / 2),
        by_rows("encode", disk=work.tokens * TOKEN / 2),
        StageCost(
            "warmup",
            TRAINING_START
            + rate * work.padding(warm.optimizer.rows_at_once) * work.tokens * warm.fraction * warm.optimizer.epochs,
            training,
            adapter * 3 * checkpoints,
        ),
        StageCost(
            "gradients",
            TRAINING_START + rate * GRADIENT_PASS * work.tokens * checkpoints,
            RUN + PROCESS + weights + activations * config.influence.tokens_per_batch + adapter * work.targets,
            _stored(config, work) * work.rows * checkpoints,
        ),
        StageCost(
            "attribution",
            0.15 + 1e-8 * work.rows * work.targets * checkpoints,
            RUN,
            FLOAT * work.rows * work.targets,
        ),
    ]
    if kinds:
        found.append(by_rows("similarity", len(kinds), FLOAT * scores * len(kinds)))
    return [
        *found,
        by_rows("select", arms, 100 * work.selected * work.rows * arms),
        StageCost("export", arms * EXPORT * work.selected * work.rows, pool_in_memory, text * work.selected * arms),
        by_rows("analysis", disk=100 * work.rows),
        StageCost(
            "figures",
            FIGURES * _sampled(work, config.figures.text_rows, arms)
            + rate * FORWARD * FIGURE_PASSES * per_row * _sampled(work, config.figures.rows, arms),
            RUN + weights,
            40 * _sampled(work, config.figures.rows, arms),
        ),
        StageCost(
            "finetune",
            arms * seeds * (TRAINING_START + rate * _steps_per_token(tuned, work) * selected * tuned.optimizer.epochs),
            training,
            arms * seeds * (adapter * 3 + weights),
        ),
        StageCost(
            "evaluate",
            ENGINE_START * bool(config.evaluation.tasks)
            + models * (MODEL_START + rate * FORWARD * (work.items * per_row + work.task_tokens)),
            RUN + (ENGINE if config.evaluation.tasks else 0) + weights,
            ITEM * models * work.items,
        ),
        StageCost("report", REPORT, pool_in_memory, 2 << 20),
    ]


def _trained_at_once(parts: TrainingParts) -> int:
    """Rows of one forward and backward pass."""
    return min(parts.optimizer.rows_at_once, parts.core_size)


def _steps_per_token(parts: TrainingParts, work: Workload) -> float:
    """What a drawn token costs, over what a training step costs per token of a batch without padding."""
    batch = parts.optimizer.batch_size
    trained = work.padding(_trained_at_once(parts)) * parts.core_size / batch
    if parts.coreset is None or parts.coreset.feature == "random":
        return trained
    replays = parts.coreset.directions if parts.coreset.feature == "spsa" else 1
    return trained + work.padding(batch) * (PREFIX + REPLAY * replays)


def _sampled(work: Workload, rows: int, arms: int) -> float:
    """Rows of the pool's sample and of every selection's."""
    return min(work.rows, rows) + arms * min(work.selected * work.rows, rows)


def _stored(config: RunConfig, work: Workload) -> int:
    """Bytes that the feature store keeps of a row and a checkpoint."""
    influence = config.influence
    if influence.mode == "exact":
        return work.targets * FLOAT
    return influence.dimension * {"float32": 4, "float16": 2, "int8": 1}[influence.stored_as]
