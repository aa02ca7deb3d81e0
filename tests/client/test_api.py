"""Requests over a network that is not to be relied on: each call of both clients arrives once, or says why it did not."""

import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi.responses import JSONResponse, Response

from app.jobs.request import JobCreate
from client.api import AsyncLathe, Lathe
from client.core.fields import JobFields
from client.core.protocol import pause
from client.errors import REFUSED, BadAnswer, Problem, Unreachable
from tests.client.conftest import Live, served
from tests.client.flaky import Flaky, event
from tests.client.halves import HALVES
from tests.conftest import free_port


@pytest.fixture(params=HALVES.values(), ids=HALVES)
def half(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param


@pytest.fixture
def lathe(flaky: Flaky, half: Callable[..., Any]) -> Iterator[Lathe]:
    with served(flaky.app()) as url, half(url, "k", attempts=4) as made:
        yield made


def test_a_post_is_sent_again_under_the_same_key(flaky: Flaky, lathe: Lathe) -> None:
    flaky.answers = [Response(status_code=503), None, Response(status_code=429, headers={"Retry-After": "0"})]
    assert lathe.submit({}).id == "job_1"
    assert flaky.keys == [flaky.keys[0]] * 4
    assert flaky.keys[0]


def test_two_posts_have_two_keys_or_the_callers_own(flaky: Flaky, lathe: Lathe) -> None:
    for options in ({}, {}, {"idempotency_key": "mine"}):
        lathe.submit({}, **options)
    assert len(set(flaky.keys)) == 3
    assert flaky.keys[2] == "mine"


def test_a_key_is_never_made_twice_by_accident(flaky: Flaky, lathe: Lathe) -> None:
    flaky.answers = [None]
    with pytest.raises(Unreachable):
        lathe.create_key("ci")
    assert len(flaky.keys) == 1


def test_a_problem_keeps_its_facts_and_is_not_sent_again(flaky: Flaky, lathe: Lathe) -> None:
    quota = {"name": "jobs_waiting", "limit": 1, "used": 1.0, "frees": "f", "frees_at": None}
    texts = {"code": "invalid_recipe", "cause": "c", "remedy": "r", "param": "recipe.prune", "request_id": "req_1"}
    body = {**texts, "status": 422, "quota": quota}
    flaky.answers = [JSONResponse(body, 422)]
    with pytest.raises(Problem) as error:
        lathe.submit({})
    assert error.value.as_dict() == body
    assert len(flaky.keys) == 1


def test_a_gateway_that_stays_bad_is_unreachable(flaky: Flaky, lathe: Lathe) -> None:
    flaky.answers = [Response("<html>", status_code=502) for _ in range(4)]
    with pytest.raises(Unreachable, match="502"):
        lathe.submit({})


def test_a_limit_that_lasts_is_the_services_own_error(flaky: Flaky, lathe: Lathe) -> None:
    quota = {"name": "requests", "limit": 60, "used": 60.0, "frees": "the hour", "frees_at": None}
    body = {"code": "rate_limited", "cause": "c", "remedy": "r", "status": 429, "quota": quota}
    flaky.answers = [JSONResponse(body, 429, headers={"Retry-After": "0"}) for _ in range(4)]
    with pytest.raises(Problem) as error:
        lathe.submit({})
    assert (error.value.problem_code, error.value.exit_code) == ("rate_limited", REFUSED)
    assert error.value.as_dict()["quota"] == quota
    assert len(flaky.keys) == 4


def test_nobody_there_is_unreachable(half: Callable[..., Any]) -> None:
    with half(f"http://127.0.0.1:{free_port()}", "k", attempts=2) as lathe, pytest.raises(Unreachable) as error:
        assert not lathe.ready()
        lathe.job("job_1")
    assert error.value.exit_code == 5


def test_a_broken_event_stream_is_taken_up_after_the_last_event(flaky: Flaky, lathe: Lathe) -> None:
    flaky.events = [["retry: 2000\n\n", event(1), event(2), "id: 3\nevent: lo"], [": still here\n\n", event(2), event(3)]]
    found = list(lathe.follow("job_1"))
    assert [(e.seq, e.type, e.data["message"]) for e in found] == [(1, "log", "m1"), (2, "log", "m2"), (3, "log", "m3")]
    assert flaky.resumed_at == ["0", "2"]


def test_pauses_grow_and_the_service_may_ask_for_more() -> None:
    assert pause(1) < 0.6
    assert 8 <= pause(6) <= 20
    assert pause(20) <= 20
    assert pause(1, "7") == 7


@pytest.mark.parametrize(
    "answer", [Response("<html>"), JSONResponse({"not": "a job"}), JSONResponse([])], ids=["page", "other", "list"]
)
def test_what_is_no_lathe_service_is_said_to_be_none(flaky: Flaky, lathe: Lathe, answer: Response) -> None:
    flaky.answers = [answer]
    with pytest.raises(BadAnswer) as error:
        lathe.submit({})
    assert "LATHE_URL" in error.value.remedy_text


def test_a_service_that_moved_says_where(flaky: Flaky, lathe: Lathe) -> None:
    flaky.answers = [Response(status_code=301, headers={"Location": "https://there/v1/jobs"})]
    with pytest.raises(Problem) as error:
        lathe.submit({})
    assert "https://there" in error.value.remedy_text


def test_all_that_is_not_a_job_can_be_asked_for_too(live: Live, half: Callable[..., Any]) -> None:
    with half(live.service.url, live.service.database.key) as lathe:
        quick = next(one.recipe for one in lathe.recipes() if one.name == "quick")
        same = {"prepare": {"rate": 1e-4, "patience": 2}, "distill": {"epochs": 6}}
        assert lathe.check_recipe(same).recipe == quick
        assert lathe.families()[0]["name"] == "bert"
        assert lathe.queue().queued >= 0
        assert lathe.workers() == []
        assert [used.mine for used in lathe.usage(days=7).items][:1] == [True]
        assert {one.name for one in lathe.quotas().items} >= {"jobs_waiting", "worker_hours", "bytes_stored", "streams"}
        assert lathe.request("GET", "/v1/queue", params={"x": None}).json().keys() >= {"queued", "running"}
        assert lathe.ready()
        key = lathe.create_key("half")
        known = lathe.keys()
        assert key.id in [one.id for one in known]
        with half(lathe.url, key.key) as other:
            assert other.queue().running >= 0
            lathe.delete(f"keys/{key.id}")
            with pytest.raises(Problem, match="revoked"):
                other.queue()


def test_every_field_of_a_job_may_be_named_in_python() -> None:
    typed = {"models": {"model", "student", "teachers"}, "datasets": {"data"}, "task": set()}  # the data say the task
    fields = (typed.get(name, {name}) for name in JobCreate.model_fields)
    assert set(JobFields.__annotations__) == set[str]().union(*fields)


def test_both_clients_offer_the_same_and_say_what_it_returns() -> None:
    def offered(kind: type) -> dict[str, tuple[list[tuple[str, object]], object]]:
        methods = {name: one for name, one in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
        return {
            name: ([(each.name, each.default) for each in found.parameters.values()], found.return_annotation)
            for name, one in methods.items()
            if name not in {"close", "aclose"} and (found := inspect.signature(one))
        }

    sync, awaited = offered(Lathe), offered(AsyncLathe)
    assert {name: parameters for name, (parameters, _) in sync.items()} == {name: one for name, (one, _) in awaited.items()}
    for name, (_, result) in sync.items():
        if typing.get_origin(result) is Iterator:
            assert awaited[name][1] == AsyncIterator[typing.get_args(result)]
        else:
            assert awaited[name][1] == result
            assert inspect.iscoroutinefunction(getattr(AsyncLathe, name)) or name in {"limit", "options", "from_config"}
