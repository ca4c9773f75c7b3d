"""What can be found out about a configuration before any work: does everything it names open, fit and load?

`flows.config` knows whether the settings are settings; this looks at what they point to. Every check runs, and all
problems come at once. Cost: the first rows of each source, the evaluation items, the headers of the weights and the
model's shape without its numbers; seconds, and no network for local paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from curate.records import DataError, Example
from curate.sources import SourceError, SourceSpec
from curate.sources.pool import MISSING_CAPABILITY, read_source
from eval.errors import EvaluationError
from eval.items import EvaluationItem, ItemError, read_items
from eval.tasks import TaskSpec, check_code, resolve
from flows.config import ConfigError, RunConfig

SAMPLED_ROWS = 256  # of each source
UNREADABLE = 0.5  # share of a sample that must fail before the source is called wrong; fewer are judged while reading


@dataclass
class Findings:
    """What the checks have opened, for whoever goes on with it. samples: the first good rows of each pool source;
    tokenizer, model: None where they could not be loaded; the model has shapes and no numbers."""

    problems: list[str] = field(default_factory=list)
    samples: list[list[Example]] = field(default_factory=list)
    targets: list[Example] = field(default_factory=list)
    items: list[EvaluationItem] = field(default_factory=list)
    tasks: list[TaskSpec] = field(default_factory=list)
    tokenizer: Any = None
    model: Any = None


def check(config: RunConfig, *, data: bool = True) -> Findings:
    """Everything found; `problems` is empty where the run can start. data: whether pool and targets are opened."""
    found = Findings()
    for each in (*((_pool, _targets) if data else ()), _items, _tasks, _tokenizer, _model):
        found.problems += each(config, found)
    return found


def checked(config: RunConfig, *, data: bool = True) -> Findings:
    """`check`, raising `ConfigError` with every problem."""
    found = check(config, data=data)
    if found.problems:
        listed = "\n".join(f"  - {problem}" for problem in found.problems)
        raise ConfigError(f"{len(found.problems)} problem(s)\n{listed}")
    return found


def _pool(config: RunConfig, found: Findings) -> Iterator[str]:
    for number, spec in enumerate(config.data.pool):
        rows, problem = _sample(spec)
        found.samples.append(rows)
        if problem:
            yield f"data.pool.{number}: {problem}"


def _targets(config: RunConfig, found: Findings) -> Iterator[str]:
    for number, spec in enumerate(config.data.targets):
        rows, problem = _sample(spec)
        found.targets += rows
        if problem:
            yield f"data.targets.{number}: {problem}"
        elif not any(row.capability for row in rows):
            yield f"data.targets.{number}: {spec.path}: {MISSING_CAPABILITY}"


def _sample(spec: SourceSpec) -> tuple[list[Example], str | None]:
    """The first good rows of a source, and why it cannot be used."""
    try:
        read = list(islice(read_source(spec), SAMPLED_ROWS))
    except (SourceError, DataError, OSError) as error:
        return [], str(error)
    rows = [row for row in read if isinstance(row, Example)]
    if not read:
        return [], f"no rows in {spec.path}; add data, or take the source out"
    bad = [row for row in read if not isinstance(row, Example)]
    if len(bad) > UNREADABLE * len(read):
        return rows, (
            f"{bad[0].origin}: {bad[0].reason}; so are {len(bad)} of the first {len(read)} rows. Is `shape` right?"
        )
    return rows, None


def _items(config: RunConfig, found: Findings) -> Iterator[str]:
    try:
        found.items = read_items(config.evaluation.items)
    except ItemError as error:
        yield f"evaluation.items: {error}"


def _tasks(config: RunConfig, found: Findings) -> Iterator[str]:
    evaluation = config.evaluation
    try:
        found.tasks = resolve(evaluation.tasks, evaluation.task_folder)
        check_code(found.tasks, evaluation.run_code)
    except EvaluationError as error:
        yield f"evaluation: {error}"


def _tokenizer(config: RunConfig, found: Findings) -> Iterator[str]:
    from train.models import ModelError, load_tokenizer

    try:
        found.tokenizer = load_tokenizer(config.model)
    except ModelError as error:
        yield f"model: {error}"
        return
    if not found.tokenizer.chat_template:
        yield (
            f"model: the tokenizer of {config.model!r} has no chat template, so conversations cannot be written as its "
            "text; add chat_template.jinja to the folder or choose the model's chat version"
        )


def _model(config: RunConfig, found: Findings) -> Iterator[str]:
    from train.models import ModelError, check_targets, load_shape

    if found.tokenizer is None:
        return  # told already
    try:
        found.model = load_shape(config.model)
    except ModelError as error:
        yield f"model: {error}"
        return
    longest = getattr(found.model.config, "max_position_embeddings", None)
    if longest and config.max_length > longest:
        yield f"max_length: {config.max_length} tokens are more than the model takes ({longest})"
    for key, lora in (("warmup.lora", config.warmup.lora), ("finetune.lora", config.finetune.lora)):
        try:
            check_targets(found.model, lora)
        except ModelError as error:
            yield f"{key}: {error}"
