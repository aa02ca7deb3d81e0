"""SQuAD's bench: articles are split as wholes, and a job is asked that the service takes, or refuses by itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import engine
from bench.squad import __main__ as bench, articles
from compression.modalities.registry import modality_of
from compression.schema.job_spec import Spec
from compression.schema.validation import DataFacts
from tests.client.figures import changed, report


def article(number: int) -> dict[str, Any]:
    context = f"Article {number} says that the answer is {number}."
    start = context.index(f"is {number}") + 3
    known = {"question": f"What is answer {number}?", "answers": [{"text": str(number), "answer_start": start}]}
    none = {"question": "Who says it?", "is_impossible": True, "answers": []}
    return {"title": f"A{number}", "paragraphs": [{"context": context, "qas": [{**known, "is_impossible": False}, none]}]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "v2.0", "data": [article(number) for number in range(16)]}))
    return path


def test_no_article_is_in_two_splits_and_the_service_reads_them(source: Path, tmp_path: Path) -> None:
    data, facts = articles.prepare(source, tmp_path / "data")
    each = [set(facts[split]["articles"]) for split in ("train", "validation", "test")]
    assert [len(one) for one in each] == [10, 2, 4]
    assert len(set.union(*each)) == 16
    found = modality_of("question-answering").check(data, tmp_path, "question-answering")
    assert isinstance(found, DataFacts), found
    assert found.rows == {"train": 20, "validation": 4, "test": 8}
    assert facts["test"]["without_answer"] == 4
    assert articles.prepare(source, tmp_path / "again")[1] == facts


def test_a_trial_has_fewer_questions(source: Path, tmp_path: Path) -> None:
    _, facts = articles.prepare(source, tmp_path / "data", 10)
    assert (facts["train"]["questions"], facts["test"]["questions"]) == (10, 8)
    _, facts = articles.prepare(source, tmp_path / "data", answerable=True)
    assert [(facts[split]["questions"], facts[split]["without_answer"]) for split in ("train", "test")] == [(10, 0), (4, 0)]
    with pytest.raises(SystemExit, match="is not there"):
        articles.prepare(tmp_path / "none.json", tmp_path / "data")


@pytest.mark.parametrize(
    ("model", "target", "axes"), [("minilm", None, ("hidden", "heads", "ffn")), ("smollm2", 0.305, ("ffn",))]
)
def test_the_job_asks_for_windows_and_a_decoder_for_its_own_cut(
    model: str, target: float | None, axes: tuple[str, ...], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list[Spec]()

    def run(_folder: Path, spec: dict[str, Any], **_more: Any) -> None:
        found.append(Spec(**spec, output="out"))
        raise engine.Stopped

    monkeypatch.setattr(engine, "run", run)
    monkeypatch.setattr(bench, "model_folder", lambda *_: tmp_path)
    asked = ["--data", str(source), "--model", model, "--folder", str(tmp_path), "--records", str(tmp_path / "records")]
    with pytest.raises(engine.Stopped):
        bench.main([*asked, "--max-steps", "4", "--epochs", "2", "--distill-epochs", "1"])
    (spec,) = found
    assert spec.recipe.prune is not None
    assert (spec.recipe.prune.target_params, spec.recipe.prune.axes) == (target, axes)
    assert spec.recipe.prepare.epochs == 2
    assert spec.recipe.distill is not None
    assert spec.recipe.distill.epochs == 1
    assert (spec.task, spec.recipe.train.max_length, spec.recipe.train.max_steps) == ("question-answering", 384, 4)


def test_records_are_printed_with_both_metrics_and_their_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"f1": 0.71, "exact_match": 0.66, "exact_match_unanswerable": 0.6}
    rows = [changed(row, "score", metrics=figures, standard_errors={"f1": 0.012}) for row in report().rows]
    splits = {"train": {"questions": 3800}, "test": {"questions": 1500}}
    about = {"model": "minilm", "preset": "standard", "seed": 0, "max_steps": None, "splits": splits}
    (tmp_path / "one.json").write_text(json.dumps({**about, "rows": [row.model_dump(mode="json") for row in rows]}))
    bench.main(["--table-only", "--records", str(tmp_path)])
    told = capsys.readouterr().out
    assert "| 3,800, 1,500 | baseline |" in told
    assert "| 66.00% | 71.00% ± 1.20% | not_measured | 60.00% |" in told
    assert "at chance" not in told
    guessing = [changed(row, "score", chance=row.score.value) for row in report().rows]
    (tmp_path / "one.json").write_text(json.dumps({**about, "rows": [row.model_dump(mode="json") for row in guessing]}))
    bench.main(["--table-only", "--records", str(tmp_path)])
    assert capsys.readouterr().out.count("| at chance |") == len(guessing)
    bench.main(["--table-only", "--records", str(tmp_path / "none")])
    assert "not_measured" in capsys.readouterr().out


def test_a_record_of_other_data_is_not_taken_for_this_ones(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, facts = articles.prepare(source, tmp_path / "data")
    records = tmp_path / "records"
    command = ["--data", str(source), "--folder", str(tmp_path), "--records", str(records)]
    records.mkdir()
    rows = [row.model_dump(mode="json") for row in report().rows]
    kept = {"model": "minilm", "preset": "standard", "seed": 0, "max_steps": None, "splits": facts, "rows": rows}
    (records / "minilm-standard-0.json").write_text(json.dumps(kept))
    bench.main(command)
    assert "minilm, standard, seed 0" in capsys.readouterr().out
    (records / "minilm-standard-0.json").write_text(json.dumps(kept | {"splits": {}}))
    with pytest.raises(SystemExit, match="is of other data"):
        bench.main(command)
