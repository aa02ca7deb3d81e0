"""Device tables from the worker's side: what an engine is given, and what is stored of what it measured."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from app.core.failures import describe_failure
from app.core.settings import Settings
from app.jobs import device_tables, fencing, jobs
from app.store.db import reading, writing
from app.store.models import Dataset, Job
from app.store.storage import open_storage
from compression.schema.device_table import DeviceTable
from compression.schema.events import DeviceTableMeasured, RecipeResolved
from compression.schema.job_spec import Resolved, Spec
from compression.system.processor import possible_instructions, processor, runtime_versions
from tests.support.device_tables import HERE, made_table
from tests.support.rows import submitted
from tests.workers.test_several import LAYOUT, Telling, claimed, follow
from workers.attempt_ends import Crashed
from workers.folders import Untrustworthy
from workers.job_inputs import write_inputs

AIMED = {"prune": {"target_latency": {"speed_up": 2}}}
OURS = HERE.model_copy(update={"processor": processor(), "instructions": "DEFAULT", "runtimes": runtime_versions()})


def attempt(settings: Settings, place: Path, **values: Any) -> tuple[fencing.Claim, tuple[str, ...] | None]:
    """Submit a job and claim it; return which tables its engine is given."""
    with writing() as session:
        job = submitted(session, **values)
        session.get_one(Dataset, job.dataset_id).data = LAYOUT
    claim = claimed(settings, place)
    spec = write_inputs(claim, place, settings, open_storage(settings))
    return claim, Spec.model_validate_json(spec.read_bytes()).device_tables


def tell(claim: fencing.Claim, place: Path, settings: Settings, table: DeviceTable) -> None:
    with pytest.raises(Crashed):  # for there is no report
        follow(claim, place, open_storage(settings), settings, Telling(DeviceTableMeasured(table=table)))


def test_what_one_engine_measures_later_ones_of_its_conditions_are_given(settings: Settings, tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    claim, given = attempt(settings, first, recipe=AIMED)
    assert given == ()
    table = made_table(conditions=OURS)
    tell(claim, first, settings, table)
    later = table.model_copy(update={"rows": table.rows[:1]})
    tell(claim, first, settings, later)  # of the same conditions: the first stays
    older = later.model_copy(update={"conditions": OURS.model_copy(update={"runtimes": {"onnxruntime": "0"}})})
    with writing() as session:  # as a worker with other versions
        device_tables.store(session, claim, older)
    _, given = attempt(settings, second, recipe=AIMED)
    assert given is not None
    found = [DeviceTable.model_validate_json((second / name).read_bytes()) for name in given]
    assert sorted(len(one.rows) for one in found) == [1, len(table.rows)]
    assert table.rows in [one.rows for one in found]
    with reading() as session:
        listed = device_tables.list_tables(session)
        assert {one.worker for one in listed} == {"w"}
        assert {one.facts["rows"] for one in listed} == {1, len(table.rows)}
        whole = {one.id: device_tables.get_table(session, one.id) for one in listed}
        assert table.rows in [one.rows for one in whole.values()]
        # By the database's clock: whatever the engine says, no table is older or newer than its job.
        begun = session.get_one(Job, claim.job.id).started_at
        for one in listed:
            assert begun <= one.measured_at == whole[one.id].measured_at <= begun + dt.timedelta(minutes=10)
    assert attempt(settings, tmp_path / "3", recipe=AIMED, evaluate={"threads": 2})[1] == ()
    assert attempt(settings, tmp_path / "4")[1] is None


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_what_a_table_decided_is_given_to_later_attempts(settings: Settings, tmp_path: Path) -> None:
    claim, given = attempt(settings, tmp_path / "1", recipe={"quantize": {"scheme": "auto"}})
    assert given == ()
    decided = Resolved(scheme="static-int8", reasons=("It is faster.",))
    with pytest.raises(Crashed):
        told = Telling(RecipeResolved(resolved=decided))
        follow(claim, tmp_path / "1", open_storage(settings), settings, told)
    with writing() as session:
        row = session.get_one(Job, claim.job.id)
        jobs.retry_or_fail(session, claim, describe_failure("engine_crashed"), max_failures=3, backoff_seconds=0)
        assert row.recipe == {"quantize": {"scheme": "auto"}}  # as it was asked for
    again = claimed(settings, tmp_path / "2")
    assert again.job.id == claim.job.id
    path = write_inputs(again, tmp_path / "2", settings, open_storage(settings))
    assert Spec.model_validate_json(path.read_bytes()).resolved == decided


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "other",
    [
        {"processor": "Made 1"},
        {"threads": 7},
        {"runtimes": {**OURS.runtimes, "onnxruntime": "9"}},
        {"runtimes": {**OURS.runtimes, "another": "9"}},
        pytest.param({"instructions": "AVX4096"}, marks=pytest.mark.skipif(possible_instructions() is None, reason="not x86")),
    ],
)
def test_a_table_of_another_machine_is_not_believed(settings: Settings, tmp_path: Path, other: dict[str, Any]) -> None:
    claim, _ = attempt(settings, tmp_path / "1", recipe=AIMED)
    table = made_table(conditions=OURS.model_copy(update=other))
    with pytest.raises(Untrustworthy):
        follow(claim, tmp_path / "1", open_storage(settings), settings, Telling(DeviceTableMeasured(table=table)))
    with reading() as session:
        assert device_tables.list_tables(session) == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("recipe", "times"), [(AIMED, 2), ({"prune": {"ratio": 0.5}}, 1)])
def test_no_attempt_stores_more_tables_than_its_recipe_reads(
    settings: Settings, tmp_path: Path, recipe: dict[str, Any], times: int
) -> None:
    claim, _ = attempt(settings, tmp_path / "1", recipe=recipe)
    told = [DeviceTableMeasured(table=made_table(conditions=OURS))] * times
    with pytest.raises(Untrustworthy, match="device table"):
        follow(claim, tmp_path / "1", open_storage(settings), settings, Telling(*told))
    with reading() as session:
        assert len(device_tables.list_tables(session)) == times - 1
