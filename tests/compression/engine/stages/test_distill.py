"""Distillation's parts on tiny models: fewer layers, a phase on plain text, learned weights, several teachers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, BertModel, PreTrainedModel

from compression.engine import checkpoints
from compression.engine.checkpoints import StageCheckpoint
from compression.engine.context import StageContext
from compression.engine.dataset_run import DatasetRun
from compression.engine.pipeline import compress
from compression.engine.stages.distill import enter
from compression.engine.stages.general_distillation import general
from compression.engine.stages.registry import job_progress
from compression.engine.stages.teacher_ensemble import ensemble_outputs, fused
from compression.evaluation.validate import logits, validate
from compression.modalities.registry import task_of
from compression.modalities.text.batches import TokenizedDataset
from compression.modalities.text.dataset_check import check
from compression.models.adapters.registry import adapter_of, encoder_of
from compression.models.adapters.structure import PruningPlan
from compression.quantization.fake_quantize import is_simulated
from compression.schema.errors import InvalidSpec, LabelMismatch
from compression.schema.events import Event, Log, Progress, TrainingSaved
from compression.schema.job_spec import Data, Spec
from compression.schema.recipe.base import Task
from compression.schema.recipe.distill import Distill, General, Teachers
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.schema.report.measurements import Score
from compression.system.interrupts import Pause
from compression.system.progress import run_silently
from compression.training.save import FOLDER, TrainingCheckpointer
from tests.compression.engine.test_language_job import write as write_language_model
from tests.support import tiny_bert
from tests.support.engine_jobs import asked_of, report_of, spec_of
from tests.support.stage_runs import distill, prepare
from tests.support.tiny_bert import all_phases, apart, encoded, sentences, state_of, tiny_config, write_rows, write_tokenizer

TRAIN = Train(batch=16, max_length=32)
ALL_TERMS = {"soft": 1.0, "hard": 0.3, "hidden": 1.0, "attention": 1.0, "embedding": 1.0}


def deep(labels: tuple[str, ...] = ("negative", "positive")) -> BertForSequenceClassification:
    """A teacher of four layers that knows the answer: good and bad words are written into its first channels."""
    torch.manual_seed(3)
    names = dict(enumerate(labels))
    return BertForSequenceClassification(tiny_config(num_hidden_layers=4, id2label=names, num_labels=2)).eval()


def shallow(recipe: Recipe) -> StageContext:
    """A student of two layers beside its teacher of four."""
    teacher = deep()
    state = state_of(adapter_of(teacher).narrowed(teacher, PruningPlan(layers=(0, 2))), recipe)
    state.teacher = teacher.requires_grad_(False)
    return state


def paused_at(state: StageContext, folder: Path, phase: str, step: int, resume: Path | None = None) -> Path:
    """Run distillation until a step of a phase, as a worker that drains would; return what a new attempt goes on from. resume:
    what this one goes on from.
    """
    asked = False
    state.checkpointer = TrainingCheckpointer(folder / "out", "work", None, lambda: asked, resume)
    assert state.checkpointer.look() is None
    with pytest.raises(Pause):
        for event in distill(state):
            if isinstance(event, Progress) and (event.phase, event.step) == (phase, step):
                asked = True
            if isinstance(event, TrainingSaved):
                (folder / "out" / event.folder).rename(folder / FOLDER)
    return folder


def test_a_shallower_student_learns_all_terms_and_goes_on_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.system.progress.SECONDS_BETWEEN", 0.0)
    settings = Distill(epochs=2, rate=3e-3, weighting="uncertainty", general=General(epochs=1, rate=3e-3), **ALL_TERMS)
    recipe = Recipe(distill=settings, train=TRAIN)

    whole = shallow(recipe)
    whole.unlabelled = encoded(sentences(96, 5))
    before = apart(whole)
    events = list(distill(whole))
    assert apart(whole) < 0.5 * before
    said = " ".join(whole.notes)
    assert "General phase on 96 unlabelled texts, taught by the prepared model" in said
    assert "scores before the softmax, layer by layer (4 heads)" in said
    assert "0 ← 0, 1 ← 2, 2 ← 4" in said
    general = [event.score for event in events if isinstance(event, Progress) and event.phase == "general" and event.score]
    first, last = next(float(n.split("texts ")[-1].split()[0]) for n in whole.notes if "General" in n), -general[-1]
    assert last < first
    told = [event.message for event in events if isinstance(event, Log)]
    assert [sum(f"{term} " in message for term in ALL_TERMS) for message in told] == [3, 5, 5]
    (weights,) = [note for note in whole.notes if note.startswith("Weights (uncertainty)")]
    assert "hidden 1 → 1," not in weights

    half = shallow(recipe)
    half.unlabelled = whole.unlabelled
    kept = paused_at(half, tmp_path, "distill", 25)
    again = shallow(recipe)
    again.unlabelled = whole.unlabelled
    again.checkpointer = TrainingCheckpointer(tmp_path / "second", "work", resume=kept)
    assert again.checkpointer.look() is None
    seen = list(distill(again))
    assert not [event for event in seen if isinstance(event, Progress) and event.phase == "general"]
    assert all(one.equal(other) for one, other in zip(again.model.parameters(), whole.model.parameters(), strict=True))
    assert weights in again.notes


def answers(state: StageContext, model: PreTrainedModel) -> torch.Tensor:
    return logits(model, state.rows["train"]).clone()


@pytest.mark.parametrize("fusion", ["mean", "validation"])
def test_teachers_are_fused_as_the_recipe_says_and_the_better_one_shows_its_insides(fusion: str) -> None:
    settings = Distill(temperature=2.0, teachers=Teachers.model_validate({"seeds": 2, "fusion": fusion}))
    state = shallow(Recipe(distill=settings, train=TRAIN))
    other = deep()
    with torch.no_grad():  # says the opposite
        other.classifier.weight.neg_()
        other.classifier.bias.neg_()
    state.originals = [other]
    one, two = answers(state, state.teacher), answers(state, other)
    rows = state.rows["validation"]  # whose labels are what the first says, but for every fifth
    said_there = logits(state.teacher, rows).argmax(-1)
    state.rows["validation"] = replace(rows, labels=torch.where(torch.arange(len(rows)) % 5 == 0, 1 - said_there, said_there))
    scores = [validate(model, state.rows["validation"]).score for model in (state.teacher, other)]
    assert scores == pytest.approx([0.8, 0.2], abs=0.01)
    state.begin("distilled")
    outputs = run_silently(ensemble_outputs(state, settings, state.rows["train"], ()))
    shares = [0.5, 0.5] if fusion == "mean" else [score / sum(scores) for score in scores]
    (said,) = state.notes
    told = [float(part.split()[-1]) for part in said.split("weight: ")[1].split(";")[0].split(", ")]
    assert told == pytest.approx(shares, abs=1e-3)
    assert outputs.guide is (state.teacher if scores[0] > scores[1] else other)
    mean = shares[0] * (one / 2).softmax(-1) + shares[1] * (two / 2).softmax(-1)
    assert torch.allclose((outputs.logits / 2).softmax(-1), mean, atol=1e-5)
    assert state.originals == []


def test_numbers_are_averaged_and_places_are_fused_over_real_tokens() -> None:
    rows = encoded(sentences(4, 1))
    numbers = [torch.full((4, 1), 1.0), torch.full((4, 1), 3.0)]
    assert fused(numbers, [3.0, 1.0], rows_for(rows, "text-regression"), 3.0).flatten().tolist() == pytest.approx([1.5] * 4)
    longest = max(map(len, rows.tokens))
    places = [torch.randn(4, longest, 2) for _ in range(2)]
    found = fused(places, [1.0, 1.0], rows_for(rows, "question-answering"), 3.0)
    for row, tokens in enumerate(map(len, rows.tokens)):
        wanted = sum((each[row, :tokens] / 3).softmax(0) for each in places) / 2
        assert torch.allclose((found[row, :tokens] / 3).softmax(0), wanted, atol=1e-5)
        assert (found[row, tokens:] < -1e6).all()


def rows_for(rows: TokenizedDataset, name: Task) -> TokenizedDataset:
    return replace(rows, task=task_of(name))


def open_part(encoder: Path, reviews: Path, base: Path, recipe: Recipe, **changes: object) -> DatasetRun:
    spec = spec_of(encoder, reviews, recipe=recipe, **changes)
    return DatasetRun.open(spec, base, spec.asked[0])


def originals_stopped(
    spec: Spec, base: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[StageContext, StageContext, list[Event]]:
    """Tune two originals without a stop, and stopped in the second's training; return both states, and what the attempt after
    the stop says.
    """
    monkeypatch.setattr("compression.system.progress.SECONDS_BETWEEN", 0.0)
    asked = False

    def opened(resume: Path | None) -> StageContext:
        state = DatasetRun.open(spec, base, spec.asked[0]).state
        state.tracker = job_progress(spec.recipe, {"": {name: len(rows) for name, rows in state.rows.items()}})
        state.checkpointer = TrainingCheckpointer(base / "out", "work", None, lambda: asked, resume)
        state.checkpointer.look()
        return state

    whole = opened(None)
    list(prepare(whole))
    half = opened(None)
    with pytest.raises(Pause):
        for event in prepare(half):
            asked = asked or (isinstance(event, Progress) and event.phase == "tune 2" and event.step > 0)
            if isinstance(event, TrainingSaved):
                (base / "out" / event.folder).rename(base / FOLDER)
    asked = False
    again = opened(base)
    return whole, again, list(prepare(again))


def all_alike(one: StageContext, other: StageContext) -> bool:
    """Whether the baseline and the further originals have the same weights, and the baseline the same account."""
    models = zip([one.model, *one.originals], [other.model, *other.originals], strict=True)
    weights = (zip(mine.parameters(), theirs.parameters(), strict=True) for mine, theirs in models)
    return one.result.preparation == other.result.preparation and all(a.equal(b) for pairs in weights for a, b in pairs)


def test_originals_of_other_seeds_are_trained_kept_and_taken_up(
    encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(prepare=Prepare(epochs=1, rate=3e-3), distill=Distill(teachers=Teachers(seeds=2)), prune=None, train=TRAIN)
    whole, again, seen = originals_stopped(spec_of(encoder, reviews, recipe=recipe), tmp_path, monkeypatch)
    (other,) = whole.originals
    assert [note.split(":")[0] for note in whole.notes] == [
        "Tuned on train",
        "1 epochs are too few to see whether validation had stopped gaining.",
        "Another teacher, the original with seed 1, tuned on train",
    ]
    assert not any(p.requires_grad for p in other.parameters())
    assert not answers(whole, other).equal(answers(whole, whole.model))
    assert not [event for event in seen if isinstance(event, Progress) and event.phase == "tune"]
    assert all_alike(again, whole)

    nothing = {"rows": (), "artifacts": (), "pruning": None, "files": (), "simulation": None}
    facts = StageCheckpoint(fingerprint="work", stage="baseline", labels=("negative", "positive"), **nothing)
    checkpoints.write(tmp_path / "kept", whole.model, facts, whole.originals)
    [kept] = checkpoints.open_teachers(tmp_path / "kept", checkpoints.read(tmp_path / "kept", "baseline", {"baseline": "work"}))
    assert answers(whole, kept).equal(answers(whole, other))


def test_the_baseline_keeps_its_own_account_if_a_further_original_is_stopped(
    encoder: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compression.engine.stages.prepare.bound", lambda *_: 2)
    recipe = Recipe(prepare=Prepare(rate=3e-3), distill=Distill(teachers=Teachers(seeds=2)), prune=None, train=TRAIN)
    whole, again, _ = originals_stopped(spec_of(encoder, reviews, recipe=recipe), tmp_path, monkeypatch)
    assert whole.result.preparation.validation_error > 0
    assert all_alike(again, whole)


def test_language_models_with_one_table_are_saved_beside_further_originals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write_language_model(tmp_path).config.tie_word_embeddings
    recipe = Recipe(
        prepare=Prepare(epochs=1, rate=3e-3),
        distill=Distill(teachers=Teachers(seeds=2)),
        prune=None,
        train=Train(batch=8, max_length=48),
    )
    whole, again, _ = originals_stopped(spec_of("model", task="causal-lm", recipe=recipe), tmp_path, monkeypatch)
    assert all_alike(again, whole)
    assert again.model.lm_head.weight is again.model.model.embed_tokens.weight


def write_model(folder: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def test_named_models_take_their_parts_and_a_teacher_its_own_label_order(encoder: Path, reviews: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    student = write_model(tmp_path / "student", deep().bert)
    teacher = write_model(tmp_path / "teacher", deep(("positive", "negative")))
    stages = {"prepare": Prepare(epochs=0), "quantize": Quantize(smoothing=0.5), "distill": Distill(teachers=Teachers(seeds=0))}
    recipe = Recipe(**stages, prune=None, train=TRAIN)
    part = open_part(encoder, reviews, tmp_path, recipe, student=str(student), teachers=[str(teacher)])
    state = part.state
    state.tracker = all_phases()
    list(prepare(state))
    enter(state, state.models.student)
    assert state.model.config.num_hidden_layers == 4
    assert is_simulated(state.model)
    sent, here = (encoder_of(each).layers(each)[0].value.weight for each in (deep(), state.model))
    assert not here.equal(sent)  # its channels are smoothed, each by a factor of its own
    assert torch.allclose(here / sent, (here / sent)[:, :1], rtol=1e-4)
    assert part.reader("distilled").folder == student
    assert part.reader("quantized").folder == encoder
    state.begin("distilled")
    outputs = run_silently(ensemble_outputs(state, recipe.distill, state.rows["train"], ()))
    assert torch.allclose(answers(state, outputs.guide), answers(state, deep(("positive", "negative"))).flip(1), atol=1e-6)


def test_a_named_student_is_what_the_job_ships(encoder: Path, reviews: Path, tmp_path: Path) -> None:
    torch.manual_seed(6)
    student = write_model(tmp_path / "student", BertModel(tiny_config(num_hidden_layers=1)))
    teacher = write_model(tmp_path / "teacher", deep())
    write_rows(tmp_path / "plain.jsonl", sentences(48, 9))
    distilled = Distill(epochs=2, rate=3e-3, weighting="uncertainty", general=General(epochs=1, rate=3e-3))
    recipe = Recipe(prepare=Prepare(epochs=1, rate=3e-3), quantize=None, prune=None, distill=distilled, train=TRAIN)
    asked = asked_of(encoder, reviews, recipe=recipe, student=str(student), teachers=[str(teacher)])
    asked["data"]["splits"]["unlabelled"] = [str(tmp_path / "plain.jsonl")]
    report = report_of(compress(Spec.model_validate(asked), tmp_path))
    baseline, distilled = report.rows
    assert (baseline.shape.layers, distilled.shape.layers) == (2, 1)
    assert report.splits["unlabelled"].rows == 48
    said = " ".join(distilled.notes)
    assert "General phase on 48 unlabelled texts" in said
    assert "models.teachers.0" in said
    assert "The student is the model that the job names" in said
    (onnx,) = [one for one in report.artifacts if one.stage == "distilled" and one.kind == "onnx"]
    assert isinstance(onnx.score, Score)
    for folder in (tmp_path / "out" / "checkpoints" / "distilled", tmp_path / "out" / "artifacts" / onnx.name):
        assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "checkpoints" / "distilled")
    assert sum(p.numel() for p in stock.parameters()) == distilled.parameters.total


def test_what_named_models_cannot_be_is_refused_before_training(encoder: Path, reviews: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", deep().bert)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = tiny_bert.GOOD[0], tiny_bert.BAD[0]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    wrong = write_model(tmp_path / "wrong", deep(("yes", "no")))
    answers_alone = {"soft": 1.0, "hard": 0.0, "hidden": 0.0}

    def refused(settings: Distill, **changes: object) -> InvalidSpec | LabelMismatch:
        recipe = Recipe(prune=None, distill=settings, train=TRAIN)
        with pytest.raises((InvalidSpec, LabelMismatch)) as caught:
            open_part(encoder, reviews, tmp_path, recipe, **changes)
        return caught.value

    assert refused(Distill(), teachers=[str(wrong)]).param == "models.teachers.0"
    assert refused(Distill(), teachers=[str(encoder)]).code == "label_mismatch"
    assert refused(Distill(), student=str(other)).param == "recipe.distill.hidden"
    assert refused(Distill(general=General(), **answers_alone), student=str(other)).param == "recipe.distill.general"
    recipe = Recipe(prune=None, distill=Distill(**answers_alone), train=TRAIN)
    assert not open_part(encoder, reviews, tmp_path, recipe, student=str(other)).state.models.base.aligned


@pytest.mark.parametrize("who", ["base", "prepared"])
def test_the_general_phase_asks_the_model_as_sent_or_as_tuned(encoder: Path, reviews: Path, tmp_path: Path, who: str) -> None:
    still = General(epochs=1, rate=1e-12, teacher=who)  # no weight moves, so the loss is that of the student as it is
    recipe = Recipe(prune=None, distill=Distill(general=still), train=TRAIN)
    state = open_part(encoder, reviews, tmp_path, recipe).state
    state.tracker = all_phases()
    state.begin("distilled")
    state.teacher = BertForSequenceClassification(tiny_config(num_labels=2)).eval()  # as far from the base as tuning can lead
    (loss,) = [-one.score for one in general(state, recipe.distill) if isinstance(one, Progress) and one.score is not None]
    assert (loss < 0.01) == (who == "base"), "the student is the base, and has nothing to learn of it"
    assert (loss > 0.3) == (who == "prepared")


def test_unlabelled_texts_are_read_for_any_task_and_reach_the_student(encoder: Path, reviews: Path, tmp_path: Path) -> None:

    write_rows(tmp_path / "plain.jsonl", sentences(50, 9))
    splits = {"train": (str(reviews / "train.jsonl"),), "unlabelled": (str(tmp_path / "plain.jsonl"),)}
    data = Data(format="jsonl", splits=splits)
    facts = check(data, tmp_path)
    assert not isinstance(facts, list)
    assert facts.rows == {"train": 320, "unlabelled": 50}
    assert facts.unlabelled_words > 2
    recipe = Recipe(prune=None, distill=Distill(general=General()), train=TRAIN)
    part = open_part(encoder, reviews, tmp_path, recipe, data=data)
    assert (len(part.state.unlabelled), part.data.dataset.facts()["unlabelled"].rows) == (50, 50)
