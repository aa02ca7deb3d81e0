"""A report with what devices measured: the target of latency is judged by its own device."""

from typing import Any

import pytest
from pydantic import ValidationError

from client.terminal.render import report_markdown
from compression.schema.job_spec import Spec
from compression.schema.profile import Profile
from compression.schema.profile_figures import ProfileFigures
from compression.schema.recipe.recipe import JobEvaluate, Targets
from compression.schema.report.device_rows import DeviceRow
from compression.schema.report.report import Report, verdicts
from tests.client.figures import recommending, report
from tests.support.profiles import measured


def asking(most: float) -> Report:
    targets = Targets.model_validate({"latency_ms": {"value": most, "device": "pi"}})
    return report(targets=targets, verdicts=verdicts(report().rows[-1], targets))


def row(**changes: Any) -> DeviceRow:
    figures = ProfileFigures.of(Profile.model_validate(measured(**changes)))
    return DeviceRow(device="pi", artifact="a", state="done", profile="prf_1", figures=figures)


SILENT = DeviceRow(device="pi", artifact="b", state="not_measured", reason="It was off.")


def test_the_target_is_judged_by_its_device_alone() -> None:
    other = row().model_copy(update={"device": "board"})
    assert asking(2).with_devices((other,)).verdicts == asking(2).verdicts
    met = asking(2).with_devices((other, row())).verdicts["latency_ms"]
    assert (met.status, met.value, met.code, met.reason, met.met) == ("met", 2.0, None, None, True)
    assert asking(1.9).with_devices((row(),)).verdicts["latency_ms"].status == "missed"
    assert asking(2).with_devices((row(),)).verdicts["retention"] == asking(2).verdicts["retention"]


def test_a_row_without_a_figure_leaves_the_target_unproven_with_its_reason() -> None:
    found = asking(2).with_devices((row(), SILENT)).verdicts["latency_ms"]
    assert (found.status, found.value, found.reason) == ("unproven", None, "pi: b not measured: It was off.")


def test_a_language_model_is_held_to_a_further_token() -> None:
    tokens = row(decoding={"median_ms": 0.5, "p95_ms": 0.6, "samples_ms": [0.5]})
    assert tokens.latency_ms == 0.5
    assert "0.5 ms a further token" in tokens.text


def test_the_table_lists_devices_and_a_report_without_them_is_as_before() -> None:
    whole = asking(2).with_devices((row(), SILENT))
    assert Report.model_validate_json(whole.model_dump_json()) == whole
    text = report_markdown(whole)
    assert "On devices:" in text
    assert "pi: b not measured: It was off." in text
    assert "devices" not in report().model_dump()
    assert "On devices" not in report_markdown(report())


def test_the_recommended_form_is_judged_by_rows_of_its_own_artifact() -> None:
    known = recommending()
    targets = Targets.model_validate({"latency_ms": {"value": 2, "device": "pi"}})
    assert known.recommended is not None
    best = known.recommended.model_copy(update={"verdicts": verdicts(known.rows[-1], targets)})
    known = known.model_copy(update={"recommended": best, "verdicts": best.verdicts})

    def latency(*rows: DeviceRow) -> tuple[str, str | None]:
        found = known.with_devices(rows).recommended
        assert found is not None
        assert found.verdicts["retention"] == best.verdicts["retention"]
        return found.verdicts["latency_ms"].status, found.verdicts["latency_ms"].reason

    shipped, own = (row().model_copy(update={"artifact": name}) for name in (known.headline, best.artifact))
    assert latency(shipped) == ("unproven", "The recommended form was not profiled on it.")
    assert known.with_devices((shipped,)).verdicts["latency_ms"].status == "met"
    assert latency(own) == ("met", None)


def test_the_engine_refuses_devices_which_it_cannot_ask() -> None:
    data = {"format": "jsonl", "splits": {"train": ["train.jsonl"]}}
    plain: dict[str, Any] = {"model": "model", "data": data, "output": "out"}
    named = JobEvaluate(devices=("pi",), device_seconds=5, threads=2)
    for refused in (named, JobEvaluate(device_seconds=5)):
        with pytest.raises(ValidationError, match=r"evaluate\.devices are asked by a service's worker"):
            Spec(**plain, evaluate=refused)
    assert Spec(**plain, evaluate=named.without_devices).evaluate == JobEvaluate(threads=2)
