"""Finished jobs side by side: figures, who beats whom, where requests differ; as JSON and as a table."""

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.pages.dashboard import compare as comparison_page
from compression.schema.report.measurements import NotMeasured, Row
from tests.app.api.conftest import Json, new_team, problem, ready_dataset, ready_model, sql
from tests.app.api.finished import end_with
from tests.client.figures import changed, report, row
from tests.conftest import Service
from tests.support.saying import says

M = 1_000_000
BOTH = ["bytes", "latency_ms"]


def shipped(size: int, ms: float, score: float, *, length: int = 128, validation: float | None = None) -> tuple[Row, ...]:
    """Rows of a job that shipped a model of so many megabytes, timed at so many tokens.

    validation: the score there, of which the baseline has 0.8; None as in jobs of before it was taken.
    """
    first = row("baseline", 20 * M, 80 * M, 16.0, 0.8, validation=None if validation is None else 0.8)
    last = row("quantized", 20 * M, size * M, ms, score, validation=validation, interval=(0.9, 1.1) if validation else None)
    return changed(first, "latency", length=length), changed(last, "latency", length=length)


def perplexities(value: float, *known: bool) -> tuple[Row, ...]:
    """Rows of a language model. known: whether the baseline has a score, and what was shipped."""
    unknown = {"score": NotMeasured(not_measured="too little memory")}
    return tuple(
        changed(one, "score", metric="perplexity", lower_is_better=True) if scored else one.model_copy(update=unknown)
        for one, scored in zip(shipped(20, 9.0, value), known, strict=True)
    )


Finish = Callable[..., str]


@pytest.fixture
def finish(service: Service, http: httpx.Client, request_body: Json) -> Finish:
    """Ends a job with rows; language: keys of its recipe's `train` and of `evaluate`, as of a language model."""

    def finished(
        rows: tuple[Row, ...], *, language: tuple[Json, Json] | None = None, processor: str = "Xeon", **changes: Any
    ) -> str:
        job = str(http.post("/v1/jobs", json={**request_body, **changes}).json()["id"])
        if language is not None:
            asked = http.get(f"/v1/jobs/{job}").json()
            recipe = {**asked["recipe"], "train": {**asked["recipe"]["train"], **language[0]}}
            statement = "UPDATE jobs SET task = 'causal-lm', recipe = %s, evaluate = %s WHERE id = %s"
            sql(service, statement, json.dumps(recipe), json.dumps({**asked["evaluate"], **language[1]}), job)
        machine = {"processor": processor}
        end_with(service, job, report(rows=rows, headline=rows[1].artifact, ratios=rows[1].ratios, environment=machine))
        return job

    return finished


def compared(http: httpx.Client, **query: Any) -> Json:
    answer = http.get("/v1/compare", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def best_by(http: httpx.Client, **query: Any) -> dict[str, list[str]]:
    return {item["id"]: item["best_by"] for item in compared(http, **query)["items"]}


def test_jobs_of_a_model_are_compared(finish: Finish, service: Service, http: httpx.Client, request_body: Json) -> None:
    small = finish(shipped(20, 9.0, 0.70), name="small", labels={"for": "phones"})
    good = finish(shipped(30, 8.0, 0.79), recipe="standard", name="good")
    beaten = finish(shipped(40, 9.5, 0.79), name="beaten")
    finish(shipped(1, 1.0, 0.99), models={"base": ready_model(service, http)}, name="elsewhere")
    http.post("/v1/jobs", json=request_body)  # waits, so it has nothing to compare
    found = compared(http, model=request_body["models"]["base"])
    assert [item["id"] for item in found["items"]] == [beaten, good, small]
    by_id = {item["id"]: item for item in found["items"]}
    assert [by_id[job]["best_by"] for job in (small, good, beaten)] == [["bytes"], BOTH, []]
    item = by_id[small]
    assert (item["name"], item["labels"], item["owner"], item["metric"]) == ("small", {"for": "phones"}, "first", "accuracy")
    assert (item["shipped"]["bytes"], item["shipped"]["latency_ms"], item["shipped"]["score"]) == (20 * M, 9.0, 0.70)
    assert item["shipped"]["latency_at"]["length"] == 128
    assert (item["baseline"]["bytes"], item["baseline"]["stage"], item["shipped"]["stage"]) == (80 * M, "baseline", "quantized")
    assert item["ratios"]["size_reduction"] == 0.75
    assert "recipe.prune.ratio" in found["differs"]
    assert "recipe.version" not in found["differs"]
    assert compared(http, job=[small, beaten])["differs"] == []
    plain = http.get("/v1/recipes").json()["items"][0]["recipe"] | {"prune": None}
    uncut = finish(shipped(60, 9.0, 0.8), recipe=plain)
    assert "recipe.prune" in compared(http, job=[good, uncut])["differs"]  # and not each of its keys
    assert "recipe.prune.ratio" not in compared(http, job=[good, uncut])["differs"]
    assert {"recipe.prune", "recipe.prune.ratio"} < set(compared(http, job=[good, uncut, small])["differs"])
    assert [one["id"] for one in compared(http, search="good")["items"]] == [good]
    assert [one["id"] for one in compared(http, label="for:phones")["items"]] == [small]


def test_who_beats_whom_is_read_on_validation_and_not_against_jobs_that_have_none(finish: Finish, http: httpx.Client) -> None:
    good = finish(shipped(20, 9.0, 0.6, validation=0.79))
    # Better on test, which decides nothing.
    lucky = finish(shipped(20, 9.0, 0.9, validation=0.7))
    old = finish(shipped(20, 9.0, 0.5))
    found = {item["id"]: item for item in compared(http)["items"]}
    assert [found[job]["best_by"] for job in (good, lucky, old)] == [BOTH, [], BOTH]
    point = found[lucky]["shipped"]
    assert (point["score"], point["validation"], point["validation_error"]) == (0.9, 0.7, 0.01)
    assert found[lucky]["ratios"]["retention_on_validation_interval"] == [0.9, 1.1]
    assert (found[old]["shipped"]["validation"], found[old]["ratios"]["judged_on"]) == (None, "test")


def test_a_baseline_that_has_not_converged_is_flagged(finish: Finish, http: httpx.Client, browser: httpx.Client) -> None:
    rows = shipped(20, 9.0, 0.9, validation=0.88)
    jobs = [finish(rows), finish(tuple(changed(one, "ratios", baseline_not_converged=True) for one in rows))]
    flags = {item["id"]: item["ratios"]["baseline_not_converged"] for item in compared(http)["items"]}
    assert flags == dict(zip(jobs, (False, True), strict=True))
    lines = list(csv.DictReader(io.StringIO(http.get("/v1/compare", params={"format": "csv"}).text)))
    told = {line["job"]: (line["baseline_not_converged"], line["retention_on_validation_interval.low"]) for line in lines}
    assert told == {jobs[0]: ("False", "0.9"), jobs[1]: ("True", "0.9")}
    assert [float(line["shipped.validation"]) for line in lines] == [0.88, 0.88]
    text = browser.get("/compare", params={"job": jobs}).text
    assert text.count("baseline_not_converged") == 2  # among all, and among those picked
    says(text, "90.0 to 110.0 %", 'data-score="0.88"')


def test_jobs_of_other_data_are_unranked(finish: Finish, service: Service, http: httpx.Client, request_body: Json) -> None:
    other = ready_dataset(service, http)
    hard = finish(shipped(20, 9.0, 0.60))
    easy = finish(shipped(10, 8.0, 0.99), datasets=[other])
    assert best_by(http, model=request_body["models"]["base"]) == {hard: BOTH, easy: BOTH}
    assert [item["id"] for item in compared(http, dataset=other)["items"]] == [easy]


def test_jobs_that_drew_other_rows_from_train_are_unranked(
    finish: Finish, service: Service, http: httpx.Client, request_body: Json
) -> None:
    def pair(**changes: Any) -> list[str]:
        seeds = ({"preset": "quick", "train": {"seed": seed}} for seed in (0, 1))
        each = zip(((20, 9.0, 0.60), (10, 8.0, 0.99)), seeds, strict=True)
        return [finish(shipped(*figures), recipe=recipe, **changes) for figures, recipe in each]

    drawn = pair()
    sent = ready_dataset(service, http)
    splits = {name: [f"{name}.jsonl"] for name in ("train", "validation", "test")}
    data = {"format": "jsonl", "splits": splits}
    sql(service, "UPDATE datasets SET data = %s WHERE id = %s", json.dumps(data), sent)
    first, better = pair(datasets=[sent])
    found = {item["id"]: item for item in compared(http)["items"]}
    assert [found[job]["best_by"] for job in drawn] == [BOTH, BOTH]
    assert [found[job]["best_by"] for job in (first, better)] == [[], BOTH]
    assert [found[job]["drawn"] for job in (*drawn, first, better)] == [True, True, False, False]


def test_the_page_shows_the_jobs_of_one_metric_at_a_time(finish: Finish, browser: httpx.Client) -> None:
    plain = finish(shipped(20, 9.0, 0.60))
    other = finish(tuple(changed(one, "score", metric="matthews") for one in shipped(10, 8.0, 0.5)))
    text = browser.get("/compare").text
    says(text, "Size against Matthews", ", matthews</option>", ", accuracy</option>")
    assert re.findall(r'data-point="(job_\w+)"', text) == [other]
    text = browser.get("/compare", params={"job": plain}).text
    says(text, "Size against Accuracy")
    assert re.findall(r'data-point="(job_\w+)"', text) == [plain]


def test_a_job_s_own_page_leads_to_a_comparison_that_has_it(
    finish: Finish,
    service: Service,
    http: httpx.Client,
    browser: httpx.Client,
    request_body: Json,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older = finish(shipped(20, 9.0, 0.60))
    newest = finish(shipped(10, 8.0, 0.99), datasets=[ready_dataset(service, http)])
    asked = {"model": request_body["models"]["base"], "job": older}
    (picked,) = re.findall(r'value="(job_\w+)"[^>]*checked', browser.get("/compare", params=asked).text)
    assert picked == older
    monkeypatch.setattr(comparison_page, "MOST", 1)  # behind the newest that are shown
    text = browser.get("/compare", params=asked).text
    assert re.findall(r'value="(job_\w+)"[^>]*checked', text) == [older]
    assert newest not in text


def test_means_of_other_metrics_are_unranked(finish: Finish, service: Service, http: httpx.Client, request_body: Json) -> None:
    several = {"datasets": [*request_body["datasets"], ready_dataset(service, http)]}
    asked: list[Any] = ["auto", ["accuracy", "auto"], ["accuracy", "f1"], ["auto", "matthews"]]
    plain, same, other, third = (
        finish(shipped(size, 9.0, 0.6 + size / 100), **several, evaluate={"metric": metric})
        for size, metric in zip((20, 19, 18, 17), asked, strict=True)
    )
    better = finish(shipped(10, 8.0, 0.99), **several, evaluate={"metric": ["accuracy", "accuracy"]})
    best = best_by(http, model=request_body["models"]["base"])
    assert [job for job, by in best.items() if by] == [better, third, other]
    assert best[plain] == best[same] == []


@pytest.mark.parametrize(
    ("train", "evaluate", "alike"),
    [
        ({"max_length": 512}, {}, False),  # the window is left open, so that this is it
        ({}, {"window": 64}, False),
        ({}, {"tokens": 1024}, False),
        ({"seed": 7}, {}, False),
        ({"max_length": 512}, {"window": 128}, True),
    ],
)
def test_other_windows_or_texts_are_unranked(
    finish: Finish, http: httpx.Client, train: Json, evaluate: Json, alike: bool
) -> None:
    window = {"max_length": 128}
    plain = finish(shipped(20, 9.0, 0.6), language=(window, {}))
    better = finish(shipped(10, 8.0, 0.7), language=({**window, **train}, evaluate))
    assert best_by(http) == {plain: [] if alike else BOTH, better: BOTH}


def test_times_with_the_preparation_of_inputs_are_of_another_kind(finish: Finish, http: httpx.Client) -> None:
    plain = finish(shipped(20, 9.0, 0.6), language=({}, {}))
    raw = finish(shipped(10, 8.0, 0.7), language=({}, {"raw_inputs": True}))
    assert best_by(http) == {plain: ["latency_ms"], raw: BOTH}


def test_lower_perplexities_are_better_without_a_baseline(finish: Finish, http: httpx.Client, browser: httpx.Client) -> None:
    asked = ((12.5, False, True), (30.0, False, True), (12.5, True, False), (12.5, False, False))
    good, bad, before, none = (finish(perplexities(*each), language=({}, {})) for each in asked)
    found = {item["id"]: item for item in compared(http)["items"]}
    told = {job: (item["metric"], item["lower_is_better"]) for job, item in found.items()}
    assert told == {**dict.fromkeys((good, bad, before), ("perplexity", True)), none: (None, False)}
    assert [job for job, item in found.items() if item["best_by"]] == [good]
    text = browser.get("/compare").text
    says(text, "Size against Perplexity", 'data-percent=""', "12.5")  # though the newest has no score
    assert text.count('data-lower="1"') == 3


def test_what_was_timed_otherwise_is_not_the_faster(finish: Finish, http: httpx.Client, browser: httpx.Client) -> None:
    whole = finish(shipped(20, 9.0, 0.6))
    short = finish(shipped(10, 1.0, 0.7, length=16))
    assert best_by(http) == {whole: ["latency_ms"], short: BOTH}
    other = finish(shipped(5, 0.5, 0.8), processor="Epyc")
    first, last = shipped(40, 0.1, 0.9)
    beside = finish((first, changed(last, "latency", exclusive=False)))  # while another job was timed
    assert best_by(http) == {whole: ["latency_ms"], short: ["latency_ms"], other: BOTH, beside: BOTH}
    slower, last = shipped(40, 0.2, 0.9)
    again = finish((slower, changed(last, "latency", exclusive=False)))  # who knows beside what
    assert best_by(http)[again] == BOTH
    text = browser.get("/compare", params={"job": [other, beside]}).text
    says(text, "batch 1 of 128 tokens, Epyc<", "batch 1 of 128 tokens, Xeon, perhaps beside another job")


def test_the_page_says_of_what_a_time_is(finish: Finish, browser: httpx.Client, request_body: Json) -> None:
    made = [finish(shipped(20, 9.0, 0.6), language=language) for language in (None, ({}, {}))]
    text = browser.get("/compare", params={"model": request_body["models"]["base"], "job": made}).text
    assert text.count("batch 1 of 128 tokens") == 1
    assert text.count("batch 1, per token after 128") == 1


def test_the_table_is_one_that_spreadsheets_can_open_without_harm(finish: Finish, http: httpx.Client) -> None:
    finish(shipped(20, 9.0, 0.7), name='=HYPERLINK("http://evil")', labels={"a": 'b,"c"'})
    finish(shipped(30, 8.0, 0.79), recipe="standard", name="plain, with a comma")
    answer = http.get("/v1/compare", params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert [line["name"] for line in lines] == ["plain, with a comma", '\'=HYPERLINK("http://evil")']
    assert json.loads(lines[1]["labels"]) == {"a": 'b,"c"'}
    assert (lines[1]["shipped.bytes"], lines[1]["baseline.score"], lines[1]["size_reduction"]) == ("20000000", "0.8", "0.75")
    assert lines[0]["recipe.prune.ratio"] != lines[1]["recipe.prune.ratio"]


def test_pages_follow_each_other_and_strangers_see_nothing(finish: Finish, service: Service, http: httpx.Client) -> None:
    made = [finish(shipped(20, 9.0, 0.7)) for _ in range(3)]
    first = http.get("/v1/compare", params={"page_size": 2})
    second = http.get(first.links["next"]["url"])
    assert [item["id"] for item in [*first.json()["items"], *second.json()["items"]]] == made[::-1]
    assert second.json()["next_page_token"] is None
    with service.client(new_team(service)) as stranger:
        assert compared(stranger, job=made)["items"] == []
    problem(http.get("/v1/compare", params={"page_token": "!"}), 422, "invalid_request", "page_token")


def test_what_was_not_measured_is_null(finish: Finish, http: httpx.Client) -> None:
    job = finish(shipped(20, 9.0, 0.7))
    unknown = {"latency": NotMeasured(not_measured="no reason")}
    again = finish(tuple(one.model_copy(update=unknown) for one in shipped(20, 9.0, 0.7)))
    items = {item["id"]: item for item in compared(http)["items"]}
    assert (items[again]["shipped"]["latency_ms"], items[again]["shipped"]["latency_at"]) == (None, None)
    assert "latency_ms" in items[job]["best_by"]
    assert "latency_ms" not in items[again]["best_by"]
