"""What is asked of a language model that becomes a classifier: a job that is accepted, and a third less of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import classifier, engine
from bench.glue import compare, datasets as glue
from bench.glue.statistics import METRICS
from compression.modalities.scoring.classification import ClassScorer
from compression.planning.preflight import preflight
from compression.schema.job_spec import Data, Spec
from compression.schema.recipe.recipe import Evaluate
from tests.client.figures import changed, report, row
from tests.compression.planning.test_planning import DATA
from tests.support.facts import SMOLLM2, decoder_facts

DATA_OF_A_JOB = Data.model_validate({"format": "jsonl", "splits": {"train": ["train.jsonl"]}})


def test_the_job_is_accepted_and_leaves_less_than_70_per_cent() -> None:
    recipe = classifier.recipe_of(tuned=2, distilled=3, seed=1)
    plan = preflight(decoder_facts("llama", SMOLLM2), DATA, recipe, Evaluate(length=64))
    assert plan.parameters.total < 0.7 * plan.baseline_parameters.total
    assert (recipe.prepare.epochs, recipe.distill.epochs if recipe.distill else 0, recipe.train.seed) == (2, 3, 1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Spec]:
    """What the engine is asked for; it ends at once."""
    found = list[Spec]()

    def run(_folder: Path, spec: dict[str, Any]) -> None:
        found.append(Spec(**spec, output="out"))
        raise SystemExit

    monkeypatch.setattr(engine, "run", run)
    monkeypatch.setattr(glue, "prepare", lambda *_: (DATA_OF_A_JOB, "digest"))
    return found


@pytest.mark.parametrize(("name", "metric", "positive"), [("mrpc", "accuracy_f1", "1"), ("sst2", "auto", None)])
def test_a_set_is_judged_as_glue_and_the_article_judge_it(
    name: str, metric: str, positive: str | None, tmp_path: Path, asked: list[Spec]
) -> None:
    with pytest.raises(SystemExit):
        classifier.main(["--set", name, "--model", str(tmp_path), "--folder", str(tmp_path / "runs")])
    (evaluate,) = (spec.evaluate for spec in asked)
    assert (evaluate.metric, evaluate.positive, evaluate.length) == (metric, positive, 64)
    answers, wanted = np.array([1, 1, 0, 1]), np.array([1, 0, 0, 1])
    scorer = ClassScorer.of(Evaluate.model_validate(evaluate.model_dump()), ("0", "1"))
    found = scorer.worth(answers, wanted)[scorer.metric]
    assert found == pytest.approx(METRICS[name](answers.astype(float), wanted.astype(float)))


def test_another_model_is_another_run(tmp_path: Path, asked: list[Spec]) -> None:
    """Each is a GGUF file, which the engine unpacks anew; what is unpacked once beside the runs would be the first one's."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.gguf").touch()
        with pytest.raises(SystemExit):
            classifier.main(["--model", str(tmp_path / name), "--folder", str(tmp_path / "runs")])
    assert [spec.model for spec in asked] == [str(tmp_path / "one"), str(tmp_path / "two")]


def test_a_row_says_what_went_and_what_is_kept() -> None:
    cells = classifier.line(row("distilled", 13_000_000, 12_000_000, 4.0, 0.79)).strip("| ").split(" | ")
    assert cells == ["distilled", "13.00 M (-35.0%)", "12.0 MB (-85.0%)", "4.0 ms (4.00×)", "79.00% ± 1.00%", "98.8%"]


def test_a_row_of_which_nothing_can_be_kept_is_printed_all_the_same() -> None:
    none = changed(row("distilled", 13_000_000, 12_000_000, 4.0, 0.79), "ratios", retention=None)
    assert classifier.line(none).endswith("| – |")


@pytest.mark.parametrize(("right", "said"), [(97, "short of 98% by 1.0%"), (100, "98% were asked")])
def test_what_is_kept_is_told_with_its_interval(right: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = np.ones(200)
    after = np.where(np.arange(200) < 2 * right, 1.0, 0.0)
    monkeypatch.setattr(compare, "answers", lambda folder, _: (wanted if "baseline" in folder.name else after, wanted))
    stages = [row("baseline", 22_000_000, 90_000_000, 16.0, 1.0), row("distilled", 13_000_000, 12_000_000, 4.0, right / 100)]
    stages = [one.model_copy(update={"artifact": f"{one.stage}-onnx"}) for one in stages]
    run = engine.Run(tmp_path, report().model_copy(update={"rows": tuple(stages)}), {}, 1.0)
    told = classifier.share(run, "sst2", tmp_path / "test.jsonl")
    assert told.startswith(f"kept: {right}.00% [")
    assert told.endswith(said)
