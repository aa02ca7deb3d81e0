"""A card's table of before and after: what is in each column, and what it says where a figure is missing."""

from compression.export.comparison_table import comparison
from compression.schema.artifact_formats import Kind
from compression.schema.report.before import Figures
from compression.schema.report.measurements import Generation, NotMeasured, Row
from compression.schema.report.report import Artifact
from tests.client.figures import changed, report, row, validated

NOTHING = NotMeasured(not_measured="Memory does not suffice.")
BASELINE = row("baseline", 20_000_000, 80_000_000, 16.0, 0.8)
DISTILLED = row("distilled", 13_000_000, 14_000_000, 4.0, 0.79)


def artifact(name: str = "distilled-onnx-int8", kind: Kind = "onnx") -> Artifact:
    return report().artifacts[0].model_copy(update={"name": name, "kind": kind, "stage": "distilled"})


def table(
    before: Row, after: Row, name: str = "distilled-onnx-int8", kind: Kind = "onnx", zeros: int = 0
) -> dict[str, list[str]]:
    facts = {"size": after.size, "latency": after.latency, "score": after.score, "validation": after.validation}
    own = Figures(**facts, peak_memory_bytes=after.peak_memory_bytes)
    return {figure: cells for figure, *cells in comparison([before, after], own, artifact(name, kind), zeros=zeros)}


def test_both_columns_and_the_change_are_those_of_the_rows() -> None:
    found = table(BASELINE, DISTILLED)
    assert found["parameters"] == ["20,000,000", "13,000,000", "−35.0%"]
    assert found["bytes of weights on disk"] == ["80,000,000", "14,000,000", "−82.5%"]
    filled = table(BASELINE, DISTILLED, zeros=1_000_000)
    assert filled["parameters"] == ["20,000,000", "14,000,000", "−30.0%"], "what the file has, of which some are zeros"
    score = found[f"{BASELINE.score.metric} on test"]
    assert (score[0][:7], score[1][:7], score[2]) == ("80.00% ", "79.00% ", "−1.00 points; 98.8% kept")
    (latency,) = [values for name, values in found.items() if name.startswith("latency")]
    assert latency == ["16.00 ms", "4.00 ms", "4.00× as fast"]


def test_rows_of_one_size_have_a_rate_and_those_of_tokens_none() -> None:
    images = changed(DISTILLED, "latency", length=0)
    facts = {"size": images.size, "latency": images.latency, "score": images.score, "peak_memory_bytes": 1}
    found = comparison([BASELINE, images], Figures(**facts), artifact(), "image")
    assert ("images a second", "62.5", "250.0", "4.00× as fast") in found
    assert ("latency, median of batch 1", "16.00 ms", "4.00 ms", "4.00× as fast") in found
    assert not [figure for figure in table(BASELINE, DISTILLED) if "a second" in figure]


def test_what_is_kept_of_both_splits_has_the_interval_of_the_row_s_own_artifact() -> None:
    before, after = validated().rows
    found = table(before, after)
    assert [name for name in found if name.startswith("accuracy")] == ["accuracy on validation", "accuracy on test"]
    assert found["accuracy on validation"][2] == "−0.50 points; 99.4% kept (95 % interval 97.1% to 101.5%)"
    assert found["accuracy on test"][2] == "−1.60 points; 98.0% kept (95 % interval 96.2% to 99.9%)"
    other = table(before, after, name="distilled-transformers-int8")  # whose figures are its own
    assert other["accuracy on validation"][2] == "−0.50 points; 99.4% kept"


def test_the_metrics_beside_the_headline_have_both_columns_too() -> None:
    metric = BASELINE.score.metric
    before, after = (
        one.model_copy(update={"score": one.score.model_copy(update={"metrics": {metric: 0.5, "f1": share}})})
        for one, share in ((BASELINE, 0.75), (DISTILLED, 0.7))
    )
    assert table(before, after)["f1 on test"] == ["75.00%", "70.00%", ""]


def test_a_perplexity_changes_by_a_share_and_generation_in_tokens_a_second() -> None:
    worded = {"metric": "perplexity", "lower_is_better": True}
    before = BASELINE.model_copy(update={"score": BASELINE.score.model_copy(update={**worded, "value": 20.0})})
    own = {"prefill_per_second": 300, "decode_per_second": 50, "first_token_ms": 1}
    base = {"baseline_prefill_per_second": 100, "baseline_decode_per_second": 40, "baseline_first_token_ms": 2}
    latency = DISTILLED.latency.model_copy(update={"generation": Generation(prompt=8, tokens=4, **own, **base)})
    score = BASELINE.score.model_copy(update={**worded, "value": 25.0})
    found = table(before, DISTILLED.model_copy(update={"score": score, "latency": latency}))
    assert found["perplexity on test"][2] == "+25.0%; 80.0% kept"
    assert found["tokens a second, reading a prompt"] == ["100.0", "300.0", "3.00× as fast"]
    assert found["tokens a second, one after the other"] == ["40.0", "50.0", "1.25× as fast"]


def test_what_was_not_measured_has_no_change() -> None:
    nothing = DISTILLED.model_copy(update={"score": NOTHING, "latency": NOTHING, "peak_memory_bytes": NOTHING})
    found = table(BASELINE, nothing)
    assert found["score on test"][1:] == ["not measured", "–"]
    assert found["latency, median"] == ["16.00 ms", "not measured", "–"]
    assert found["bytes of resident memory, only serving"][1:] == ["not measured", "–"]


def test_memory_of_two_runtimes_is_not_compared() -> None:
    name = "bytes of resident memory, only serving"
    one, other = table(BASELINE, DISTILLED)[name], table(BASELINE, DISTILLED, kind="transformers")[name]
    assert one[:2] == other[:2]
    assert one[2].endswith("%")
    assert other[2] == "– (another runtime)"
    for kind in ("onnx-f16", "triton"):
        assert table(BASELINE, DISTILLED, kind=kind)[name] == one, "other formats of one runtime"
