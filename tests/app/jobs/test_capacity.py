"""A job goes to a worker whose device it asks for, and whose memories hold it: the host's and the card's, each by itself."""

from typing import Any

import pytest
from sqlalchemy import update

from app.jobs import jobs, queue_forecast
from app.jobs.capacity import Capacity, find_lack, has_gpu_worker, live_capacities, placement_warnings
from app.store import broker
from app.store.clock import now
from app.store.models import Job, Worker
from tests.app.conftest import NewJob, SessionMaker

CPU, CARD = Capacity("cpu", 100), Capacity("cuda", 100, 40)


def taken(transaction: SessionMaker, capacity: Capacity) -> str | None:
    with transaction() as session:
        claim = jobs.claim(session, "w", 30.0, capacity)
    return claim.job.id if claim is not None else None


@pytest.mark.parametrize(
    ("job", "cpu", "card"),
    [
        ({}, True, True),
        ({"device": "cpu"}, True, False),
        ({"device": "cuda"}, False, True),
        ({"memory_bytes": 101}, False, False),  # of before: its need beside a card is not known
        ({"memory_bytes": 101, "card_bytes": 40, "host_bytes_with_card": 10}, False, True),
        ({"memory_bytes": 50, "card_bytes": 41, "host_bytes_with_card": 10}, True, False),
        ({"memory_bytes": 50, "card_bytes": 10, "host_bytes_with_card": 101}, True, False),
        ({"memory_bytes": 100, "card_bytes": 40, "host_bytes_with_card": 100}, True, True),
        ({"device": "cuda", "memory_bytes": 1, "card_bytes": 41, "host_bytes_with_card": 1}, False, False),
    ],
)
def test_device_and_memories_are_matched_apart(
    job: dict[str, Any], cpu: bool, card: bool, transaction: SessionMaker, new_job: NewJob
) -> None:
    for capacity, fits in ((CPU, cpu), (CARD, card)):
        made = new_job(**job)
        assert (find_lack(made, [capacity]) is None) == fits
        with transaction() as session:
            assert jobs.has_waiting_job(session, capacity) == fits
        assert taken(transaction, capacity) == (made.id if fits else None)
        with transaction() as session:
            session.execute(update(Job).values(state="cancelled"))


def test_a_job_of_several_devices_goes_to_a_worker_that_has_as_many(transaction: SessionMaker, new_job: NewJob) -> None:
    cores, cards = Capacity("cpu", 100, devices=8), Capacity("cuda", 100, 40, devices=4)
    made = new_job(devices=4, device="cuda")
    for capacity in (CPU, CARD, cores):
        assert find_lack(made, [capacity]) == "device"
        assert taken(transaction, capacity) is None
    (warning,) = placement_warnings(made, [CARD, cores])
    assert warning.startswith(
        "device_absent: the job waits, because it wants 4 devices, and no online worker for it has more than 1."
    )
    assert find_lack(made, [cards]) is None
    assert taken(transaction, cards) == made.id
    assert Capacity.of({**facts("cuda", 100, 40), "train_devices": 4}) == cards
    assert Capacity.of({"memory_bytes": 100, "train_devices": 8}) == cores
    assert taken(transaction, cards) is None
    one = new_job()
    assert taken(transaction, cards) == one.id  # a job of one device may have a worker of several


def test_a_job_for_a_card_stops_no_other_of_its_team(transaction: SessionMaker, new_job: NewJob) -> None:
    first, second = new_job(device="cuda", priority=9), new_job()
    assert taken(transaction, CPU) == second.id
    assert taken(transaction, CARD) == first.id


def facts(kind: str, memory: int, card: int = 0, **more: Any) -> dict[str, Any]:
    return {"memory_bytes": memory, "device": {"kind": kind, "memory_bytes": card or memory, **more}}


def test_the_queue_tells_whether_device_or_memory_is_missing(transaction: SessionMaker, new_job: NewJob) -> None:
    card, large, plain = new_job(device="cuda"), new_job(memory_bytes=101, card_bytes=50, host_bytes_with_card=5), new_job()

    def missing() -> list[str | None]:
        with transaction() as session:
            found = queue_forecast.find_positions(session, [session.get_one(Job, job.id) for job in (card, large, plain)])
            return [found[job.id].waits_for for job in (card, large, plain)]

    def add(name: str, what: dict[str, Any], silent: float = 0.0) -> None:
        with transaction() as session:
            session.add(Worker(id=name, kind="jobs", host="h", pid=1, facts=what, seen_at=now(-silent)))

    assert missing() == ["worker"] * 3
    add("cpu", facts("cpu", 100))
    assert missing() == ["device", "memory", None]
    add("gone", facts("cuda", 100, 80), silent=3600)
    add("broken", facts("cuda", 100, 80, lost="Xid 79"))
    assert missing() == ["device", "memory", None]
    add("card", facts("cuda", 100, 40))
    assert missing() == [None, "memory", None]
    add("larger", facts("cuda", 100, 50))
    assert missing() == [None, None, None]


def test_facts_say_what_is_offered() -> None:
    assert Capacity.of({"memory_bytes": 7}) == Capacity("cpu", 7)  # a worker of before
    assert Capacity.of({}) == Capacity("cpu")
    assert Capacity.of(facts("cuda", 100, 40)) == CARD
    assert Capacity.of(facts("cuda", 100, 40, lost="Xid 79")) is None


def test_a_warning_names_what_no_worker_has(new_job: NewJob) -> None:
    wants, large = new_job(device="cuda"), new_job(memory_bytes=101)
    assert placement_warnings(wants, []) == []
    (device,), (memory,) = placement_warnings(wants, [CPU]), placement_warnings(large, [CPU])
    assert device.startswith("device_absent: ")
    assert "--device cuda:0" in device
    assert memory.startswith("memory_absent: ")
    assert placement_warnings(wants, [CPU, CARD]) == []


def test_wake_ups_reach_the_workers_of_cards_where_there_are_any(
    transaction: SessionMaker, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(
        broker, "wake_up_sender", lambda: type("Bell", (), {"send_soon": lambda _, target: sent.append(target)})()
    )
    new_job()
    assert sent == [broker.JOBS]  # nobody would take the others, and they would heap up
    with transaction() as session:
        session.add(Worker(id="card", kind="jobs", host="h", pid=1, facts=facts("cuda", 100, 40)))
    with transaction() as session:
        assert has_gpu_worker(session)
        assert live_capacities(session) == [CARD]
    sent.clear()
    new_job()
    assert sorted(sent) == [broker.JOBS, broker.GPU_JOBS]
    assert broker.task_name(broker.GPU_JOBS) == broker.task_name(broker.JOBS)
    assert broker.queue_name(broker.GPU_JOBS) != broker.queue_name(broker.JOBS)


def test_a_retry_asks_for_the_same_device(transaction: SessionMaker, new_job: NewJob) -> None:
    old = new_job(device="cuda", card_bytes=5, host_bytes_with_card=6)
    with transaction() as session:
        jobs.cancel(session, old.team_id, old.id)
        new = jobs.retry(session, old.team_id, old.id)
        assert (new.device, new.card_bytes, new.host_bytes_with_card) == ("cuda", 5, 6)
