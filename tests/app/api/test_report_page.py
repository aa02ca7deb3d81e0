"""report.html as who gets it sees it: whole, of itself, and nobody else's."""

import base64
import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable

import httpx
import pytest

from app.pages.dashboard.figures import figures
from app.pages.report_page import svg
from app.pages.report_page.formatting import reached
from app.pages.report_page.page import About, pictures, render, training
from client.terminal.render import report_markdown
from compression.schema.recipe.recipe import Targets
from compression.schema.report.folding import Folding
from compression.schema.report.measurements import NotMeasured, StageVerdict
from compression.schema.report.operators import Operators
from compression.schema.report.report import Report, Verdict, verdicts
from compression.schema.report.samples import split_samples
from compression.schema.report.sensitivity import Sensitivity
from tests.app.api.conftest import Json, insert, problem, sql
from tests.app.api.finished import HOSTILE, MOMENT, Page, done, end_well, hostile_report
from tests.client.figures import (
    aimed,
    changed,
    from_file,
    further,
    gate_of,
    gated,
    generates,
    more_figures,
    recommending,
    report,
    row,
    sampled,
    searched,
    several,
    validated,
)
from tests.compression.modalities.text.scoring.test_perplexity import row as of_perplexity
from tests.conftest import Service
from tests.support.saying import says


def page_of(http: httpx.Client, job: str) -> Page:
    answer = http.get(f"/v1/jobs/{job}/report.html")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.text)


Shown = Callable[..., Page]


def add_progress(service: Service, job: str, number: int, told: Json) -> None:
    insert(service, "events", job_id=job, seq=100 + number, type="progress", data=json.dumps(told), at=MOMENT)


@pytest.fixture
def shown(service: Service, http: httpx.Client, request_body: Json) -> Shown:
    return lambda found=None, **more: page_of(http, done(service, http, request_body, found, **more))


def test_the_report_is_one_page_that_fetches_nothing(service: Service, http: httpx.Client, request_body: Json) -> None:
    job = done(service, http, request_body, name="Reviews, smaller")
    answer = http.get(f"/v1/jobs/{job}/report.html")
    page = Page(answer.text)
    assert "Reviews, smaller" in page.text
    says(page.text, "20.00 M", "13.00 M", "80.00 MB", "14.00 MB", "16.00 ms", "6.40 ms", "78.40 % ± 1.00 %", "98.0 % kept")
    assert "✓ met: parameter reduction 35.0 %" in re.sub(r"\s+", " ", page.text)
    assert page.tags.count("svg") == 4
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(page.tags)
    fetching = {"src", "href", "style", "srcset", "xlink:href"}
    assert [name for name, _ in page.attributes if name in fetching or name[:2] == "on"] == []


def test_both_splits_have_their_interval_and_what_is_unproven_says_why(shown: Shown) -> None:
    text = re.sub(r"\s+", " ", shown(validated()).text)
    says(text, "79.50 % ± 1.00 %99.4 % kept (97.1 to 101.5 %)", "78.40 % ± 1.00 %98.0 % kept (96.2 to 99.9 %)")
    says(text, "✓ met: retention 99.4 % on validation (95 % interval 97.1 to 101.5 %), target 99.2 %")
    says(text, "Choices and verdicts use validation (500 rows)", "Score on validation: accuracy")
    assert "? unproven" not in text
    text = re.sub(r"\s+", " ", shown(validated(is_converged=False)).text)
    says(text, "target 99.2 %. baseline_not_converged: The baseline has not converged", "Baselinenot converged")
    says(text, "? unproven: retention 99.4 % on validation", "99.4 % kept (97.1 to 101.5 %), unproven", "✓ met: speed up 2.50×")
    assert "Baselinenot tuned here" in re.sub(r"\s+", " ", shown(validated(is_converged=None)).text)


def test_a_speed_up_has_its_interval_in_the_units_of_its_target() -> None:
    verdict = Verdict(target=1.45, value=2.5, met=True, status="met", interval=(2.4, 2.61))
    assert reached("speed_up", verdict) == "2.50× (95 % interval 2.40× to 2.61×)"
    stored = validated()
    found = stored.ratios.model_copy(update={"speed_up_interval": (2.4, 2.61)})
    last = stored.rows[-1].model_copy(update={"ratios": found})
    assert verdicts(last, Targets())["speed_up"].interval == (2.4, 2.61)
    told = figures(stored.model_copy(update={"ratios": found}), stored.rows[0], last)
    assert [one.notes for one in told if one.title == "Speed"] == [("95 % interval 2.40× to 2.61×",)]


def test_a_quality_gate_is_listed_with_its_bounds_for_each_artifact(shown: Shown) -> None:
    text = re.sub(r"\s+", " ", shown(gated(gate_of(1, 1))).text)
    says(text, "Quality gate accept, against baseline-onnx-float32. The score drops by 0.00 points (−0.47 to 0.47) on 500")
    says(text, "distilled-openvino-int8: regression, against baseline-onnx-float32. The score drops by 10.00 points")
    says(text, "On 1,000 test rows the score drops by 0.00 points (−0.47 to 0.47): reported, not judged.")
    assert "Quality gate" not in shown(validated()).text


def test_the_sizes_that_were_tried_have_a_table_with_the_reason_for_one(shown: Shown) -> None:
    text = re.sub(r"\s+", " ", shown(searched()).text)
    says(text, "Sizes tried It met the target.", "Sizes tried to keep 99.0 % of the original's score on validation")
    says(text, "8.00 M", "97.00 ± 0.40 %", "98.50 %", "not distilled")
    assert "Sizes tried" not in shown(validated()).text
    fastest = searched().model_copy(update={"sizes": searched().sizes.model_copy(update={"objective": "latency"})})
    says(shown(fastest).text, "of the original's predicted milliseconds")


def test_several_sizes_have_a_picture_and_a_table_that_says_which_is_the_best(shown: Shown) -> None:
    page = shown(several())
    text = re.sub(r"\s+", " ", page.text)
    says(text, "Size against score", "Of 3 sizes, point2 is the smallest that keeps the target")
    says(text, "Point 2, best size10.00 M50.0 %0.0456", "point2-onnx-int8")
    assert "Size against score" not in shown(validated()).text


def test_absolute_targets_are_listed_in_their_own_units(shown: Shown) -> None:
    text = re.sub(r"\s+", " ", shown(aimed()).text)
    says(text, "✓ met: parameters 13,000,000, target at most 14,000,000", "✗ missed: score 78.40 % on test, target 79.10 %")
    says(text, "? unproven: latency not measured, target at most 120 ms on A100. not_measured: No profile of the shipped")


def test_targets_keep_their_order_where_a_database_sorts_names() -> None:
    known, about = aimed(), About("job_1", "j", {}, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    stored = known.model_copy(update={"verdicts": dict(sorted(known.verdicts.items()))})
    assert list(stored.verdicts) != list(known.verdicts)
    assert report_markdown(stored) == report_markdown(known)
    assert render(stored, about) == render(known, about)
    tiles = [figure.verdict for figure in figures(stored, stored.rows[0], stored.rows[-1])]
    assert tiles == list(known.verdicts.values())


def test_a_recommended_format_is_named_with_its_reason_and_its_verdicts(shown: Shown) -> None:
    text = re.sub(r"\s+", " ", shown(recommending()).text)
    says(text, "Recommended distilled-openvino-int8 is recommended: it runs 3.20 times", "✓ met: speed up 3.20×, target 1.45×")
    says(text, "distilled-openvino-int8 (recommended)", "✓ met: speed up 2.50×, target 1.45×")
    assert "ecommended" not in shown(validated()).text


def test_sizes_are_held_against_all_that_people_mean(shown: Shown) -> None:
    plain = shown().text
    assert "−82.5 %; −65.0 % vs 16 bit; −82.5 % vs float32" in plain
    said = "−30.0 % vs the uploaded file (20.00 MB Q8_0); −65.0 % vs 16 bit; −82.5 % vs float32"
    assert said in shown(from_file()).text


def test_a_stage_s_bar_is_as_long_as_it_was_beside_the_baseline() -> None:
    first, *_, last = report().rows
    first = changed(first, "latency", median_ms=6.0, baseline_median_ms=6.0, spread_ms=0.0)
    last = changed(last, "latency", median_ms=5.0, baseline_median_ms=10.0, spread_ms=0.0)  # timed later, on a slower machine
    (picture,) = (one for one in pictures((first, last), last) if one.caption.startswith("Latency"))
    before, after = (float(width) for width in re.findall(r'<rect[^>]* width="([0-9.]+)"', picture.svg))
    assert after / before == pytest.approx(0.5, abs=0.01)
    says(picture.svg, "6.00 ms", "5.00 of 10.00 ms")


def test_operators_are_counted_where_the_runtime_tells_them(shown: Shown) -> None:
    (own,) = (found := report()).artifacts
    joined = Operators(before={"Conv": 21, "Relu": 17}, after={"Conv": 4, "FusedConv": 17})
    assert "Operators:" not in shown(found).text
    text = shown(report(artifacts=(own.model_copy(update={"operators": joined}),))).text
    assert "Operators: 38 in the file, 21 executed; 17 FusedConv are the runtime's own." in text


def test_a_language_model_in_another_runtime_has_its_speeds(shown: Shown) -> None:
    latency = generates(report().rows[-1]).latency
    form = further(kind="gguf-q8-0", latency=latency, score=report().rows[-1].score)
    text = shown(report(artifacts=(form,))).text
    assert "2.50 × the original’s ONNX file, 6,400 tokens a second of a prompt and 156.2 behind it." in text


def test_its_policy_allows_its_own_style_sheet_alone(service: Service, http: httpx.Client, request_body: Json) -> None:
    answer = http.get(f"/v1/jobs/{done(service, http, request_body)}/report.html")
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    kept = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', answer.text)
    for policy in (answer.headers["content-security-policy"], kept[1].replace("&#39;", "'")):
        assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';"), policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_names_notes_and_labels_of_a_job_stay_text(shown: Shown) -> None:
    page = shown(hostile_report(), name=HOSTILE, labels={"k": HOSTILE})
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 14
    assert page.tags.count("svg") == 6


def test_what_was_not_measured_says_why(shown: Shown) -> None:
    reason = NotMeasured(not_measured="it does not fit")
    unknown = dict.fromkeys(("latency", "score", "peak_memory_bytes"), reason)
    rows = tuple(found.model_copy(update=unknown) for found in report().rows)
    none = dict.fromkeys(("speed_up", "latency_reduction", "retention", "retention_above_chance"))
    none = rows[-1].ratios.model_copy(update=none)
    page = shown(report(rows=rows, ratios=none))
    assert page.text.count("not measured: it does not fit") == 3 * len(rows)
    assert page.tags.count("svg") == 2


def test_of_several_datasets_each_has_its_figures(shown: Shown) -> None:
    reviews, news = row("distilled", 12_000_000, 13_000_000, 5.0, 0.9), row("distilled", 11_000_000, 12_000_000, 5.5, 0.7)
    *rows, last = report().rows
    rows.append(last.model_copy(update={"parts": {"reviews": reviews, "news": news}}))
    text = shown(report(rows=tuple(rows), headlines={"reviews": "reviews-int8", "news": "news-int8"})).text
    says(text, "· reviews", "· news", "reviews-int8", "news-int8", "90.00 % ± 1.00 %", "(news: accuracy, reviews: accuracy)")


def test_what_stands_beside_the_score_is_shown(shown: Shown) -> None:
    text = shown(report(rows=tuple(map(more_figures, report().rows)))).text
    says(text, "Other metrics", "bits per byte", "1.546 bits a byte ± 0.012", "arc_easy acc", "0.3980 ± 0.0250", "5-shot")
    assert "Other metrics" not in shown().text


def test_of_a_language_model_the_time_is_a_tokens(shown: Shown) -> None:
    text = shown(report(rows=tuple(map(generates, report().rows)))).text
    says(text, "batch 1, one token more behind a prompt of 128 tokens, 1 thread", "Latency per token, median", "156.2")
    assert "batch 1 × 128 tokens, 1 thread" in shown().text


def test_images_have_a_rate_and_each_layer_s_width(shown: Shown) -> None:
    last = changed(report().rows[-1], "latency", length=0)
    cut = {"before": 64, "after": 48, "asked": 0.3, "taken": 0.25}
    channels = cut | {"groups": {"channels.0": {"before": 64, "after": 48, "taken": 0.25}}}
    changes = {"task": "image-classification", "rows": (*report().rows[:-1], last), "pruning": {"channels": channels}}
    blocks = {
        "relu_9": {"influence": 0.25, "milliseconds": 1.5, "removed": True},
        "relu_16": {"influence": 0.5, "milliseconds": None, "removed": False},
    }
    changes["pruning"] = {"channels": channels, "layers": {"before": 2, "after": 1, "asked": 0.5, "taken": 0.5, "each": blocks}}
    page = shown(report().model_copy(update=changes))
    says(page.text, "156 images a second", "channels of each layer", "channels.0: 64 → 48")
    says(page.text, "Each of the layers", "relu_90.251.5removed", "relu_160.5not timedkept")
    assert "a second" not in shown().text
    assert "batch normalizations" not in page.text
    folding = Folding(norms=20, folded=19, elements=4800, activations=17)
    folded = last.model_copy(update={"folding": folding})
    page = shown(report().model_copy(update=changes | {"rows": (*report().rows[:-1], folded)}))
    says(page.text, "19 of 20 batch normalizations folded (4,800 elements fewer)")


def test_of_a_perplexity_words_and_pictures_say_which_way_is_better(shown: Shown) -> None:
    verdict = StageVerdict(met=(), missed=("retention",), best_before="baseline", worse_than="baseline", remedies=())
    worse = of_perplexity("quantized", 14.0).model_copy(update={"verdict": verdict})
    curve = (Sensitivity(ratio=0.1, taken=0.1, parameters=1, score=13.0),)
    found = report(rows=(of_perplexity("baseline", 12.0), worse), sensitivity={"ffn": curve})
    text = shown(found).text
    assert "Baseline scores better and is as small and fast" in text
    assert text.count("perplexity, lower is better") == 3  # beneath the bars, beside the curve and above its column
    plain = shown(report(sensitivity={"ffn": curve})).text
    assert "lower is better" not in plain
    assert "accuracy" in plain.partition("share removed")[2]


def test_it_draws_how_training_went_where_that_was_told(service: Service, http: httpx.Client, request_body: Json) -> None:
    job = done(service, http, request_body)
    for number, (stage, loss, score) in enumerate([("baseline", 0.7, 0.6), ("baseline", 0.4, 0.8), ("distilled", 0.3, None)]):
        told = {"stage": stage, "phase": "tune <b>", "step": number, "total": 3, "loss": loss, "score": score, "part": ""}
        add_progress(service, job, number, told)
    page = page_of(http, job)
    assert page.tags.count("svg") == 4 + 2, "one point is no curve"
    says(page.text, "Loss: Baseline", "Score on validation: Baseline")
    assert "Loss: Distilled" not in page.text
    assert "b" not in page.tags


def test_steps_that_a_later_attempt_repeated_are_drawn_once() -> None:
    told = [{"stage": "baseline", "phase": "tune", "step": step, "loss": 1 / step} for step in (1, 10, 20, 30, 15, 25, 35)]
    (picture,) = training(told)
    (line,) = re.findall(r'<polyline[^>]*points="([^"]+)"', picture.svg)
    across = [float(point.split(",")[0]) for point in line.split()]
    assert across == sorted(across)
    assert len(across) == 5


def test_validation_by_a_perplexity_is_called_so(
    service: Service, http: httpx.Client, browser: httpx.Client, request_body: Json
) -> None:
    rows = of_perplexity("baseline", 12.0), of_perplexity("quantized", 14.0)
    job, plain = done(service, http, request_body, report(rows=rows)), done(service, http, request_body)
    for one, number, score in [(each, number, score) for each in (job, plain) for number, score in enumerate((14.0, 12.5))]:
        told = {"stage": "baseline", "phase": "tune", "step": number, "total": 2, "loss": None, "score": score, "part": ""}
        add_progress(service, one, number, told)
    for one, called in ((job, "perplexity, lower is better"), (plain, "accuracy")):
        text = http.get(f"/v1/jobs/{one}/report.html").text
        drawn = re.search('aria-label="Score on validation: Baseline.*?</svg>', text, re.DOTALL)
        assert f">{called}</text>" in drawn[0]
    waits = http.post("/v1/jobs", json=request_body).json()["id"]
    sql(service, "UPDATE jobs SET task = 'causal-lm' WHERE id = %s", waits)
    other = http.post("/v1/jobs", json=request_body).json()["id"]
    for one, called in ((waits, "perplexity, lower is better"), (other, "score")):
        says(browser.get(f"/jobs/{one}").text, f'data-judged="{called}"', f"Validation {called}</th>")


def test_it_is_there_once_a_job_has_ended_and_not_sent_twice(service: Service, http: httpx.Client, request_body: Json) -> None:
    waiting = http.post("/v1/jobs", json=request_body).json()["id"]
    problem(http.get(f"/v1/jobs/{waiting}/report.html"), 404, "report_not_ready")
    place = f"/v1/jobs/{done(service, http, request_body)}/report.html"
    first, again = http.get(place), http.get(place, params={"download": True})
    assert again.content == first.content
    assert again.headers["content-disposition"] == f'attachment; filename="{place.split("/")[3]}-report.html"'
    assert first.headers["etag"].strip('"') == hashlib.sha256(first.content).hexdigest()
    assert http.get(place, headers={"If-None-Match": first.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("missing", ["choice", "headlines", "parts", "sensitivity", "uploaded"])
def test_a_report_of_before_a_field_was_kept_is_shown(
    service: Service, http: httpx.Client, request_body: Json, shown: Shown, missing: str
) -> None:
    old = json.loads(report().model_dump_json())
    del old[missing]
    job = http.post("/v1/jobs", json=request_body).json()["id"]
    end_well(service, job, json.dumps(old))
    assert page_of(http, job).tags.count("svg") == shown().tags.count("svg")


def test_samples_are_shown_to_the_team_until_their_dataset_is_deleted(
    service: Service, http: httpx.Client, request_body: Json
) -> None:
    whole, apart = split_samples(sampled().model_dump(mode="json"))
    job = done(service, http, request_body, Report.model_validate(whole))
    assert "img" not in page_of(http, job).tags
    sql(service, "UPDATE jobs SET samples = %s WHERE id = %s", json.dumps(apart), job)
    page = page_of(http, job)
    says(page.text, "a lovely film", "positive75.0 %", "negative75.0 %✗ wrong")
    assert [value for name, value in page.attributes if name == "src"] == ["data:image/png;base64,iVBORw0KGgo="]
    link = http.post(f"/v1/jobs/{job}/share", json={"expires_in": 600}).json()["url"]
    shared = Page(httpx.get(link).text)
    assert "img" not in shared.tags
    assert "a lovely film" not in shared.text
    assert http.get(f"/v1/jobs/{job}/report").json() == sampled().model_dump(mode="json")
    assert http.delete(f"/v1/datasets/{request_body['datasets'][0]}").status_code == 204
    left = http.get(f"/v1/jobs/{job}/report").json()
    assert left == whole
    assert [one["answers"] for one in left["artifacts"]] == [[], []]  # of questions they are stretches of the rows
    assert "img" not in page_of(http, job).tags


def test_the_axis_of_equal_scores_is_about_them() -> None:
    says(svg.curves("Size", {"sizes": [(1.0, 0.98), (2.0, 0.98)]}, "size", "accuracy").svg, ">0.96<", ">1<")
