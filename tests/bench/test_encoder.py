"""What the encoders' bench prints: retention of both splits with its interval, and whether the original has converged."""

import json

from bench.__main__ import line, original
from bench.glue import records
from compression.schema.report.measurements import Row
from compression.schema.report.preparation import Preparation

REASON = "3 epochs are too few to see whether validation had stopped gaining."


def measured(**ratios: object) -> Row:
    """The distilled row of a run that was recorded, with other ratios."""
    found = json.loads((records.ROOT / "stsb-0" / "standard.json").read_text("utf-8"))["shipped"]
    return Row.model_validate({**found, "ratios": {**found["ratios"], **ratios}})


def test_a_share_has_the_interval_of_its_split() -> None:
    intervals = {"retention_interval": (0.961, 0.999), "retention_on_validation_interval": (0.982, 1.003)}
    row = measured(retention=0.98, retention_on_validation=0.99, **intervals)
    assert "| 99.0% [98.2%, 100.3%] | 98.0% [96.1%, 99.9%] |" in line(row)
    assert "| – | 98.0% |" in line(measured(retention=0.98)), "a report of before intervals were kept"


def test_an_original_that_has_not_converged_is_said_to_prove_nothing() -> None:
    row = measured(baseline_not_converged=True).model_copy(update={"preparation": Preparation(converged=False, reason=REASON)})
    assert original(row) == f"{REASON} What is kept of it is unproven; sizes and speeds stand.\n"
    sent = measured().model_copy(update={"preparation": Preparation(converged=None, reason="Taken as it was sent.")})
    assert original(sent) == "Taken as it was sent.\n"
    assert original(measured()) == "How the original was prepared is not known.\n"
