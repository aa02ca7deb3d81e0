"""Memory plans without a card: shapes are those that are published, and a dry run counts what training takes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.gpu_plan import __main__ as bench, cards, measured
from bench.gpu_plan.cut import cut
from bench.gpu_plan.dry_run import dry_run
from bench.gpu_plan.shapes import SHAPES, Published
from bench.gpu_plan.step import Case, made
from compression.models.adapters.registry import adapter_of
from compression.planning.card_memory import card_memory
from compression.planning.cut_memory import cut_bytes

WIDTHS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY = Published("", "llama", 0, {**WIDTHS, "intermediate_size": 192, "vocab_size": 512, "tie_word_embeddings": True})


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY)


@pytest.mark.parametrize("name", list(SHAPES))
def test_shapes_have_as_many_parameters_as_their_authors_state(name: str) -> None:
    assert SHAPES[name].counted().parameters.total == SHAPES[name].parameters


def test_a_dry_run_counts_weights_moments_copies_and_activations() -> None:
    case = Case("tiny", "tune", batch=2, length=32, precision="float32")
    parameters = TINY.counted().parameters.total
    few, more = dry_run(case), dry_run(replace(case, batch=8))
    assert 20 * parameters < few["Total"] < more["Total"]
    assert few["Optstate"] == pytest.approx(8 * parameters, rel=0.01)
    again = dry_run(replace(case, batch=8, recompute=True))
    assert again["Total"] < more["Total"]


def test_a_student_has_its_teacher_beside_it_and_in_8_bits_a_smaller_one() -> None:
    case = Case("tiny", "distill", batch=2, length=32)
    whole, rounded = dry_run(case)["Total"], dry_run(replace(case, teacher="int8"))["Total"]
    layers = TINY.counted().parameters.other
    assert whole - rounded == pytest.approx(3 * layers, rel=0.1)


def test_records_are_set_beside_forecasts_and_what_has_none_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "RECORDS", tmp_path)
    case = Case("tiny", "distill", batch=2, length=32)
    assert "not_measured: there is no record" in bench.line(case, real=False)
    planned = bench.forecast(case, device="cuda")
    for total, within in ((planned, True), (2 * planned, False)):
        monkeypatch.setattr("bench.gpu_plan.dry_run.dry_run", lambda _, total=total: {"Total": total})
        bench.keep(case, real=False)
        assert bench.line(case, real=False).endswith(f"| {planned / total:.2f} | {within} |")
    monkeypatch.setattr(bench, "measure", lambda _: {"libraries": 1, "peak": 10**9})
    bench.keep(case, real=True)
    assert "| 1.00 GB |" in bench.line(case, real=True)
    assert {path.parent.name for path in tmp_path.rglob("*.json")} == {"dry", "measured"}


def test_committed_records_are_of_the_cases_and_within_the_bound() -> None:
    for real, cases in ((False, bench.DRY), (True, bench.REAL)):
        for case in cases:
            found = json.loads(bench.path_of(case, real=real).read_text())
            assert Case(**found["case"]) == case
            assert bench.line(case, real=real).endswith("| True |")


def test_an_8_billion_model_fits_eight_cards_and_one_as_the_documentation_says(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--cards"])
    printed = capsys.readouterr().out.strip()
    assert printed in (measured.ROOT / "docs/gpu.md").read_text("utf-8")
    sizes = {name: card_memory(cards.job_of(*changes))[0] for name, *changes in cards.CARDS}
    fits = [name for name, size in sizes.items() if size <= cards.CARD_BYTES]
    assert fits == ["eight cards", "one card, `optimizer: adamw-8bit`, `prepare.epochs: 0`"]
    told = [f"{sizes[name] / 1e9:.0f} GB" for name in fits]
    sentence = f"eight cards of 80 GB ({told[0]} on the first, while it distills), and one card"
    assert sentence in (measured.ROOT / "docs/benchmarks.md").read_text("utf-8")
    eight = cards.job_of({"devices": 8}, {})
    assert cut_bytes(eight, "cpu") > cards.CARD_BYTES > cut_bytes(eight, "cuda"), (
        "the teacher beside the cut is what was too much"
    )


def test_a_cut_is_the_stage_s_own_and_its_forecast_that_of_a_cut() -> None:
    case = Case("tiny", "cut", batch=4, length=32)
    left = cut(case, made(TINY.stock))
    assert adapter_of(left).shape_of(left.config) == case.cut
    assert bench.forecast(case, device="cpu") == cut_bytes(case.job, "cpu") > cut_bytes(replace(case, batch=1).job, "cpu")


def test_a_real_training_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ChildProcessError, match="KeyError"):
        measured.measure(Case("tiny", "tune", batch=1, length=32))  # no shape of the child's
