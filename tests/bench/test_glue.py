"""What bench/glue computes itself: rows read from copies, shares kept and their intervals."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import engine
from bench.glue import __main__ as program, datasets as glue, records, statistics, unlabelled
from bench.glue.__main__ import OWN, _answers, _by_row, _changed, _mean, _score, _why_left_out
from bench.glue.cells import ABLATION, ORIGINAL, Cell, recipe_named
from bench.glue.records import Record
from bench.glue.statistics import Answers
from compression.schema.job_spec import Data
from compression.schema.recipe.distill import General
from compression.schema.recipe.presets import PRESETS
from compression.schema.report.report import Report
from compression.schema.stages import STAGES
from tests.support.unmeasured import unmeasured

DATA = Data(format="jsonl", splits={"train": ("t",)})
MEASURED: dict[str, Any] = {"baseline": unmeasured(), "shipped": unmeasured(), "seconds": 3.0, "environment": {}}


def cell_in(folder: Path) -> Cell:
    """A cell whose model has a folder."""
    (folder / "model").mkdir()
    pool = (folder / "pool", "p")
    return Cell(glue.SETS["rte"], DATA, "abc", pool, 0, folder, folder / "kept", folder / "model", 32, None)


def copies(folder: Path) -> Path:
    """The four sets in the layout of the copies, ten rows a file."""
    for name in glue.SETS:
        (folder / name).mkdir(parents=True)
    sst2 = "sentence\tlabel\n" + "".join(f'film "{n} is fine \t{n % 2}\n' for n in range(10))
    for part in ("train_60614", "train_rest_6735", "glue_dev_872"):
        (folder / "sst2" / f"{part}.tsv").write_text(sst2, "utf-8")
    mrpc = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n" + "".join(f"{n % 2}\t1\t2\ta {n}\tb {n}\n" for n in range(10))
    stsb = "".join(f"main\tfile\t2012\t{n}\t{n / 2:.3f}\ta {n}\tb {n}\n" for n in range(10))
    rte = "".join(json.dumps({"premise": f"a {n}", "hypothesis": f"b {n}", "label": "entailment"}) + "\n" for n in range(10))
    for part in ("train", "test"):
        (folder / "mrpc" / f"msr_paraphrase_{part}.txt").write_text(mrpc, "utf-8")
        (folder / "stsb" / f"sts-{part}.csv").write_text(stsb, "utf-8")
    for part in ("train", "val"):
        (folder / "rte" / f"{part}.jsonl").write_text(rte, "utf-8")
    return folder


@pytest.mark.parametrize("name", list(glue.SETS))
def test_rows_are_read_and_held_out(name: str, tmp_path: Path) -> None:
    chosen, source = glue.SETS[name], copies(tmp_path / "copies")
    data, digest = glue.prepare(chosen, source, tmp_path / "out", most=None)
    files = {split: Path(paths[0]).read_text("utf-8").splitlines() for split, paths in data.splits.items()}
    rows = {split: [json.loads(line) for line in lines] for split, lines in files.items()}
    whole = 20 if name == "sst2" else 10
    assert (len(rows["train"]), len(rows["validation"]), len(rows["test"])) == (whole * 9 // 10, whole // 10, 10)
    assert all(("text_pair" in row) == (len(chosen.columns) == 2) for row in rows["test"])
    if name == "stsb":
        assert [row["label"] for row in rows["test"]] == [n / 10 for n in range(10)]
    assert glue.prepare(chosen, source, tmp_path / "again", most=None)[1] == digest
    assert glue.prepare(chosen, source, tmp_path / "fewer", most=whole // 2)[1] != digest
    with pytest.raises(SystemExit, match="not there"):
        glue.prepare(chosen, tmp_path, tmp_path / "none", most=None)


def test_glue_s_figures() -> None:
    said, wanted = np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 1, 0])
    assert statistics.accuracy_and_f1(said, wanted) == pytest.approx((0.5 + 0.5) / 2)
    rising = np.array([1.0, 2, 3, 4])
    assert statistics.correlation(rising, np.exp(rising)) == pytest.approx((np.corrcoef(rising, np.exp(rising))[0, 1] + 1) / 2)
    assert statistics.correlation(np.ones(4), rising) == 0


def test_a_share_kept_has_an_interval_that_knows_what_both_share() -> None:
    chance = np.random.default_rng(3)
    wanted = chance.integers(0, 2, 400).astype(np.float64)
    good = np.where(chance.random(400) < 0.9, wanted, 1 - wanted)
    worse = good.copy()
    worse[:20] = 1 - wanted[:20]
    found = {"sst2": Answers(wanted, {"a": good[None], "same": good[None], "worse": np.stack([worse, worse])})}
    same = statistics.kept(found, "a", "same")
    assert (same.share, same.low, same.high) == (1, 1, 1)
    less = statistics.kept(found, "a", "worse", draws=500)
    assert less.low < less.share < less.high < 1
    gap, low, high = statistics.differences(found, "worse", "a", draws=500)
    assert gap == pytest.approx(100 * (less.after - less.before))
    assert low < gap < high < 0


@pytest.mark.parametrize("name", list(ABLATION))
def test_each_change_changes_the_recipe_and_nothing_else_of_it(name: str) -> None:
    whole, changed = (recipe_named(each, glue.SETS["mrpc"]) for each in (ABLATION[name][0], name))
    assert changed != whole or ABLATION[name][1] in STAGES[:-1]
    assert changed.train == whole.train


def test_a_record_stands_for_its_run_and_for_no_other(tmp_path: Path) -> None:
    cell, model = cell_in(tmp_path), tmp_path / "model"
    (model / "config.json").write_text("{}")
    assert cell.record("quick", run=False) is None
    key = records.key("abc", 0, 32, model)
    path = records.path_of(tmp_path / "kept", "quick")
    quick = cell.recipe("quick")
    found = {"validation": {"distilled": 0.5}, "answers": (1.0, 0.0), "wanted": (1.0, 1.0)}
    record = Record(key=key, asked=(quick,), recipe=quick, **found, **MEASURED)
    records.keep(path, record)
    assert cell.record("quick", run=False) == record
    said = json.loads(path.read_text())
    del said["asked"][0]["distill"]["spill_gib"]  # as it was kept before there was such a key
    path.write_text(json.dumps(said))
    assert cell.record("quick", run=False) == record
    said["asked"][0]["distill"]["epochs"] += 1
    path.write_text(json.dumps(said))
    assert cell.record("quick", run=False) is None
    assert cell.record("quick", run=False, earlier=True) is not None
    records.keep(path, record)
    assert replace(cell, unlabelled=(tmp_path / "pool", "q")).record("quick", run=False) == record, "it reads no such text"
    for other in (replace(cell, digest="abd"), replace(cell, seed=1), replace(cell, batch=16)):
        assert replace(other, kept=cell.kept).record("quick", run=False, earlier=True) is None
    (model / "config.json").write_text("{ }")
    assert cell.record("quick", run=False) is None


def test_a_recipe_is_held_against_the_originals_of_the_seeds_that_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = (1.0, 0.0, 1.0, 0.0)
    said = {
        (0, ORIGINAL): wanted,  # 100 %
        (1, ORIGINAL): (1.0, 0.0, 0.0, 1.0),  # 50 %
        (0, "standard"): (1.0, 0.0, 1.0, 1.0),  # 75 %
        (1, "standard"): (1.0, 0.0, 0.0, 1.0),
        (1, "article"): (1.0, 1.0, 0.0, 1.0),  # 25 %
    }

    def cell(seed: int) -> Any:
        def record(name: str, *, run: bool, earlier: bool) -> Any:
            assert not run
            assert earlier == (name != ORIGINAL), "what is compressed must be the original that was recorded"
            answers = said.get((seed, name))
            return answers and SimpleNamespace(answers=answers, wanted=wanted, own_int8=wanted, recipe=named(name))

        def named(name: str) -> Any:
            return recipe_named("standard" if name == ORIGINAL else name, glue.SETS["rte"])

        return SimpleNamespace(set=glue.SETS["rte"], seed=seed, record=record, recipe=named)

    rows = _by_row([cell(0), cell(1)], ["article", "standard", "smallest"])
    assert list(rows) == [ORIGINAL, OWN, "article", "standard"]
    printed = capsys.readouterr().out
    assert "article on rte with seed 0" in printed
    assert "earlier recipe" not in printed
    answers = {which: _answers(found) for which, found in rows.items()}
    mean = statistics.mean_score
    shares = {which: mean(each, which) / mean(each, ORIGINAL) for which, each in answers.items()}
    assert shares == {ORIGINAL: 1.0, OWN: 1 / 0.75, "article": 0.5, "standard": 0.625 / 0.75}
    assert _score(answers["standard"]["rte"], "rte", "standard") == "62.50 (2: 75.0%, 100.0%)"
    assert _score(answers["article"]["rte"], "rte", "article") == "25.00 (1: 50.0%)"


def test_a_record_of_before_portable_integers_is_not_of_today_s_recipe(tmp_path: Path) -> None:
    place = records.ROOT / "stsb-0" / "standard.json"
    assert "portable" not in json.loads(place.read_text())["recipe"]["quantize"]
    record = Record.model_validate_json(place.read_text())
    assert not record.recipe.quantize.portable
    cell = Cell(glue.SETS["stsb"], DATA, "", (tmp_path, ""), 0, tmp_path, tmp_path, tmp_path, 32, None)
    assert _changed(cell, "standard", record) == ["quantize.portable"]


def test_a_set_whose_originals_are_at_chance_is_printed_and_leaves_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "kept", partial(statistics.kept, draws=50))

    def originals(name: str, seeds: int) -> Answers:
        found = [Record.model_validate_json((records.ROOT / f"{name}-{n}" / "original.json").read_text()) for n in range(seeds)]
        said = np.array([record.answers for record in found])
        return Answers(np.array(found[0].wanted), {ORIGINAL: said, "half": np.where(np.arange(said.shape[1]) % 2, said, 0)})

    found = {name: originals(name, 3 if chosen.seeds else 1) for name, chosen in glue.SETS.items()}
    assert statistics.constant_score("rte", found["rte"].wanted) == pytest.approx(146 / 277)
    assert statistics.constant_score("stsb", found["stsb"].wanted) == pytest.approx(0, abs=1e-9)
    assert statistics.at_chance(found, ORIGINAL) == ["rte"]
    few = {name: each for name, each in found.items() if name != "rte"}
    assert _mean(found, "half", ["rte"]) == _mean(few, "half", []) != _mean(found, "half", [])
    assert _mean(found, "half", list(found)) == "none | none"
    why = _why_left_out("rte", found["rte"])
    assert why.startswith("rte is not in the mean: its originals (50.2%, 56.3%, 56.0%)")
    assert "(52.7%)" in why
    # One seed that learned something keeps the set in.
    said = found["rte"].by_model[ORIGINAL].copy()
    said[1, :180] = found["rte"].wanted[:180]
    assert statistics.at_chance({"rte": Answers(found["rte"].wanted, {ORIGINAL: said})}, ORIGINAL) == []


def test_the_general_phase_reads_running_sentences_and_nothing_that_a_test_split_holds(tmp_path: Path) -> None:
    kept, running = "a kept sentence from a wiki", " It is 1 @,@ 000 m high . The <unk> of it is far too short . Is It ?"
    lines = [" = A heading of some words = ", running, kept]
    assert list(unlabelled.sentences(lines)) == ["It is 1,000 m high .", "The of it is far too short .", kept]
    files = {"train": ["of train", "A kept  sentence from a wiki", "of both"], "test": ["OF BOTH", "it is 1,000 m high ."]}
    for split, found in files.items():
        rows = ({"text": text, "text_pair": "the second", "label": "0"} for text in found)
        (tmp_path / split).write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(format="jsonl", splits={split: (str(tmp_path / split),) for split in files})
    digest = unlabelled.write(lines, [data], tmp_path / "pool")
    pool = [json.loads(line)["text"] for line in (tmp_path / "pool").read_text().splitlines()]
    assert pool == ["The of it is far too short .", "a kept sentence from a wiki", "of train", "A kept  sentence from a wiki"]
    assert unlabelled.write(lines[:1], [data], tmp_path / "pool") != digest
    few = unlabelled.write(lines, [data], tmp_path / "few", 2)
    drawn = [json.loads(line)["text"] for line in (tmp_path / "few").read_text().splitlines()]
    assert len(drawn) == 2
    assert set(drawn) < set(pool)
    assert unlabelled.write(lines, [data], tmp_path / "few", 2) == few, "the same texts each time"
    assert unlabelled.write(lines, [data], tmp_path / "few", 10) == digest


def test_a_cell_gives_the_pool_to_recipes_with_a_general_phase_alone(tmp_path: Path) -> None:
    cell, plain = cell_in(tmp_path), PRESETS["quick"][0]
    more = plain.model_copy(update={"distill": plain.distill.model_copy(update={"general": General()})})
    assert cell._spec(tmp_path, plain)["data"] == DATA
    assert cell._spec(tmp_path, more)["data"].splits == {"train": ("t",), "unlabelled": (str(tmp_path / "pool"),)}


def test_an_original_on_record_is_tuned_again_at_its_own_rate_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compressed on another day is the model that the record answers for, at a third of the work."""
    tuned: list[str] = []
    score = 0.8

    def run(folder: Path, spec: dict[str, object], keep: set[str] | None = None) -> engine.Run:
        tuned.append(folder.name)
        return engine.Run(folder, Report.model_construct(), {"baseline": score}, 1.0)

    monkeypatch.setattr(engine, "run", run)
    cell, model = cell_in(tmp_path), tmp_path / "model"
    assert cell.original().folder.name == "original-2e-05"
    assert tuned == ["original-2e-05", "original-5e-05", "original-0.0001"]
    asked = tuple(cell.original_recipes())
    found = {"validation": {"baseline": 0.8}, "answers": (1.0,), "wanted": (1.0,)}
    record = Record(key=records.key("abc", 0, 32, model), asked=asked, recipe=asked[1], **found, **MEASURED)
    records.keep(records.path_of(tmp_path / "kept", "original"), record)
    tuned.clear()
    assert cell.original().folder.name == "original-5e-05"
    assert tuned == ["original-5e-05"]
    score = 0.81
    with pytest.raises(SystemExit, match=r"tuned again, 0\.81 on validation, not 0\.8;"):
        cell.original()


def test_a_table_does_not_depend_on_what_is_installed() -> None:
    recipe = recipe_named("article", glue.SETS["stsb"])
    assert recipe.distill.augment.model_dump(exclude_defaults=True) == {"synonyms": {"source": "embeddings"}}
    # So it is the recipe of the records that are in the repository.
    record = Record.model_validate_json((records.ROOT / "stsb-0" / "article.json").read_text())
    assert record.recipe.distill.augment == recipe.distill.augment
