"""The table tells the figures of the report, and hides nothing that was missed or could not be measured."""

import io
from typing import Any

import pytest
from rich.console import Console

from app.pages.report_page.formatting import kept
from client.terminal import render
from client.terminal.predictions import answers
from client.types import Preflight
from compression.planning.verdicts import choose, judged
from compression.schema.prediction import Answer, Answered
from compression.schema.recipe.recipe import Targets
from compression.schema.report.averages import mean_row
from compression.schema.report.folding import Folding
from compression.schema.report.measurements import NotMeasured, Ratios, Row
from compression.schema.report.report import File, verdicts
from tests.client.figures import (
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
    searched,
    several,
    validated,
)
from tests.support.saying import says


def shown(found: object) -> str:
    out = io.StringIO()
    Console(file=out, width=160, color_system=None).print(found)
    return out.getvalue()


def test_the_last_row_tells_every_figure_and_its_change() -> None:
    sizes = ("distilled", "13.00 M (−35.0 %)", "14.00 MB int8 (−82.5 %)", "6.40 of 16.00 ms (2.50×)")
    validation = "–"  # a row of before it was scored
    scores = (validation, "78.40 ± 1.00 % (98.0 % kept)", "78.40 %, 3 rows changed")
    assert render.cells(report().rows[-1]) == (*sizes, *scores)


def test_rows_of_one_size_have_a_rate_in_the_task_s_own_word() -> None:
    last = changed(report().rows[-1], "latency", length=0, batch=4)  # 4 in 6.4 ms
    assert render.cells(last, task="image-classification")[3] == "6.40 of 16.00 ms (2.50×), 625 images a second"
    assert render.cells(last)[3].endswith(", 625 rows a second")
    assert "batch 4, 1 thread" in render.conditions([last])
    of_images = report().model_copy(update={"task": "image-classification", "rows": (last,)})
    assert "625 images a second" in render.report_markdown(of_images)


def test_a_forecast_tells_multiply_adds_and_no_list_of_widths() -> None:
    shape = {"layers": 8, "hidden": 512, "heads": 0, "ffn": 0, "groups": None, "widths": {"channels.0": 48}}
    found = Preflight(shape=shape, multiply_adds=600, baseline_multiply_adds=1000)
    assert render.forecast_lines(found) == ["Shape: layers 8, hidden 512", "Multiply-adds: 600 (−40.0 %)"]
    assert render.forecast_lines(Preflight(shape={"layers": 6})) == ["Shape: layers 6"]


def test_a_forecast_tells_what_a_job_takes_on_a_card_in_one_line() -> None:
    sizes = {"memory_bytes": 5 * 10**9, "card_bytes": 8 * 10**9, "host_bytes_with_card": 3 * 10**9}
    told = ["Estimate: memory 5.00 GB", "On a GPU: 8.00 GB of its memory and 3.00 GB of the host's"]
    assert render.forecast_lines(Preflight(estimate=sizes)) == told
    assert render.forecast_lines(Preflight(estimate={**sizes, "card_bytes": 0})) == told[:1]


def test_formats_beside_the_stages_have_a_table_with_figures_of_their_own() -> None:
    known = report()
    (own,), latency = known.artifacts, known.rows[-1].latency
    weights = File(path="model.safetensors", size=14_100_000, sha256="0" * 64)
    more = {"name": "distilled-transformers-int8", "kind": "transformers", "files": (weights,), "validation": own.score}
    found = own.model_copy(update=more | {"latency": latency, "trained_as_shipped": False})
    text = render.report_markdown(report(artifacts=(own.model_copy(update={"trained_as_shipped": True}), found)))
    score = "78.40 ± 1.00 %"
    line = (
        f"| distilled-transformers-int8 | PyTorch | 14.10 MB | 6.40 of 16.00 ms (2.50×) | {score} | {score} | made afterwards |"
    )
    assert [each for each in text.splitlines() if "PyTorch" in each] == [line]
    assert "its numbers" not in render.report_markdown(known)  # of before it was known
    untimed = found.model_copy(update={"latency": NotMeasured(not_measured="another runtime"), "trained_as_shipped": True})
    assert render.format_lines(report(artifacts=(untimed,)))[1][3:] == ("–", "78.40 ± 1.00 %", "78.40 ± 1.00 %", "as trained")


def test_a_recommended_format_has_its_reason_and_its_verdicts() -> None:
    found = recommending()
    for text in (shown(render.report_table(found)), render.report_markdown(found)):
        says(text, "distilled-openvino-int8 is recommended: it runs 3.20 times as fast", "met: speed up 3.20× (target 1.45×)")
        says(text, "met: speed up 2.50× (target 1.45×)")
    assert "ecommended" not in render.report_markdown(validated())


def test_the_baseline_has_no_change() -> None:
    sizes, scores = ("baseline", "20.00 M", "80.00 MB float32", "16.00 ms"), ("–", "80.00 ± 1.00 %", "80.00 %, 0 rows changed")
    assert render.cells(report().rows[0]) == (*sizes, *scores)


def test_retention_has_its_interval_on_both_splits_and_the_verdict_names_its_own() -> None:
    found = validated()
    assert render.cells(found.rows[-1])[4:6] == (
        "79.50 ± 1.00 % (99.4 % kept, 97.1 to 101.5 %)",
        "78.40 ± 1.00 % (98.0 % kept, 96.2 to 99.9 %)",
    )
    for text in (shown(render.report_table(found)), render.report_markdown(found)):
        assert "met: retention 99.4 % on validation, 95 % interval 97.1 % to 101.5 % (target 99.2 %)" in text
        assert "baseline_not_converged" not in text
    assert "Choices and verdicts read validation, 500 rows" in render.conditions(found.rows)
    assert render.ratios_text(found.ratios, 0.992).endswith("99.4 % kept, 97.1 to 101.5 %")


def test_a_figure_that_misses_does_not_read_as_its_target() -> None:
    kept, exact = (
        verdicts(row("distilled", 13_000_000, 14_000_000, 6.4, 0.8 * share, validation=0.8 * share), Targets())["retention"]
        for share in (0.9916, 0.992)
    )
    assert render.verdict_text("retention", kept).startswith("missed: retention 99.16 % on validation (target 99.2 %")
    assert render.verdict_text("retention", exact).startswith("met: retention 99.2 % on validation (target 99.2 %")


def test_a_number_is_shown_in_the_unit_that_it_is_rounded_to() -> None:
    assert [render.count(number) for number in (999, 999_996, 22_713_984)] == ["999", "1.00 M", "22.71 M"]
    assert [render.size(number) for number in (999, 999_999_999)] == ["999 B", "1.00 GB"]


def test_a_baseline_that_has_not_converged_is_flagged_wherever_something_is_kept_of_it() -> None:
    found = validated(is_converged=False)
    assert render.cells(found.rows[0])[0] == "baseline, not converged"
    assert render.cells(found.rows[-1])[4].endswith("(99.4 % kept, 97.1 to 101.5 %, unproven)")
    assert render.ratios_text(found.ratios, 0.992).endswith("kept, 97.1 to 101.5 %, unproven")
    for text in (shown(render.report_table(found)), render.report_markdown(found)):
        says(text, "unproven: retention 99.4 % on validation", "; baseline_not_converged)", "what is kept of its")
        assert "met: speed up 2.50×" in text  # as measured
    # A target that even such a baseline misses is missed, and nothing is left open.
    missed = changed(found.rows[-1], "ratios", retention_on_validation_interval=(0.49, 0.6))
    judged_row = judged(missed, [found.rows[0]], found.recipe, found.targets)
    lost = found.model_copy(update={"rows": (found.rows[0], judged_row), "ratios": judged_row.ratios})
    for text in (*render.cells(judged_row), render.ratios_text(lost.ratios, 0.992), kept(judged_row, "validation")):
        assert "unproven" not in text
    assert "baseline_not_converged" not in render.report_markdown(lost.model_copy(update={"verdicts": {}}))
    as_sent = validated(is_converged=None)
    assert render.cells(as_sent.rows[0])[0] == "baseline, not tuned here"
    assert "baseline_not_converged" not in render.report_markdown(as_sent)


def test_sizes_are_held_against_all_that_people_mean() -> None:
    assert render.sizes(report()) == "Size: −65.0 % against 16 bit, −82.5 % against float32."
    found = from_file()
    assert "−30.0 % against the file that was sent (20.00 MB Q8_0), −65.0 % against 16 bit" in render.sizes(found)
    assert render.sizes(found) in render.report_markdown(found)
    names = [name for name in Ratios.model_fields if not name.startswith("size_reduction_from")]
    plain = Ratios(**{name: getattr(found.ratios, name) for name in names})
    assert render.sizes(found.model_copy(update={"ratios": plain})) == ""


def test_the_terminal_shows_rows_targets_and_notes() -> None:
    text = shown(render.report_table(report()))
    stages = [line.strip("│ ").split()[0] for line in text.splitlines() if line.startswith("│")]
    assert stages == ["baseline", "quantized", "pruned", "distilled"]
    says(text, "met: parameter reduction 35.0 % (target 30.5 %)", "met: speed up 2.50× (target 1.45×)")
    says(text, "missed: retention 98.0 % on test (target 99.2 %)", "pruned: flops not measured: no counter here")
    says(text, "batch 1 × 128 tokens, 1 thread, onnxruntime 1.32.0", "accuracy on 1,000 test rows")


def test_a_quality_gate_is_told_of_the_headline_and_in_a_word_of_the_others() -> None:
    found = gated(gate_of(60, 10))
    for text in (shown(render.report_table(found)), render.report_markdown(found)):
        says(text, "Quality gate:", "regression, against baseline-onnx-float32. The score drops by 10.00 points (")
        says(text, "On 1,000 test rows the score drops by 10.00 points", "Others:", "distilled-openvino-int8")
    assert "Quality gate" not in shown(render.report_table(validated()))


def test_the_sizes_that_were_tried_are_listed_with_the_reason_for_one() -> None:
    found = searched()
    for text in (shown(render.report_table(found)), render.report_markdown(found)):
        text = " ".join(text.split())  # a terminal breaks long lines
        says(text, "Sizes tried, to keep 99.0 %:", "short: 8,000,000 parameters, 40.0 % of the original", "error 0.123")
        says(text, "keeps 97.00 ± 0.40 % after 200 steps, 98.50 % expected of a full one", "after 900 steps, chosen")
        says(text, "not distilled", "It met the target.")
    assert "Sizes tried" not in shown(render.report_table(report()))
    fastest = found.model_copy(update={"sizes": found.sizes.model_copy(update={"objective": "latency"})})
    text = " ".join(shown(render.report_table(fastest)).split())
    says(text, "8,000,000 parameters, 40.0 % of the original's predicted milliseconds")


def test_several_sizes_are_listed_with_what_each_keeps_and_which_is_the_best() -> None:
    found = several()
    for text in (shown(render.report_table(found)), render.report_markdown(found)):
        text = " ".join(text.split())  # a terminal breaks long lines
        says(text, "Sizes:", "distilled: 13,000,000 parameters, 65.0 % of the original", "99.9 % kept on validation")
        says(text, "point2: 10,000,000 parameters, 50.0 % of the original", "99.5 % kept on validation, best size")
        says(text, "Of 3 sizes, point2 is the smallest that keeps the target (10,000,000 parameters, 99.5% of the score kept")
    assert "Sizes:" not in shown(render.report_table(report()))


def test_what_is_folded_is_said_where_it_changes() -> None:
    whole, cut = (Folding(norms=5, folded=5, elements=count, activations=4) for count in (1200, 300))
    foldings = {"baseline": whole, "quantized": whole, "pruned": cut, "distilled": cut}
    rows = tuple(row.model_copy(update={"folding": foldings[row.stage]}) for row in report().rows)
    said = [note for note in render.notes(report().model_copy(update={"rows": rows})) if "folded" in note]
    assert said == [
        "baseline: 5 of 5 batch normalizations folded (1,200 elements fewer), 4 activations behind convolutions",
        "pruned: 5 of 5 batch normalizations folded (300 elements fewer), 4 activations behind convolutions",
    ]
    assert not any("folded" in note for note in render.notes(report()))


def test_of_several_datasets_the_mean_stands_above_its_parts() -> None:
    whole = report()
    rows: list[Row] = []
    for each in whole.rows:
        other = row(each.stage, each.parameters.total, each.size.bytes, 16.0, 0.6)
        rows.append(mean_row({"sst2": each, "rte": other}, rows[0] if rows else None))
    last = rows[-1]
    names = {"sst2": "distilled-onnx-int8-sst2", "rte": "distilled-onnx-int8-rte"}
    found = report(task="several", rows=tuple(rows), ratios=last.ratios, headlines=names)
    text = shown(render.report_table(found))
    firsts = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert firsts[-3:] == ["distilled", "· rte", "· sst2"]
    assert "69.20 ± 0.71 % (98.9 % kept)" in text
    plain = " ".join(text.split())
    assert "mean of parts (rte: accuracy, sst2: accuracy) on 2,000 test rows" in plain
    assert "the mean over distilled-onnx-int8-sst2, distilled-onnx-int8-rte" in plain
    table = [line for line in render.report_markdown(found).splitlines() if line.startswith("|")]
    assert len(table) == 2 + 4 * 3


def test_what_was_not_measured_is_a_dash_with_its_reason() -> None:
    why = NotMeasured(not_measured="the machine was too busy")
    last = changed(row("distilled", 13_000_000, 14_000_000, 6.4, 0.784, latency=why), "ratios", speed_up=None)
    found = report()
    found = found.model_copy(update={"rows": (*found.rows[:3], last), "verdicts": verdicts(last, found.targets)})
    assert render.cells(last)[3] == "–"
    text = shown(render.report_table(found))
    assert "distilled: latency not measured: the machine was too busy" in text
    assert "unproven: speed up not measured (target 1.45×)" in text


def test_of_a_language_model_the_time_is_a_tokens_and_generation_has_a_table_of_its_own() -> None:
    found = report(rows=tuple(map(generates, report().rows)))
    assert render.generation_lines(report().rows) == []
    head, baseline, *_, last = render.generation_lines(found.rows)
    assert head == ("generating", "prompt of 128, tokens/s", "32 tokens after it, tokens/s", "first token")
    assert baseline == ("baseline", "6,400", "62.5", "20.00 ms")
    assert last == ("distilled", "6,400 (baseline 3,200)", "156.2 (baseline 62.5)", "20.00 ms (baseline 40.00 ms)")
    told = "median of 200 runs, batch 1, one token more behind a prompt of 128 tokens, 1 thread, onnxruntime 1.32.0"
    for text in (" ".join(shown(render.report_table(found)).split()), render.report_markdown(found)):
        says(text, told, "× is against the original, timed in turns with it.", "156.2 (baseline 62.5)")
        assert "× 128 tokens" not in text


def test_a_language_model_in_another_runtime_has_its_speed_below_those_of_the_stages() -> None:
    known = report(rows=tuple(map(generates, report().rows)))
    form = further(kind="gguf-q8-0", latency=known.rows[-1].latency)
    found = known.model_copy(update={"artifacts": (*known.artifacts, form)})
    (*_, last), *_ = render.further_lines(found)
    assert last == ("distilled-gguf-q8-0", "6,400 (baseline 3,200)", "156.2 (baseline 62.5)", "20.00 ms (baseline 40.00 ms)")


def test_what_stands_beside_the_score_has_a_table_of_its_own() -> None:
    found = report(rows=tuple(map(more_figures, report().rows)))
    assert render.beside_lines(report().rows) == []
    head, bits, arc, gsm, wiki = render.beside_lines(found.rows)
    assert head == ("beside it", "baseline", "quantized", "pruned", "distilled")
    assert bits[:3] == ("bits per byte (1,000 test rows)", "1.55 bits a byte", "1.546 bits a byte ± 0.012")
    assert arc[:3] == ("arc_easy acc (lm-eval, 1,319 documents)", "0.4000 ± 0.0250", "0.3980 ± 0.0250")
    assert gsm[:2] == ("gsm8k exact match (strict-match) (lm-eval, 1,319 documents, 5-shot)", "0.0200")
    assert wiki[:3] == ("wikitext word perplexity (lm-eval, 1,319 documents, lower is better)", "–", "no number")
    tables = render.report_markdown(found).split("\n\n")
    assert tables[1].splitlines()[2].startswith("| bits per byte (1,000 test rows) | 1.55 bits a byte |")
    assert "arc_easy acc (lm-eval, 1,319 documents)" in shown(render.report_table(found))
    several = [mean_row({"news": each, "rte": row(each.stage, 1, 1, 1.0, 0.5)}, None) for each in found.rows]
    assert [line[0].split(":")[0] for line in render.beside_lines(several)[1:]] == ["news"] * 4


def test_markdown_is_one_table_whose_cells_cannot_break_it() -> None:
    text = render.report_markdown(report())
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 6
    assert {line.count("|") for line in table} == {8}
    says(text, "- validation was carved from train | 10 %", "- missed: retention 98.0 %")


@pytest.mark.parametrize(
    ("reduction", "text"), [(0.358, "−35.8 %"), (-0.02, "+2.0 %"), (0.0, "±0.0 %"), (0.0004, "±0.0 %"), (-0.0004, "±0.0 %")]
)
def test_a_reduction_is_shown_as_the_change_it_is(reduction: float, text: str) -> None:
    assert render.change(reduction) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (65, "1 min 5 s"), (3725, "1 h 2 min"), (-3, "0 s")])
def test_durations(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_the_choice_and_what_to_try_are_shown_once_each() -> None:
    found = report()
    rows = []
    for each in found.rows:
        rows.append(judged(each, rows, found.recipe, found.targets))
    found = found.model_copy(update={"rows": tuple(rows), "choice": choose(rows, found.targets)[1]})
    for text in (shown(render.report_table(found)), render.report_markdown(found)):
        assert "No stage meets all targets. quantized is shipped" in text
        assert text.count("recipe.distill.epochs 8 → ") == 1


@pytest.mark.parametrize(
    ("asked", "expected", "text"),
    [
        ({"question": "Where?", "context": "Paris"}, ("Paris", "in Paris"), "Paris or in Paris"),
        ({"question": "Where?", "context": "Paris"}, (), "no answer in the context"),
        ({"tokens": ["Ada", "here"]}, ("B-PER", "O"), "B-PER O"),
        ({"text": "good"}, "positive", "positive"),
        ({"text": "good"}, 0.5, "0.5"),
    ],
)
def test_what_the_data_expects_is_told_in_words(asked: dict[str, Any], expected: Any, text: str) -> None:
    answer = Answer(label="a", milliseconds=1.0, runs=3, runtime="onnxruntime", bytes=10)
    lines = answers(Answered(asked=asked, expected=expected, original=answer, compressed=answer))
    assert f"expected: {text}" in lines
