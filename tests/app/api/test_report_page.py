"""report.html as who gets it sees it: whole, of itself, and nobody else's."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest

from compression.schema.report.layer_ranges import LayerRange
from compression.schema.report.measurements import NotMeasured, Remedy, Sensitivity, StageVerdict, Uploaded
from compression.schema.report.report import Report
from tests.app.api.conftest import new_team, problem, sql
from tests.client.figures import generates, more_figures, report, row, validated
from tests.compression.modalities.text.scoring.test_perplexity import row as of_perplexity
from tests.conftest import Service

HOSTILE = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """What a browser would find: tags, attributes that fetch something, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def done(service: Service, http: httpx.Client, body: dict[str, Any], found: Report | None = None, **more: Any) -> str:
    """A job that has ended well, as if a worker had done it."""
    job = str(http.post("/v1/jobs", json={**body, **more}).json()["id"])
    told = (found or report()).model_dump_json()
    sql(
        service,
        "UPDATE jobs SET state = 'succeeded', report = %s, started_at = '2026-02-03 04:01:00.000000', "
        "finished_at = '2026-02-03 04:05:06.000000' WHERE id = %s",
        told,
        job,
    )
    return job


def page_of(http: httpx.Client, job: str) -> Page:
    answer = http.get(f"/v1/jobs/{job}/report.html")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.text)


def test_the_report_of_a_finished_job_is_one_page_that_fetches_nothing(
    service: Service, http: httpx.Client, request_body: dict[str, Any]
) -> None:
    job = done(service, http, request_body, name="Reviews, smaller")
    answer = http.get(f"/v1/jobs/{job}/report.html")
    page = Page(answer.text)
    assert "Reviews, smaller" in page.text
    for figure in ("20.00 M", "13.00 M", "80.00 MB", "14.00 MB", "16.00 ms", "6.40 ms", "78.40 % ± 1.00 %", "98.0 % kept"):
        assert figure in page.text, figure
    assert "✓ met: parameter reduction 35.0 %" in re.sub(r"\s+", " ", page.text)
    assert page.tags.count("svg") == 4
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(page.tags)
    assert [
        name for name, _ in page.attributes if name in {"src", "href", "style", "srcset", "xlink:href"} or name[:2] == "on"
    ] == []


def test_both_splits_have_their_interval_and_what_is_unproven_says_why(
    service: Service, http: httpx.Client, request_body: dict[str, Any]
) -> None:
    text = re.sub(r"\s+", " ", page_of(http, done(service, http, request_body, validated())).text)
    for said in (
        "79.50 % ± 1.00 %99.4 % kept (97.1 to 101.5 %)",
        "78.40 % ± 1.00 %98.0 % kept (96.2 to 99.9 %)",
        "✓ met: retention 99.4 % on validation (95 % interval 97.1 to 101.5 %), target 99.2 %",
        "Choices and verdicts use validation (500 rows)",
        "Score on validation: accuracy",
    ):
        assert said in text, said
    assert "? unproven" not in text
    text = re.sub(r"\s+", " ", page_of(http, done(service, http, request_body, validated(is_converged=False))).text)
    for said in (
        "? unproven: retention 99.4 % on validation",
        "target 99.2 %. baseline_not_converged: The baseline has not converged",
        "Baselinenot converged",
        "99.4 % kept (97.1 to 101.5 %), unproven",
        "✓ met: speed up 2.50×",
    ):
        assert said in text, said
    assert "Baselinenot tuned here" in re.sub(
        r"\s+", " ", page_of(http, done(service, http, request_body, validated(is_converged=None))).text
    )


def test_sizes_are_held_against_all_that_people_mean(
    service: Service, http: httpx.Client, request_body: dict[str, Any]
) -> None:
    plain = page_of(http, done(service, http, request_body)).text
    assert "−82.5 %; −65.0 % vs 16 bit; −82.5 % vs float32" in plain
    found = report()
    ratios = found.ratios.model_copy(update={"size_reduction_from_file": 0.3})
    found = found.model_copy(update={"uploaded": Uploaded(bytes=20_000_000, dtype="Q8_0"), "ratios": ratios})
    of_file = page_of(http, done(service, http, request_body, found)).text
    said = "−30.0 % vs the uploaded file (20.00 MB Q8_0); −65.0 % vs 16 bit; −82.5 % vs float32"
    assert said in of_file


def test_its_policy_allows_its_own_style_sheet_and_nothing_else(
    service: Service, http: httpx.Client, request_body: dict[str, Any]
) -> None:
    answer = http.get(f"/v1/jobs/{done(service, http, request_body)}/report.html")
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    kept = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', answer.text)
    assert kept is not None
    for policy in (answer.headers["content-security-policy"], kept[1].replace("&#39;", "'")):
        assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';"), policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_names_notes_and_labels_of_a_job_stay_text(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    rows = report().rows
    remedy = Remedy(key="recipe.distill.epochs", now=8, proposed=HOSTILE, why=HOSTILE)
    verdict = StageVerdict(met=(), missed=("retention",), best_before="quantized", worse_than="quantized", remedies=(remedy,))
    layer = LayerRange(layer=HOSTILE, largest=9.0, percentile=1.0, ratio=9.0, beyond=0.01, levels_used=0.05, broken=True)
    point = Sensitivity(ratio=0.1, taken=0.1, parameters=1, score=0.7)
    last = rows[-1].model_copy(
        update={"notes": (HOSTILE,), "verdict": verdict, "ranges": (layer,), "flops": NotMeasured(not_measured=HOSTILE)}
    )
    found = report(
        rows=(*rows[:-1], last),
        labels=(HOSTILE, "b"),
        choice=HOSTILE,
        notes=(HOSTILE,),
        sensitivity={HOSTILE: (point, point)},
        environment={HOSTILE: HOSTILE},
        pruning={HOSTILE: {"before": 4, "after": 2, "asked": 0.5, "taken": 0.5}},
    )
    page = page_of(http, done(service, http, request_body, found, name=HOSTILE, labels={"k": HOSTILE}))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 14
    assert page.tags.count("svg") == 6


def test_what_was_not_measured_says_why(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    reason = NotMeasured(not_measured="it does not fit")
    rows = tuple(
        found.model_copy(update={"latency": reason, "score": reason, "peak_memory_bytes": reason}) for found in report().rows
    )
    none = rows[-1].ratios.model_copy(
        update=dict.fromkeys(("speed_up", "latency_reduction", "retention", "retention_above_chance"))
    )
    page = page_of(http, done(service, http, request_body, report(rows=rows, ratios=none)))
    assert page.text.count("not measured: it does not fit") == 3 * len(rows)
    assert page.tags.count("svg") == 2


def test_of_several_datasets_each_has_its_figures(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    parts = {
        "reviews": row("distilled", 12_000_000, 13_000_000, 5.0, 0.9),
        "news": row("distilled", 11_000_000, 12_000_000, 5.5, 0.7),
    }
    rows = report().rows
    found = report(
        rows=(*rows[:-1], rows[-1].model_copy(update={"parts": parts})),
        headlines={"reviews": "reviews-int8", "news": "news-int8"},
    )
    text = page_of(http, done(service, http, request_body, found)).text
    for said in ("· reviews", "· news", "reviews-int8", "news-int8", "90.00 % ± 1.00 %", "(news: accuracy, reviews: accuracy)"):
        assert said in text, said


def test_what_stands_beside_the_score_is_shown(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    found = report(rows=tuple(map(more_figures, report().rows)))
    text = page_of(http, done(service, http, request_body, found)).text
    for said in ("Other metrics", "bits per byte", "1.546 bits a byte ± 0.012", "arc_easy acc", "0.3980 ± 0.0250", "5-shot"):
        assert said in text, said
    assert "Other metrics" not in page_of(http, done(service, http, request_body)).text


def test_of_a_language_model_the_time_is_a_tokens(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    found = report(rows=tuple(map(generates, report().rows)))
    text = page_of(http, done(service, http, request_body, found)).text
    for said in ("batch 1, one token more behind a prompt of 128 tokens, 1 thread", "Latency per token, median", "156.2"):
        assert said in text, said
    assert "batch 1 × 128 tokens, 1 thread" in page_of(http, done(service, http, request_body)).text


def test_of_a_perplexity_words_and_pictures_say_which_way_is_better(
    service: Service, http: httpx.Client, request_body: dict[str, Any]
) -> None:
    verdict = StageVerdict(met=(), missed=("retention",), best_before="baseline", worse_than="baseline", remedies=())
    worse = of_perplexity("quantized", 14.0).model_copy(update={"verdict": verdict})
    curve = (Sensitivity(ratio=0.1, taken=0.1, parameters=1, score=13.0),)
    found = report(rows=(of_perplexity("baseline", 12.0), worse), sensitivity={"ffn": curve})
    text = page_of(http, done(service, http, request_body, found)).text
    assert "Baseline scores better and is as small and fast" in text
    assert text.count("perplexity, lower is better") == 3  # beneath the bars, beside the curve and above its column
    plain = page_of(http, done(service, http, request_body, report(sensitivity={"ffn": curve}))).text
    assert "lower is better" not in plain
    assert "accuracy" in plain.partition("share removed")[2]


def test_it_draws_how_training_went_where_that_was_told(
    service: Service, http: httpx.Client, request_body: dict[str, Any]
) -> None:
    job = done(service, http, request_body)
    for number, (stage, loss, score) in enumerate([("baseline", 0.7, 0.6), ("baseline", 0.4, 0.8), ("distilled", 0.3, None)]):
        told = {"stage": stage, "phase": "tune <b>", "step": number, "total": 3, "loss": loss, "score": score, "part": ""}
        sql(
            service,
            "INSERT INTO events (job_id, seq, type, data, at) VALUES (%s, %s, 'progress', %s, '2026-01-01 00:00:00.000000')",
            job,
            100 + number,
            json.dumps(told),
        )
    page = page_of(http, job)
    assert page.tags.count("svg") == 4 + 2, "one point is no curve"
    assert "Loss: Baseline" in page.text
    assert "Score on validation: Baseline" in page.text
    assert "Loss: Distilled" not in page.text
    assert "b" not in page.tags


def test_validation_by_a_perplexity_is_called_so(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    rows = of_perplexity("baseline", 12.0), of_perplexity("quantized", 14.0)
    job, plain = done(service, http, request_body, report(rows=rows)), done(service, http, request_body)
    for one, number, score in [(each, number, score) for each in (job, plain) for number, score in enumerate((14.0, 12.5))]:
        told = {"stage": "baseline", "phase": "tune", "step": number, "total": 2, "loss": None, "score": score, "part": ""}
        insert = (
            "INSERT INTO events (job_id, seq, type, data, at) VALUES (%s, %s, 'progress', %s, '2026-01-01 00:00:00.000000')"
        )
        sql(service, insert, one, 100 + number, json.dumps(told))
    for one, called in ((job, "perplexity, lower is better"), (plain, "accuracy")):
        drawn = re.search(
            'aria-label="Score on validation: Baseline.*?</svg>', http.get(f"/v1/jobs/{one}/report.html").text, re.DOTALL
        )
        assert drawn is not None
        assert f">{called}</text>" in drawn[0]
    waits = http.post("/v1/jobs", json=request_body).json()["id"]
    sql(service, "UPDATE jobs SET task = 'causal-lm' WHERE id = %s", waits)
    with httpx.Client(base_url=service.url, timeout=70) as browser:
        browser.post("/sign-in", data={"key": service.database.key})
        seen = [browser.get(f"/jobs/{one}").text for one in (waits, http.post("/v1/jobs", json=request_body).json()["id"])]
    for text, called in zip(seen, ("perplexity, lower is better", "score"), strict=True):
        assert f'data-judged="{called}"' in text
        assert f"Validation {called}</th>" in text


def test_only_its_team_sees_it_and_only_once_there_is_one(
    service: Service, http: httpx.Client, request_body: dict[str, Any]
) -> None:
    waiting = http.post("/v1/jobs", json=request_body).json()["id"]
    problem(http.get(f"/v1/jobs/{waiting}/report.html"), 404, "report_not_ready")
    job = done(service, http, request_body)
    problem(httpx.get(f"{service.url}/v1/jobs/{job}/report.html"), 401, "unauthorized")
    with service.client(new_team(service)) as stranger:
        problem(stranger.get(f"/v1/jobs/{job}/report.html"), 404, "not_found")


def test_it_is_kept_as_a_file_and_not_sent_twice(service: Service, http: httpx.Client, request_body: dict[str, Any]) -> None:
    place = f"/v1/jobs/{done(service, http, request_body)}/report.html"
    first, again = http.get(place), http.get(place, params={"download": True})
    assert again.content == first.content
    assert again.headers["content-disposition"] == f'attachment; filename="{place.split("/")[3]}-report.html"'
    assert first.headers["etag"].strip('"') == hashlib.sha256(first.content).hexdigest()
    assert http.get(place, headers={"If-None-Match": first.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("missing", ["choice", "headlines", "parts", "sensitivity", "uploaded"])
def test_a_report_of_before_a_field_was_kept_is_shown(
    service: Service, http: httpx.Client, request_body: dict[str, Any], missing: str
) -> None:
    old = json.loads(report().model_dump_json())
    del old[missing]
    job = done(service, http, request_body)
    other = http.post("/v1/jobs", json=request_body).json()["id"]
    sql(
        service,
        "UPDATE jobs SET state = 'succeeded', report = %s, started_at = created_at, finished_at = created_at WHERE id = %s",
        json.dumps(old),
        other,
    )
    assert page_of(http, other).tags.count("svg") == page_of(http, job).tags.count("svg")
