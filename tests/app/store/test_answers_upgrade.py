"""Answers to rows of the data across the migration that lets them go with the dataset, on both databases."""

import json
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from app.jobs.jobs import whole_report
from app.store.models import Artifact, Job
from tests.app.conftest import NewJob, SessionMaker
from tests.client.figures import sampled
from tests.support.migrations import migrate


def test_answers_go_to_the_samples_or_with_them_and_come_back(
    engine: Engine, transaction: SessionMaker, new_job: NewJob
) -> None:
    shown, deleted = new_job(), new_job()
    whole: dict[str, Any] = sampled().model_dump(mode="json")
    before, rows = {**whole, "samples": []}, {"": whole["samples"]}
    with transaction() as session:
        for job, samples in ((shown, rows), (deleted, None)):
            found = session.get_one(Job, job.id)
            found.report, found.samples, found.state = before, samples, "succeeded"
            facts = {name: value for name, value in whole["artifacts"][0].items() if name != "files"}
            session.add(Artifact(job_id=job.id, fence=1, name="int8", facts=facts))
    migrate(engine, "0022", down=True)
    migrate(engine, "head")
    with pytest.raises(DBAPIError, match="outcome of a job is final"), engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET report = NULL WHERE id = :id"), {"id": shown.id})
    with transaction() as session:
        kept, gone = (session.get_one(Job, job.id) for job in (shown, deleted))
        assert whole_report(kept) == whole
        for job in (kept, gone):
            assert [one["answers"] for one in job.report["artifacts"]] == [[], []]
        assert gone.samples is None
        assert all("answers" not in one.facts for one in session.query(Artifact).where(Artifact.job_id == shown.id))
    migrate(engine, "0022", down=True)
    with engine.begin() as connection:
        report, samples = connection.execute(text("SELECT report, samples FROM jobs WHERE id = :id"), {"id": shown.id}).one()
    parsed = [json.loads(one) if isinstance(one, str) else one for one in (report, samples)]
    assert parsed == [before, rows]
    migrate(engine, "head")
