"""A report with what a GPU's runtimes measured: shown where reports are, and absent from others."""

import datetime as dt
from html import unescape

from app.pages.report_page.page import About, render
from client.terminal.render import report_markdown
from compression.schema.report.card_rows import CardFigures, CardReport, CardRow, CardState
from compression.schema.report.report import Report
from tests.client.figures import report

FIGURES = CardFigures(batch=8, length=128, median_ms=4.0, p95_ms=4.5, runs=50, rows_per_second=2000, peak_bytes=1_500_000_000)
CARD = CardReport(
    device="NVIDIA H100",
    before=CardState(sm_mhz=1980, power_limit_watts=700),
    after=CardState(missing="nvidia-ml-py is not installed."),
    rows=(
        CardRow(stage="baseline", runtime="PyTorch bfloat16", figures=(FIGURES,)),
        CardRow(stage="distilled", runtime="vLLM", not_measured="vLLM is not installed."),
    ),
)
LINES = (
    "baseline in PyTorch bfloat16: batch 8 × 128 tokens 4 ms, 2,000 rows a second, 1.50 GB",
    "distilled in vLLM not measured: vLLM is not installed.",
    "The GPU before: 1980 MHz, 700 W at most; after: unknown: nvidia-ml-py is not installed.",
)


def test_rows_and_clocks_are_listed_and_a_report_without_them_is_as_before() -> None:
    whole = report(card=CARD)
    assert Report.model_validate_json(whole.model_dump_json()) == whole
    text = report_markdown(whole)
    assert "On the worker's NVIDIA H100:" in text
    assert all(line in text for line in LINES)
    assert "card" not in report().model_dump()
    assert "On the worker's" not in report_markdown(report())


def test_the_report_s_page_lists_them_too() -> None:
    about = About("job_1", "a job", {}, dt.datetime(2026, 11, 29, tzinfo=dt.UTC))
    found = render(report(card=CARD), about)
    assert "On the worker's NVIDIA H100" in unescape(found)
    assert all(line in unescape(found) for line in LINES)
    assert "On the worker" not in render(report(), about)
