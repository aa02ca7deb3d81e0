"""What the device table decides for a job: once, before anything is trained, and the same in each attempt."""

from collections.abc import Generator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from compression.engine.checkpoints import fingerprints
from compression.engine.dataset_run import DatasetRun
from compression.engine.pipeline import compress
from compression.engine.resolving import resolved
from compression.export.device_table.measuring import conditions
from compression.schema.events import Event, RecipeResolved, StageStarted, Started
from compression.schema.job_spec import Resolved, Spec
from tests.support.device_tables import made_table
from tests.support.engine_jobs import spec_of

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
