"""Questions to a job's models: asked within bounds, answered once, and never by two."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.core.errors import InvalidRequest, NotFound, NothingToTry, Problem, ReportNotReady, TooManyTries
from app.jobs import jobs, predictions
from app.store.clock import now
from app.store.models import Dataset, Job, JobDataset, Prediction
from compression.schema.prediction_request import Question
from tests.app.conftest import SessionMaker
from tests.support.rows import ready, submitted, team

ANSWERS = {"answers": "both"}
GOOD = Question(text="good")


def facts(task: str, **rows: int) -> dict[str, Any]:
    return {"task": task, "labels": [], "rows": rows, "label_counts": {}, "mean_words": 1.0, "longest_words": 1}


def finished(session: Session, task: str = "text-classification", **data: Any) -> Job:
    job = submitted(session)
    dataset = session.get_one(Dataset, job.dataset_id)
    dataset.task, dataset.data, dataset.facts = task, data, facts(task, train=9, test=3)
    claim = jobs.claim(session, "w", 60)
    assert claim is not None
    jobs.finish(session, claim, {"headline": "int8"}, [])
    session.refresh(job)
    return job


def refused(session: Session, job: Job, problem: type[Problem], question: Question, part: str = "") -> Problem:
    with pytest.raises(problem) as error:
        predictions.create(session, job.team_id, job.id, part, question)
    return error.value


def test_a_question_is_what_the_task_reads(transaction: SessionMaker) -> None:
    accepted = {
        "text-classification": [GOOD, Question(row=2)],
        "text-pair-classification": [Question(text="a", text_pair="b")],
        "token-classification": [Question(tokens=("a", "b")), Question(text="a b")],
        "question-answering": [Question(question="a", context="b"), Question(row=8, split="train")],
    }
    wrong = {
        "text-classification": [(Question(), "text"), (Question(text="a", context="b"), "context"), (Question(row=3), "row")],
        "text-pair-classification": [(GOOD, "text_pair")],
        "token-classification": [(Question(question="a"), "tokens")],
        "question-answering": [(Question(question="a"), "context"), (Question(row=0, question="a"), "row")],
    }
    for task, questions in accepted.items():
        with transaction() as session:
            job = finished(session, task)
            for question in questions:
                row = predictions.create(session, job.team_id, job.id, "", question)
                assert Question.model_validate(row.asked) == question
            for question, param in wrong[task]:
                assert refused(session, job, InvalidRequest, question).param == param
            session.execute(update(Prediction).values(state="succeeded", created_at=now(-100)))
    with transaction() as session:
        paired = finished(session, "text-regression", columns={"text_pair": "second"})
        assert refused(session, paired, InvalidRequest, GOOD).param == "text_pair"
        refused(session, finished(session, "causal-lm"), NothingToTry, GOOD)
        session.info.pop("wake", None)


def test_only_a_finished_job_of_ones_own_is_asked(transaction: SessionMaker) -> None:
    with transaction() as session:
        job = finished(session)
        refused(session, submitted(session), ReportNotReady, GOOD)
        stranger = team(session, "strangers")
        with pytest.raises(NotFound):
            predictions.create(session, stranger.id, job.id, "", GOOD)
        row = predictions.create(session, job.team_id, job.id, "", GOOD)
        assert predictions.get(session, job.team_id, job.id, row.id).id == row.id
        with pytest.raises(NotFound):
            predictions.get(session, stranger.id, job.id, row.id)
        jobs.delete_job(session, job.team_id, job.id)
        with pytest.raises(NotFound):
            predictions.get(session, job.team_id, job.id, row.id)


def test_of_several_datasets_one_is_asked(transaction: SessionMaker) -> None:
    with transaction() as session:
        job = finished(session)
        _, other = ready(session, team(session))
        other.facts = facts("text-classification", train=1)
        session.add_all(
            JobDataset(job_id=job.id, position=place, dataset_id=one, name=name)
            for place, (one, name) in enumerate(((job.dataset_id, "a"), (other.id, "b")))
        )
        session.flush()
        session.refresh(job)
        assert refused(session, job, InvalidRequest, GOOD).param == "part"
        assert predictions.create(session, job.team_id, job.id, "b", GOOD).part == "b"
        assert predictions.find_dataset(job, "b") == other.id


def test_a_team_asks_so_much_at_once(transaction: SessionMaker) -> None:
    with transaction() as session:
        job = finished(session)
        for _ in range(predictions.MOST_WAITING):
            predictions.create(session, job.team_id, job.id, "", GOOD)
        assert refused(session, job, TooManyTries, GOOD).all_headers["Retry-After"]
        for _ in range(predictions.MOST_WAITING):
            row = predictions.claim(session, 60)
            predictions.finish(session, row, result=ANSWERS)
        for _ in range(predictions.MOST_A_MINUTE - predictions.MOST_WAITING):
            row = predictions.create(session, job.team_id, job.id, "", GOOD)
            row.state = "succeeded"
            session.flush()
        refused(session, job, TooManyTries, GOOD)
        session.execute(update(Prediction).values(created_at=now(-61)))
        predictions.create(session, job.team_id, job.id, "", GOOD)


def test_those_who_ask_at_the_same_moment_get_no_more(transaction: SessionMaker) -> None:
    with transaction() as session:
        job = finished(session)
        session.info.pop("wake", None)
    together = Barrier(3 * predictions.MOST_WAITING)

    def ask() -> bool:
        with transaction() as session:
            if session.get_bind().dialect.name == "postgresql":  # in SQLite one writes at a time
                jobs.get(session, job.team_id, job.id)
                together.wait(60)
            try:
                predictions.create(session, job.team_id, job.id, "", GOOD)
            except TooManyTries:
                return False
            session.info.pop("wake", None)
            return True

    with ThreadPoolExecutor(together.parties) as pool:
        asked = [pool.submit(ask) for _ in range(together.parties)]
        assert [one.result() for one in asked].count(True) == predictions.MOST_WAITING


def test_a_question_is_answered_once_though_its_worker_is_lost(transaction: SessionMaker) -> None:
    with transaction() as session:
        job = finished(session)
        first, second = (predictions.create(session, job.team_id, job.id, "", Question(text=text)).id for text in ("a", "b"))
        lost = predictions.claim(session, -1)
        assert (lost.id, lost.attempt, predictions.has_waiting_prediction(session)) == (first, 1, True)
        session.expunge(lost)
        again = predictions.claim(session, 60)
        assert (again.id, again.attempt) == (first, 2)
        assert not predictions.finish(session, lost, result={"answers": "of a zombie"})
        assert predictions.finish(session, again, result=ANSWERS)
        session.refresh(again)
        assert (again.state, again.result, again.lease_until) == ("succeeded", ANSWERS, None)

        for _ in range(predictions.MAX_ATTEMPTS):
            assert (row := predictions.claim(session, -1)) is not None
            assert row.id == second
        assert predictions.claim(session, 60) is None
        given_up = predictions.get(session, job.team_id, job.id, second)
        session.refresh(given_up)
        assert given_up.state == "failed"
        assert given_up.error["code"] == "answer_failed"
        assert not predictions.has_waiting_prediction(session)


def test_a_file_that_was_asked_about_is_forgotten_with_the_answer(transaction: SessionMaker) -> None:
    with transaction() as session:
        job = finished(session, "image-classification")
        row = predictions.create(session, job.team_id, job.id, "", Question(image="AAAA"))
        assert row.asked["image"] == "AAAA"
        claimed = predictions.claim(session, 60)
        assert predictions.finish(session, claimed, result=ANSWERS)
        session.refresh(row)
        assert row.asked == {"split": "test"}
