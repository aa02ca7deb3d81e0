"""What several devices cannot do is refused by its key, before a job is accepted and before an engine trains."""

from pathlib import Path
from typing import Any

import pytest

from compression.engine.pipeline import training_processes
from compression.planning.sharded_rules import check_sharded
from compression.schema.errors import InvalidSpec
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import Recipe

UNTRAINED: dict[str, Any] = {"prepare": {"epochs": 0}, "quantize": {"qat": None}, "prune": None, "distill": None}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("train.optimizer", {"train": {"optimizer": "adamw-8bit"}}),
    ("train.compile", {"train": {"compile": "on"}}),
    ("train.devices", {**UNTRAINED, "prune": {"ratio": 0.5, "recovery": None}}),
    ("train.devices", {**UNTRAINED, "prune": {"recovery": {"epochs": 0}}}),
    ("train.devices", {**UNTRAINED, "quantize": {"qat": {"full": 0, "ramp": 0, "quantized": 0}}}),
    ("distill.teachers.precision", {"distill": {"teachers": {"precision": "int8"}}}),
]


def recipe(devices: int, asked: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({**asked, "train": {**asked.get("train", {}), "devices": devices}})


@pytest.mark.parametrize(("key", "asked"), REFUSED)
def test_what_several_devices_cannot_do_is_refused_by_its_key(key: str, asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as refused:
        check_sharded(recipe(2, asked))
    assert refused.value.param == f"recipe.{key}"
    assert "train.devices to 1" in (refused.value.remedy_text or "")
    check_sharded(recipe(1, asked))
    spec = Spec.model_construct(recipe=recipe(2, asked), output="out")
    with pytest.raises(InvalidSpec), training_processes(spec, tmp_path):
        pass


def test_what_the_engine_decides_by_itself_is_not_refused() -> None:
    check_sharded(recipe(2, {"train": {"micro_batch": "auto", "checkpointing": "on", "compile": "off"}}))
    check_sharded(recipe(2, {"distill": {"teachers": {"precision": "auto"}}}))


@pytest.mark.parametrize(
    "trained",
    [{"prepare": {"epochs": 1}}, {"quantize": {"qat": {"full": 1}}}, {"prune": {"recovery": {"epochs": 1}}}, {"distill": {}}],
)
def test_one_stage_that_trains_is_enough_for_several_devices(trained: dict[str, Any]) -> None:
    check_sharded(recipe(2, {**UNTRAINED, **trained}))
