"""train.settings: what is refused before a run starts, and what survives the trip through a job file."""

import pytest
from pydantic import ValidationError

from train.settings import (
    CoresetSettings,
    LoraSettings,
    MixtureSettings,
    OptimizerSettings,
    ReweightingSettings,
    TrainJob,
)

JOB = {"model": "m", "data": "d.parquet", "output": "out"}


def test_job_file_round_trip():
    job = TrainJob(
        **JOB,
        lora=LoraSettings(targets="all-linear"),
        optimizer=OptimizerSettings(batch_size=8, micro_batch_size=2),
        mixture=MixtureSettings(),
        reweighting=ReweightingSettings(strategy="quadratic", cap=None),
        coreset=CoresetSettings(),
        checkpoints=4,
    )
    assert TrainJob.model_validate_json(job.model_dump_json()) == job


def test_reweighting_needs_a_batch():
    with pytest.raises(ValidationError, match="batch_size 1 has one"):
        TrainJob(**JOB, reweighting=ReweightingSettings(), optimizer=OptimizerSettings(batch_size=1))
    assert TrainJob(**JOB, reweighting=ReweightingSettings(), optimizer=OptimizerSettings(batch_size=2)).reweighting


def test_coreset_must_leave_an_example():
    with pytest.raises(ValidationError, match="leaves no example"):
        TrainJob(**JOB, coreset=CoresetSettings(ratio=0.2), optimizer=OptimizerSettings(batch_size=4))
    assert TrainJob(**JOB, coreset=CoresetSettings(ratio=0.25), optimizer=OptimizerSettings(batch_size=4)).coreset


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer", {"batchsize": 4}),
        ("optimizer", {"learning_rate": 0}),
        ("reweighting", {"strategy": "upper"}),
        ("reweighting", {"cap": 0.5}),
        ("coreset", {"ratio": 1.5}),
        ("lora", {"dropout": 1.0}),
        ("max_length", 4),
        ("unknown", 1),
    ],
)
def test_wrong_values_are_named(field, value):
    with pytest.raises(ValidationError) as caught:
        TrainJob(**JOB, **{field: value})
    place = caught.value.errors()[0]["loc"]
    assert place[0] == field
    assert not isinstance(value, dict) or place[1] in value


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        TrainJob(**JOB).seed = 1


def test_every_field_is_described():
    nested = (LoraSettings, OptimizerSettings, MixtureSettings, ReweightingSettings, CoresetSettings)
    for model in nested:
        assert all(field.description for field in model.model_fields.values())


def test_infinite_temperatures_survive_the_job_file():
    job = TrainJob(
        **JOB, mixture=MixtureSettings(start=float("inf")), reweighting=ReweightingSettings(temperature=float("inf"))
    )
    assert TrainJob.model_validate_json(job.model_dump_json()) == job
