"""Augmentation within distillation: made rows are taught by the teacher alone, and a job that cannot make them never begins."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, BertForSequenceClassification, BertModel

from compression.engine import checkpoints
from compression.engine.context import StageContext
from compression.engine.job import Job
from compression.engine.stages.distill import augment_rows
from compression.evaluation.validate import logits
from compression.modalities.text.augmentation.augmenter import Texts
from compression.modalities.text.augmentation.resources import Resources
from compression.modalities.text.augmentation.source import AugmentationSource
from compression.modalities.text.batches import TokenizedDataset
from compression.schema.errors import MissingResource
from compression.schema.events import Event, Log
from compression.schema.job_spec import Spec
from compression.schema.recipe.augment import Augment, BackTranslation, Synonyms
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.system.interrupts import Pause
from compression.system.progress import Phase, ProgressTracker, Returning
from compression.training.save import TrainingCheckpointer
from tests.compression.modalities.text.augmentation.test_sources import write_wordnet
from tests.support.engine_jobs import spec_of
from tests.support.stage_runs import distill, prepare
from tests.support.tiny_bert import encoded, lesson_of, sentences, state_of, tiny_config, write_tokenizer

AUGMENT = Augment(copies=2, synonyms=Synonyms(source="embeddings", candidates=8))
TRAIN = Train(batch=16, max_length=32)
PHASES = ProgressTracker(
    [Phase("baseline", "tune", 1.0), *(Phase("distilled", name, 1.0) for name in ("augment", "ask the teacher", "distill"))]
)


def with_material(state: StageContext, folder: Path) -> StageContext:
    write_tokenizer(folder)
    texts = [(text,) for text, _ in sentences(320, 1)]
    state.tracker = PHASES

    def encode(rows: Sequence[Texts], labels: list[int]) -> TokenizedDataset:
        return encoded([(text, "positive" if label else "negative") for (text,), label in zip(rows, labels, strict=True)])

    state.augmenter = AugmentationSource(texts, encode, AutoTokenizer.from_pretrained(folder), Resources(None, None, folder))
    return state


@pytest.fixture
def state(model: BertForSequenceClassification, tmp_path: Path) -> StageContext:
    recipe = Recipe(prepare=Prepare(epochs=0), distill=Distill(epochs=2, rate=3e-3, augment=AUGMENT), train=TRAIN)
    made = with_material(state_of(model, recipe), tmp_path)
    list(prepare(made))
    return made


def more(state: StageContext) -> tuple[TokenizedDataset, list[Event]]:
    state.begin("distilled")
    events = list(work := Returning(augment_rows(state, AUGMENT, state.augmenter)))
    assert len(work.result.made) == len(work.result.rows) - len(state.rows["train"])
    return work.result.rows, events


def test_made_rows_stand_behind_those_of_train_without_a_label(state: StageContext) -> None:
    rows, events = more(state)
    old = state.rows["train"]
    assert 1.8 * len(old) < len(rows) - len(old) <= 2 * len(old)
    assert rows.tokens[: len(old)] == old.tokens
    assert rows.labelled.tolist() == [True] * len(old) + [False] * (len(rows) - len(old))
    assert len(rows.labels) == len(rows)
    said = [event.message for event in events if isinstance(event, Log)]
    count = len(rows) - len(old)
    assert said[0].startswith(f"Augmentation: {count} rows made of 320 ({count} with other words from embeddings), ")
    assert len(said) == 4
    assert state.notes[-1] == said[0]
    # The next attempt makes the same.
    again, _ = more(state)
    assert again.tokens == rows.tokens


def test_a_batch_carries_who_is_labelled_through_parts(state: StageContext) -> None:
    rows, _ = more(state)
    batch = rows.batch([0, 400, 1, 500, 2, 600])
    assert batch.labelled.tolist() == [True, False] * 3
    parts = batch.split(3)
    assert [part.labelled.tolist() for part in parts if part.labelled is not None] == [[True, False]] * 3
    assert batch.to(torch.device("cpu")).labelled is not None
    assert rows.at([400, 3]).labelled.tolist() == [False, True]


def test_hard_labels_do_not_count_on_made_rows(state: StageContext) -> None:
    rows, _ = more(state)

    def loss(batch_rows: list[int], flipped: bool = False, **weights: float) -> float:
        settings = Distill(**{"soft": 0.0, "hard": 0.0, "hidden": 0.0, **weights})
        labels = rows.labels.clone()
        labels[320:] = 1 - labels[320:] if flipped else labels[320:]
        here = replace(rows, labels=labels)
        return lesson_of(state, settings, here)(here.batch(batch_rows)).item()

    mixed, real = [0, 400, 1, 500], [0, 1]
    assert loss(mixed, hard=1.0) == pytest.approx(0.5 * loss(real, hard=1.0), rel=1e-4)
    assert loss(mixed, flipped=True, hard=1.0) == loss(mixed, hard=1.0)
    assert loss([400, 500], hard=1.0) == 0.0
    # The teacher's word counts on them: a student that differs from it is held against it there too.
    with torch.no_grad():
        state.model.classifier.weight.neg_()
    assert loss([400, 500], soft=1.0) > 0.001
    assert loss([400, 500], soft=1.0, hard=1.0) == loss([400, 500], soft=1.0)


def test_distillation_sees_made_rows_too_and_nears_its_teacher(model: BertForSequenceClassification, tmp_path: Path) -> None:
    recipe = Recipe(prepare=Prepare(epochs=3, rate=3e-3), distill=Distill(epochs=2, rate=3e-3, augment=AUGMENT), train=TRAIN)
    state = with_material(state_of(model, recipe), tmp_path)
    list(prepare(state))
    with torch.no_grad():
        state.model.classifier.weight.neg_()
    events = list(distill(state))
    assert any(isinstance(event, Log) and event.message.startswith("Made of ") for event in events)
    steps = [event.total for event in events if getattr(event, "phase", "") == "distill"]
    assert steps[-1] > 2 * (2.5 * 320 / 16)  # two epochs over almost three times the rows of train
    assert any(note.startswith("Augmentation: ") for note in state.notes)
    wanted, given = (logits(m, state.rows["test"]) for m in (state.teacher, state.model))
    assert (given - wanted).square().mean() < 0.1 * wanted.square().mean()  # it began at 4 times


def test_a_pause_is_heard_while_rows_are_made(state: StageContext, tmp_path: Path) -> None:
    state.checkpointer = TrainingCheckpointer(tmp_path, "work", pause_asked=lambda: True)
    with pytest.raises(Pause):
        more(state)


def spec(encoder: Path, reviews: Path, output: Path, augment: Augment, **changes: str) -> Spec:
    recipe = Recipe(distill=Distill(augment=augment), prune=None, train=TRAIN)
    return spec_of(encoder, reviews, recipe=recipe, output=str(output), **changes)


def test_what_the_worker_lacks_is_told_before_any_training(encoder: Path, reviews: Path, tmp_path: Path) -> None:
    for augment, reason in (
        (Augment(synonyms=Synonyms(source="wordnet")), "no WordNet"),
        (Augment(synonyms=Synonyms(source="masked-lm")), "no head of a masked language model"),
        (Augment(synonyms=Synonyms(source="masked-lm", model="bert")), "no helper models"),
        (Augment(back_translation=BackTranslation(models=("a", "b"))), "no helper models"),
    ):
        with pytest.raises(MissingResource, match=reason):
            Job.open(spec(encoder, reviews, tmp_path / "out", augment), tmp_path)


def test_a_job_finds_what_the_worker_has(encoder: Path, reviews: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    BertForMaskedLM(tiny_config()).save_pretrained(tmp_path / "helpers" / "bert")
    write_tokenizer(tmp_path / "helpers" / "bert")
    write_wordnet(tmp_path / "wordnet")
    masked = Augment(synonyms=Synonyms(source="masked-lm", model="bert"))
    state = Job.open(spec(encoder, reviews, tmp_path / "out", masked, helper_models="helpers"), tmp_path).part.state
    state.teacher = state.model
    state.begin("distilled")
    work = augment_rows(state, masked, state.augmenter)
    said = [event.message for event in work if isinstance(event, Log)]
    assert "other words from masked-lm" in said[0]
    assert Resources(tmp_path / "wordnet", None, encoder).source(Synonyms()) == "wordnet"
    assert Resources(None, None, encoder).source(Synonyms()) == "embeddings"


def test_a_base_model_with_a_head_of_its_own_needs_no_helper(tmp_path: Path) -> None:
    BertForMaskedLM(tiny_config()).save_pretrained(tmp_path / "headed")
    BertModel(tiny_config()).save_pretrained(tmp_path / "bare")
    for name in ("headed", "bare"):
        write_tokenizer(tmp_path / name)
    asked = Augment(synonyms=Synonyms(source="masked-lm"))
    Resources(None, None, tmp_path / "headed").check(asked)
    with pytest.raises(MissingResource, match="no head of a masked language model"):
        Resources(None, None, tmp_path / "bare").check(asked)


def test_other_word_lists_are_other_work(encoder: Path, reviews: Path, tmp_path: Path) -> None:
    folder = write_wordnet(tmp_path / "wordnet")
    asked = Augment(synonyms=Synonyms())
    without = checkpoints.fingerprints(spec(encoder, reviews, tmp_path, asked), tmp_path)["distilled"]
    before = checkpoints.fingerprints(spec(encoder, reviews, tmp_path, asked, wordnet="wordnet"), tmp_path)["distilled"]
    (folder / "index.adv").write_text("  no words\n")
    after = checkpoints.fingerprints(spec(encoder, reviews, tmp_path, asked, wordnet="wordnet"), tmp_path)["distilled"]
    assert len({without, before, after}) == 3
