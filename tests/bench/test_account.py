"""The account's own case: plans of its shapes by the service's preflight, and its figures beside what was found."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import engine
from bench.account import __main__ as bench, job, plan, published
from bench.account.table import account_table, plan_table, run_table
from bench.glue import datasets as glue
from bench.glue.statistics import Answers, kept
from bench.gpu_plan.shapes import SHAPES, Published
from compression.engine.commands.validate import validate
from compression.schema.job_spec import Data, ModelCheck, Spec
from compression.schema.recipe.recipe import LatencyTarget
from compression.schema.report.card_rows import CardFigures, CardReport, CardRow, CardState
from compression.schema.stages import Stage
from compression.schema.validation import DataFacts, ModelFacts
from tests.client.figures import report
from tests.compression.planning.test_planning import DATA

SST2 = glue.SETS["sst2"]
WIDTHS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY = Published("", "qwen2", 0, {**WIDTHS, "intermediate_size": 192, "vocab_size": 1024, "tie_word_embeddings": True})


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(job, "RECORDS", tmp_path / "records")
    return tmp_path / "records"


def test_its_shapes_classify_with_as_many_parameters_as_it_says() -> None:
    found = {name: plan.plan(shape, SST2, DATA, "standard")["preflight"] for name, shape in published.SHAPES.items()}
    whole = {name: one["baseline_parameters"]["total"] for name, one in found.items()}
    assert whole["2.1b"] == pytest.approx(2.13e9, rel=0.001)
    assert whole["1.5b"] == pytest.approx(1.54e9, rel=0.01)  # its output layer goes with the task
    for name, one in found.items():
        assert 0.685 < one["parameters"]["total"] / whole[name] <= 1 - published.REDUCTION
    assert found["2.1b"]["parameters"]["total"] < published.TARGETS.parameters  # type: ignore[operator]
    assert found["2.1b"]["estimate"]["card_bytes"] > found["1.5b"]["estimate"]["card_bytes"]


def test_a_plan_says_what_no_data_sheet_measures_and_how_long_cards_take() -> None:
    found = plan.plan("account-2.1b", SST2, DATA, "standard")
    assert isinstance(published.TARGETS.latency_ms, LatencyTarget)
    bound = next(note for note in found["preflight"]["warnings"] if "data sheet" in note)
    assert "not_measured" in bound
    hours = {name: one["training"] for name, one in found["minutes"].items()}
    assert hours["h100-sxm"] < hours["a100-80gb"] < hours["two cores"] / 10
    told = plan_table([found, {"shape": "x", "recipe": "article", "refused": {"code": "c", "cause": "d", "param": "e"}}])
    after = found["preflight"]["parameters"]["total"] / 1e9
    assert f"| 2.130 B | {after:.3f} B (" in told
    assert "refused: c: d (e)" in told


@pytest.mark.parametrize("path", sorted((job.RECORDS / "plan").glob("*.json")), ids=lambda path: path.stem)
def test_committed_plans_are_those_that_the_preflight_makes_today(path: Path) -> None:
    kept = json.loads(path.read_text("utf-8"))
    data = DataFacts.model_validate(kept["data"])
    made = json.loads(json.dumps(plan.plan(kept["shape"], glue.SETS[kept["set"]], data, kept["recipe"])))
    assert made == {name: value for name, value in kept.items() if name not in ("date", "revision", "environment")}, (
        "run python -m bench account for this shape again and check docs/benchmarks.md"
    )


def test_random_weights_of_a_shape_are_a_model_that_the_service_takes(tmp_path: Path) -> None:
    folder = job.random_model(TINY, ["one text", "another text of some words"], tmp_path / "model", 0)
    found = validate(ModelCheck(path=str(folder)), tmp_path)
    assert isinstance(found, ModelFacts), found
    assert (found.parameters.total, found.dtype) == (TINY.counted().parameters.total, "bfloat16")
    assert job.digest_of(folder) == job.digest_of(folder)


@pytest.mark.parametrize("card", [False, True])
def test_the_job_has_the_absolute_targets_and_ends_with_its_minutes(
    card: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: Path
) -> None:
    """Of any folder of a decoder: the account's own weights are one."""
    asked = dict[str, Any]()

    def run(folder: Path, spec: dict[str, Any], **more: Any) -> None:
        asked.update(more, folder=folder, spec=Spec(**spec, output="out"))
        raise engine.Stopped("later")

    monkeypatch.setattr(engine, "run", run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    model = job.random_model(TINY, ["one text", "another text of some words"], tmp_path / "R1-Distill", 0)
    data = Data.model_validate({"format": "jsonl", "splits": {"train": ["train.jsonl"]}})
    monkeypatch.setattr(glue, "prepare", lambda *_: (data, "digest"))
    with pytest.raises(engine.Stopped):
        bench.main(["--model", str(model), "--minutes", "9", "--folder", str(tmp_path / "runs")])
    spec: Spec = asked["spec"]
    assert (spec.model, spec.device) == (str(model), "cuda" if card else None)
    assert asked["folder"].name == "R1-Distill-sst2-8000-standard-0"
    assert 8.9 < asked["minutes"] <= 9
    assert (spec.targets.parameters, spec.targets.score) == (1.5e9, 74.3)
    assert spec.recipe.prune is not None
    assert spec.recipe.prune.target_params == published.REDUCTION
    assert not records.exists()
    with pytest.raises(SystemExit, match="nor a folder of a model"):
        bench.main(["--model", str(tmp_path / "none"), "--folder", str(tmp_path / "runs")])


def run_record(seed: int, after: list[float]) -> dict[str, Any]:
    rows = [{**row.model_dump(mode="json"), "targets": job.verdicts_of(row, published.TARGETS)} for row in report().rows]
    answers = {"before": 10 * [1.0, 1.0, 0.0, 1.0], "after": 10 * after, "wanted": 40 * [1.0]}
    about = {"model": "smollm2", "set": "sst2", "train_rows": 100, "preset": "standard", "seed": seed, "seconds": 60.0}
    about |= {"digest": "rows", "model_digest": "weights"}
    return {**about, "rows": rows, "answers": answers}


def test_runs_are_averaged_over_seeds_and_stand_beside_what_was_published(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, after in ((0, [1.0, 1.0, 0.0, 1.0]), (1, [1.0, 0.0, 0.0, 1.0])):
        path = job.path_of(f"smollm2-sst2-100-standard-{seed}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run_record(seed, after)))
    job.path_of("smollm2-sst2-100-article-0").write_text(json.dumps(run_record(0, [0.0] * 4)))
    bench.main(["--model", "smollm2", "--rows", "100", "--table-only"])
    told = capsys.readouterr().out
    assert "seeds 0, 1: 75.00% → 62.50% on test, kept 83.3%" in told
    assert "latency_ms on A100-80GB not_measured: unproven" in told
    assert "| latency on an A100 | ≤ 120 ms | 185 ms | 128 ms | −30.8 % | not_measured: no profile on A100-80GB |" in told
    assert "sst2 75.0 → 62.5, 83.3% kept" in told


def card_of(device: str, **changes: Any) -> CardReport:
    """Return figures of a card: of both ends in two runtimes, of which one is faster at batch 1."""

    def row(stage: Stage, runtime: str, *milliseconds: float, length: int = 64) -> CardRow:
        own = {"length": length, "p95_ms": 9.0, "runs": 50, "rows_per_second": 1.0}
        figures = [CardFigures(batch=batch, median_ms=ms, **own) for batch, ms in zip((1, 8), milliseconds, strict=True)]
        return CardRow(stage=stage, runtime=runtime, figures=tuple(figures), **changes)

    rows = (
        row("baseline", "PyTorch bfloat16", 9.0, 9.5),
        row("baseline", "ONNX Runtime CUDA", 8.0, 20.0),
        row("distilled", "PyTorch bfloat16", 8.5, 1.0),
        row("distilled", "ONNX Runtime CUDA", 6.0, 15.0),
        row("distilled", "vLLM", 2.0, 3.0, length=32),
    )
    return CardReport(device=device, before=CardState(), after=CardState(), rows=rows)


def test_a_shape_on_a_card_shows_what_the_card_took(
    tmp_path: Path, records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job itself and its answers are stand-ins; the model, the data, the record and the tables are as they are."""
    device, asked = "NVIDIA A100-SXM4-80GB", list[Spec]()

    def run(folder: Path, spec: dict[str, Any], **_: Any) -> engine.Run:
        asked.append(Spec(**spec, output="out"))
        return engine.Run(folder, report(card=card_of(device)), {}, 60.0)

    def prepare(_chosen: Any, _source: Any, folder: Path, _most: int | None) -> tuple[Data, str]:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": f"a text {number}", "label": ("bad", "good")[number % 2]}) + "\n" for number in range(100)]
        for split in ("train", "test"):
            (folder / f"{split}.jsonl").write_text("".join(lines))
        splits = {split: (str(folder / f"{split}.jsonl"),) for split in ("train", "test")}
        return Data.model_validate({"format": "jsonl", "splits": splits}), "digest"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: device)
    monkeypatch.setattr(engine, "run", run)
    monkeypatch.setattr(glue, "prepare", prepare)
    monkeypatch.setattr(job.compare, "answers", lambda *_: (np.ones(4), np.ones(4)))
    monkeypatch.setitem(SHAPES, "account-2.1b", TINY)
    monkeypatch.setattr(bench.gpu_plan, "DRY", ())
    bench.main(["--shape", "2.1b", "--folder", str(tmp_path)])
    told = capsys.readouterr().out
    latency = f"8.0 ms → 6.0 ms (-25.0%) in ONNX Runtime CUDA, 1 × 64 tokens, {device}"
    assert f"| latency on an A100 | ≤ 120 ms | 185 ms | 128 ms | −30.8 % | {latency} |" in told
    assert f"on {device}; weights are random" in told
    (spec,) = asked
    assert (spec.device, spec.recipe.train.max_minutes) == ("cuda", bench.CARD_TRAIN_MINUTES)
    assert len(Path(spec.data.splits["test"][0]).read_text().splitlines()) == bench.FEW_TEST_ROWS
    record = json.loads(job.path_of("2.1b-sst2-1600-standard-0").read_text("utf-8"))
    assert CardReport.model_validate(record["card"]) == card_of(device)
    bench.main(["--shape", "2.1b", "--folder", str(tmp_path)])  # it has its record
    assert len(asked) == 1


def test_another_card_s_figure_stands_beside_what_is_not_measured() -> None:
    def told(card: CardReport) -> str:
        run = run_record(0, [1.0] * 4) | {"card": card.model_dump(mode="json")}
        (line,) = [line for line in account_table([], [run]).splitlines() if "latency" in line]
        return line

    figure = "8.0 ms → 6.0 ms (-25.0%) in ONNX Runtime CUDA, 1 × 64 tokens, NVIDIA H100 80GB HBM3"
    assert told(card_of("NVIDIA H100 80GB HBM3")).endswith(f"| not_measured on an A100: {figure} |")
    shared = told(card_of("NVIDIA A100-PCIE-40GB", exclusive=False))
    assert shared.endswith("NVIDIA A100-PCIE-40GB, while another job was perhaps timed |")
    known = card_of("NVIDIA A100-PCIE-40GB")
    after = known.model_copy(update={"rows": known.rows[2:]})
    assert "| 6.0 ms after in ONNX Runtime CUDA, 1 × 64 tokens" in told(after)
    none = known.model_copy(update={"rows": (*known.rows[:2], known.rows[4])})
    assert told(none).endswith("| not_measured: NVIDIA A100-PCIE-40GB has no figure of 1 × 64 tokens |")


def test_a_shape_without_a_card_has_no_score(records: Path) -> None:
    found = plan.plan("account-2.1b", SST2, DATA, "standard")
    told = account_table([found], [])
    assert f"2.13 B → {found['preflight']['parameters']['total'] / 1e9:.2f} B (-3" in told
    assert "planned" in told
    assert told.splitlines()[-1].endswith("| not_measured |")
    random = run_record(0, [1.0] * 4) | {"random_weights": True, "device": "some card"}
    assert "on some card; weights are random" in run_table([random])
    assert account_table([], [random]).splitlines()[-1].endswith("| not_measured |")
    with pytest.raises(SystemExit, match="of several models or sets of rows"):
        run_table([run_record(0, [1.0] * 4), run_record(1, [1.0] * 4) | {"digest": "other rows"}])
    trial = run_record(0, [1.0] * 4) | {"trial_steps": 4}
    assert "a trial of 4 steps" in run_table([trial])
    assert account_table([], [trial]).splitlines()[-1].endswith("| not_measured |")


def test_an_interval_over_seeds_is_wider_than_over_rows_alone() -> None:
    wanted = np.ones(400)
    after = np.stack([np.where(np.arange(400) < 400 - wrong, 1.0, 0.0) for wrong in (0, 40, 80)])
    found = {"sst2": Answers(wanted, {"before": np.ones((3, 400)), "after": after})}
    alone, both = kept(found, "before", "after"), kept(found, "before", "after", over_seeds=True)
    assert both.share == alone.share == pytest.approx(0.9)
    assert both.high - both.low > alone.high - alone.low


def test_shapes_of_the_account_are_planned_dry_too() -> None:
    from bench.gpu_plan.__main__ import DRY

    assert {case.shape for case in DRY} >= set(published.SHAPES.values()) <= set(SHAPES)
