"""What the device table decides for a job: once, before anything is trained, and the same in each attempt."""

import gc
from collections.abc import Generator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel, PreTrainedModel

from compression.engine.checkpoints import fingerprints
from compression.engine.dataset_run import DatasetRun
from compression.engine.pipeline import compress
from compression.engine.resolving import resolved
from compression.engine.stages.prune import aimed, plan_shape
from compression.export.device_table.measuring import conditions
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.device_choice import fastest_scheme
from compression.planning.device_times import ShapeTimes
from compression.schema.device_table import DeviceTable
from compression.schema.events import Event, RecipeResolved, StageStarted, Started
from compression.schema.job_spec import Resolved, Spec
from tests.compression.engine.test_smaller_job import TOKENS, write_model
from tests.support.device_tables import made_table
from tests.support.engine_jobs import spec_of
from tests.support.stage_runs import counts
from tests.support.tiny_bert import tiny_config, write_tokenizer

OPEN = {"quantize": {"scheme": "auto"}, "prune": {"ratio": 0.4, "multiple": "auto"}, "distill": None}


def decided(spec: Spec, base: Path) -> tuple[list[Event], Spec]:
    def ended() -> Generator[Event, None, None]:
        nonlocal found
        found = yield from resolved(spec, base)

    found = spec
    return list(ended()), found


@pytest.fixture
def spec(tmp_path: Path, encoder: Path, reviews: Path) -> Spec:
    table = made_table(lambda layer, *_: layer.work / (500 if layer.inputs % 8 else 1000), conditions(1))
    (tmp_path / "table.json").write_text(table.model_dump_json())
    return spec_of(encoder, reviews, recipe=OPEN, device_tables=["table.json"])


def test_the_table_decides_once_and_the_recipe_has_what_it_decided(spec: Spec, tmp_path: Path) -> None:
    (event,), found = decided(spec, tmp_path)
    assert isinstance(event, RecipeResolved)
    assert (event.resolved.scheme, event.resolved.multiple) == ("dynamic-int8", 8)  # equally fast: the first by name
    assert found.recipe.quantize.scheme == "dynamic-int8"
    assert found.recipe.prune.multiple == 8
    assert not found.recipe.is_open
    notes = DatasetRun.open(found, tmp_path, found.asked[0]).state.notes
    assert set(event.resolved.reasons) <= set(notes)
    assert decided(found, tmp_path) == ([], found)


def test_a_later_attempt_goes_on_with_what_an_earlier_one_decided(spec: Spec, tmp_path: Path) -> None:
    before = Resolved(scheme="static-int8", multiple=16, reasons=("It was so.",))
    events, found = decided(spec.model_copy(update={"resolved": before}), tmp_path)
    assert events == []
    assert (found.recipe.quantize.scheme, found.recipe.prune.multiple) == ("static-int8", 16)
    named = spec.model_copy(update={"recipe": spec.recipe.closed("static-int8", 16)})
    assert fingerprints(found, tmp_path) == fingerprints(named, tmp_path)
    assert fingerprints(found, tmp_path) != fingerprints(decided(spec, tmp_path)[1], tmp_path)


@pytest.mark.parametrize("prune", [None, {"axes": ["ffn", "vocabulary"], "target_params": 0.25, "multiple": 1}])
def test_it_decides_for_the_shape_that_the_job_ends_with(
    prune: dict[str, Any] | None, spec: Spec, reviews: Path, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    torch.manual_seed(0)
    BertModel(tiny_config(num_hidden_layers=1, intermediate_size=96, vocab_size=len(TOKENS))).save_pretrained(student)
    write_tokenizer(student, TOKENS)
    write_model(tmp_path / "model")  # with tokens that no text needs
    recipe = {**OPEN, "prune": prune, "distill": {} if prune is None else None}
    more = {"student": str(student)} if prune is None else {}
    spec = spec_of("model", reviews, recipe=recipe, device_tables=["table.json"], **more)
    (event,), found = decided(spec, tmp_path)
    state = DatasetRun.open(found, tmp_path, spec.asked[0]).state
    if found.recipe.prune is not None:
        shape = aimed(state.model, found.recipe, state.input_pruner, state.length)
        assert (
            shape.ffn != plan_shape(state.model, found.recipe.prune, counts(state.model))[1].ffn
        )  # as if the vocabulary stayed
    else:
        assert state.models.student is not None
        shape = state.models.student.shape
        assert (shape.layers, shape.ffn) == (1, 96)
    table = DeviceTable.model_validate_json((tmp_path / "table.json").read_bytes())
    times = ShapeTimes(table, ARCHITECTURE_SPECS["bert"], None, spec.evaluate.length, spec.evaluate.batch)
    assert f"{fastest_scheme(times, shape, ())[1]}." in event.resolved.reasons


@pytest.mark.fresh
def test_the_model_that_was_opened_to_decide_is_gone_before_the_job_opens_it(spec: Spec, tmp_path: Path) -> None:
    def models() -> int:
        return sum(issubclass(type(each), PreTrainedModel) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = models()
        decided(spec, tmp_path)
        assert models() == before
    finally:
        gc.enable()


def test_without_a_table_the_recipe_is_as_usual(spec: Spec, tmp_path: Path) -> None:
    plain: dict[str, Any] = {"device_tables": None}
    (event,), found = decided(spec.model_copy(update=plain), tmp_path)
    assert (found.recipe.quantize.scheme, found.recipe.prune.multiple) == ("dynamic-int8", 64)
    assert all("no " in reason for reason in event.resolved.reasons)
    named = spec.model_copy(update={"recipe": spec.recipe.closed(None, None)})
    assert decided(named, tmp_path) == ([], named)


def test_a_job_decides_before_its_first_stage(spec: Spec, tmp_path: Path) -> None:
    events = compress(spec, tmp_path)
    assert [type(event) for event in islice(events, 3)] == [Started, RecipeResolved, StageStarted]
    events.close()
