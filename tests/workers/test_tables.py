"""Error tables from the worker's side: kept with their job, given to later attempts and jobs, refused elsewhere."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.core.settings import Settings
from app.jobs import fencing, jobs, stage_results
from app.store import quotas
from app.store.db import reading, writing
from app.store.models import Dataset, Event, Job
from app.store.storage import open_storage
from compression.schema.events import Finished, TablesSaved
from compression.schema.job_spec import Spec
from compression.schema.report.report import File
from compression.schema.solved_search import MOST_JSON, MOST_ORDERS
from tests.client.figures import report
from tests.support.rows import do, submitted
from tests.workers.test_several import LAYOUT, claimed, file, listen
from workers.folders import Untrustworthy
from workers.job_inputs import input_bytes, write_inputs
from workers.sweeper import Sweeper

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
SEARCHES = {"prune": {"search": "solver"}}


def submit(**values: Any) -> Job:
    with writing() as session:
        job = submitted(session, **{"recipe": SEARCHES, **values})
        session.get_one(Dataset, job.dataset_id).data = LAYOUT
    return job


def again(job: Job, **values: Any) -> Job:
    """Submit a job of the same model and data."""
    own = {"model_id": job.model_id, "dataset_id": job.dataset_id, **values}
    with writing() as session:
        later = submitted(session, recipe=SEARCHES)
        session.execute(update(Job).where(Job.id == later.id).values(own))
    return later


def saved(folder: Path, *names: str, content: bytes = b"of tables") -> TablesSaved:
    place = folder / "out/checkpoints/tables"
    return TablesSaved(seconds=3.5, files=tuple(file(place, name, content) for name in names))


def spec_of(claim: fencing.Claim, folder: Path, settings: Settings) -> Spec:
    return Spec.model_validate_json(write_inputs(claim, folder, settings, open_storage(settings)).read_bytes())


def stored_tables(job: Job) -> list[dict[str, Any]]:
    with reading() as session:
        found = [row for row in stage_results.list_checkpoints(session, job.id) if row.stage == "tables"]
        return [each for row in found for each in row.files]


def finish(job: Job) -> None:
    with writing() as session:
        session.execute(update(Job).where(Job.id == job.id).values(state="succeeded"))


def test_a_later_attempt_on_another_worker_reads_what_the_first_computed(settings: Settings, tmp_path: Path) -> None:
    job, first, second = submit(), tmp_path / "1", tmp_path / "2"
    claim = claimed(settings, first)
    computed = saved(first, "state.json", "orders.safetensors")
    file(first / "out/checkpoints/tables", "solved.json", b"solved")
    solved = saved(first, "state.json", "orders.safetensors", "solved.json")
    listen(claim, first, settings, computed, solved)
    assert [each["path"] for each in stored_tables(job)] == ["state.json", "orders.safetensors", "solved.json"]
    with reading() as session:
        told = [row.data for row in session.query(Event).where(Event.job_id == job.id, Event.type == "tables_saved")]
    assert told == [{"part": "", "seconds": 3.5}] * 2
    do(jobs.release, claim)
    claim = claimed(settings, second)
    spec = spec_of(claim, second, settings)
    assert (spec.resume, spec.error_tables) == ("resume", ())
    assert (second / "resume/tables/state.json").read_bytes() == b"of tables"


def test_what_the_engine_writes_anew_meanwhile_is_told_of_by_the_next_event(settings: Settings, tmp_path: Path) -> None:
    """The worker may come to an event late: with a slow storage, or without its database for a while."""
    job, folder = submit(), tmp_path / "1"
    claim = claimed(settings, folder)
    saved(folder, "state.json", "orders.safetensors")
    first, last = (
        TablesSaved(seconds=3.5, files=(file(folder / "out/checkpoints/tables", "solved.json", content),))
        for content in (b"of the first round", b"of the last one")
    )
    listen(claim, folder, settings, first, last)
    (stored,) = stored_tables(job)
    assert stored == last.files[0].model_dump(mode="json")


def test_a_job_does_not_end_with_tables_that_no_event_told_of(settings: Settings, tmp_path: Path) -> None:
    submit()
    folder = tmp_path / "1"
    claim = claimed(settings, folder)
    only = saved(folder, "solved.json")
    saved(folder, "solved.json", content=b"another")
    with pytest.raises(Untrustworthy, match="solved"):
        listen(claim, folder, settings, only, Finished(report=report(rows=())))
    with pytest.raises(Untrustworthy, match="state"):
        listen(claim, folder, settings, saved(folder, "state.json").model_copy(update={"files": many("state.json").files}))


def test_tables_stay_with_an_ended_job_until_it_is_deleted(settings: Settings, tmp_path: Path) -> None:
    job, storage = submit(), open_storage(settings)
    claim = claimed(settings, tmp_path / "1")
    listen(claim, tmp_path / "1", settings, saved(tmp_path / "1", "state.json"))
    do(stage_results.record_training, claim, f"jobs/{job.id}/1/checkpoints/training-1", [], {"step": 1})
    finish(job)
    sweeper = Sweeper(settings, storage)
    sweeper.round()
    assert [stored.key for stored in storage.objects(f"jobs/{job.id}/")] == [f"jobs/{job.id}/1/checkpoints/tables/state.json"]
    with reading() as session:
        assert [row.stage for row in stage_results.list_checkpoints(session, job.id)] == ["tables"]
    do(jobs.delete_job, job.team_id, job.id)
    sweeper.round()
    assert list(storage.objects(f"jobs/{job.id}/")) == []
    assert stored_tables(job) == []


def test_a_later_job_of_the_same_model_and_data_is_given_them_and_no_other_is(settings: Settings, tmp_path: Path) -> None:
    job, later = submit(), tmp_path / "2"
    claim = claimed(settings, tmp_path / "1")
    listen(claim, tmp_path / "1", settings, saved(tmp_path / "1", "state.json"))
    finish(job)
    again(job)
    claim = claimed(settings, later)
    assert input_bytes(claim.job) == len(b"of tables")
    spec = spec_of(claim, later, settings)
    assert (spec.resume, spec.error_tables) == (None, ("tables-0",))
    assert (later / "tables-0/tables/state.json").read_bytes() == b"of tables"
    finish(claim.job)
    for number, values in enumerate(({"recipe": {"prune": {"ratio": 0.5}}}, {"model_id": submit().model_id}), 3):
        with writing() as session:
            session.execute(update(Job).where(Job.state == "queued").values(state="cancelled"))
        again(job, **values)
        claim = claimed(settings, tmp_path / str(number))
        assert spec_of(claim, tmp_path / str(number), settings).error_tables == ()
        finish(claim.job)
    do(jobs.delete_job, job.team_id, job.id)
    again(job)
    assert spec_of(claimed(settings, tmp_path / "9"), tmp_path / "9", settings).error_tables == ()


def test_equal_tables_are_offered_once_so_that_copies_hide_no_others(settings: Settings, tmp_path: Path) -> None:
    first = submit()
    claim = claimed(settings, tmp_path / "0")
    listen(claim, tmp_path / "0", settings, saved(tmp_path / "0", "state.json", content=b"others"))
    finish(first)
    for number in range(1, stage_results.MOST_OFFERED + 2):
        again(first)
        claim = claimed(settings, tmp_path / str(number))
        listen(claim, tmp_path / str(number), settings, saved(tmp_path / str(number), "state.json"))
        finish(claim.job)
    again(first)
    claim = claimed(settings, tmp_path / "later")
    spec = spec_of(claim, tmp_path / "later", settings)
    offered = [(tmp_path / "later" / name / "tables/state.json").read_bytes() for name in spec.error_tables]
    assert offered == [b"of tables", b"others"]


def test_a_worker_that_dies_between_bytes_and_row_leaves_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, storage = submit(), open_storage(settings)
    claim = claimed(settings, tmp_path / "1")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stage_results, "record_tables", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        listen(claim, tmp_path / "1", settings, saved(tmp_path / "1", "state.json"))
    assert len(list(storage.objects(f"jobs/{job.id}/"))) == 1
    do(jobs.release, claim)
    claim = claimed(settings, tmp_path / "2")
    Sweeper(settings, storage).round()
    assert list(storage.objects(f"jobs/{job.id}/")) == []
    assert spec_of(claim, tmp_path / "2", settings).resume is None


def test_tables_count_in_the_bytes_of_their_team(settings: Settings, tmp_path: Path) -> None:
    job = submit()
    with reading() as session:
        before = {one.name: one.used for one in quotas.list_quotas(session, job.team_id).items}["bytes_stored"]
    claim = claimed(settings, tmp_path / "1")
    listen(claim, tmp_path / "1", settings, saved(tmp_path / "1", "state.json"))
    with reading() as session:
        after = {one.name: one.used for one in quotas.list_quotas(session, job.team_id).items}["bytes_stored"]
    assert after - before == len(b"of tables")


def many(*names: str, **changes: Any) -> TablesSaved:
    files = tuple(File(**{"path": name, "size": 1, "sha256": "0" * 64, **changes}) for name in names)
    return TablesSaved(seconds=1.0, files=files)


@pytest.mark.parametrize(
    "event",
    [
        many("weights.bin"),
        many("state.json", "state.json"),
        many("other/state.json"),
        many("state.json", size=MOST_JSON + 1),
        many("orders.safetensors", size=MOST_ORDERS + 1),
        many("state.json").model_copy(update={"part": "mood"}),
    ],
)
def test_tables_that_a_job_cannot_have_are_refused(settings: Settings, tmp_path: Path, event: TablesSaved) -> None:
    job = submit()
    claim = claimed(settings, tmp_path / "1")
    with pytest.raises(Untrustworthy):
        listen(claim, tmp_path / "1", settings, event)
    assert stored_tables(job) == []


def test_a_job_that_searches_for_no_widths_has_no_tables(settings: Settings, tmp_path: Path) -> None:
    submit(recipe={"prune": {"ratio": 0.5}})
    claim = claimed(settings, tmp_path / "1")
    with pytest.raises(Untrustworthy, match="does not ask for"):
        listen(claim, tmp_path / "1", settings, saved(tmp_path / "1", "state.json"))


def test_a_stale_claim_stores_no_tables(settings: Settings, tmp_path: Path) -> None:
    job = submit()
    stale = claimed(settings, tmp_path / "1")
    do(jobs.release, stale)
    claimed(settings, tmp_path / "2")
    with pytest.raises(fencing.StaleFence):
        do(stage_results.record_tables, stale, None, "jobs/x", [], {})
    assert stored_tables(job) == []
