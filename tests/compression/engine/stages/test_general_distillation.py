"""The general phase: texts without labels whatever the task, each of its weights, and what the log tells of it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from compression.distillation.objective import FeatureLosses
from compression.engine.context import StageContext
from compression.engine.stages.general_distillation import general
from compression.engine.stages.objectives import log_terms
from compression.engine.stages.task_training import NamedTraining
from compression.modalities.text.preprocessor import TextPreprocessor
from compression.quantization.precision import gradient_dtype
from compression.schema.events import Log, Progress
from compression.schema.recipe.base import Precision, Task
from compression.schema.recipe.distill import Distill, General
from compression.schema.recipe.recipe import Recipe, Train
from compression.system.progress import Step
from compression.training.config import TrainingOutcome
from tests.compression.engine.stages.test_distill import deep
from tests.support import toy_tasks as toys
from tests.support.stage_runs import distill
from tests.support.tiny_bert import encoded, lesson_of, sentences, state_of, tiny_config

TRAIN = Train(batch=16, max_length=toys.LENGTH)
STILL = {"epochs": 1, "rate": 1e-12}
"""No weight moves: what is told is of the model as it is."""


def disturbed(state: StageContext) -> None:
    """Make the state's model the teacher, and a student of it whose stream is no longer its own."""
    state.teacher = copy.deepcopy(state.model).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in state.model.named_parameters():
            if ".layer." in name and parameter.ndim > 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))


@pytest.mark.parametrize("task", toys.TASKS)
def test_texts_without_labels_teach_whatever_the_task(task: Task, encoder: Path, tmp_path: Path) -> None:
    recipe = Recipe(prune=None, distill=Distill(epochs=1, general=General(epochs=2, rate=1e-3)), train=TRAIN)
    _, tokenizer, state = toys.opened(task, tmp_path, encoder, recipe)
    disturbed(state)
    texts = [text for text, _ in sentences(64, 9)]
    state.unlabelled = TextPreprocessor(tokenizer, toys.LENGTH, types=True).unlabelled(texts, state.task)
    events = list(distill(state))
    (said,) = [note for note in state.notes if note.startswith("General phase on 64 unlabelled texts")]
    before, after = (float(word) for word in said.split("validation's texts ")[1].split(" (")[0].split(" → "))
    assert after < 0.9 * before
    assert [event.phase for event in events if isinstance(event, Progress) and event.step][-1] == "distill"


def told(**weights: float) -> tuple[dict[str, float], float]:
    """Say by what the log multiplies each term, and the loss on validation of a student as it is."""
    recipe = Recipe(prune=None, distill=Distill(general=General.model_validate({**STILL, **weights})), train=TRAIN)
    torch.manual_seed(0)
    state = state_of(deep(), recipe)
    disturbed(state)
    state.begin("distilled")
    events = list(general(state, recipe.distill))
    (line,) = [event.message for event in events if isinstance(event, Log) and event.message.startswith("Step")]
    terms = [part.split(" × ") for part in line.split(": ", 1)[1].rstrip(".").split(", ")]
    (loss,) = [-event.score for event in events if isinstance(event, Progress) and event.score is not None]
    return {term.split()[0]: float(weight) for term, weight in terms}, loss


def test_a_phase_that_patience_ended_says_how_many_epochs_it_had() -> None:
    phase = General.model_validate({**STILL, "epochs": 5, "patience": 1})
    recipe = Recipe(prune=None, distill=Distill(general=phase), train=TRAIN)
    torch.manual_seed(0)
    state, training = state_of(deep(), recipe), NamedTraining()
    disturbed(state)
    state.begin("distilled")
    list(general(state, recipe.distill, training))
    assert training.general_epochs == 1


def test_each_weight_of_the_general_phase_counts() -> None:
    names = ("hidden", "attention", "embedding")
    alone = {}
    for name in names:
        named, alone[name] = told(**{other: float(other == name) for other in names})
        assert named == {name: 1.0}
        assert alone[name] > (1e-3 if name != "embedding" else -1)  # the stream's first states are still the teacher's
    weights = {"hidden": 2.0, "attention": 0.5, "embedding": 3.0}
    named, whole = told(**weights)
    assert named == weights
    assert whole == pytest.approx(sum(weight * alone[name] for name, weight in weights.items()), rel=1e-3)


@pytest.mark.parametrize(("asked", "wanted"), [("float32", {torch.float32}), ("auto", {torch.bfloat16})])
def test_the_recipe_s_precision_is_that_of_judging_and_of_the_first_projections(
    asked: Precision, wanted: set[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[torch.dtype]] = {"fitted": set(), "terms": set()}
    monkeypatch.setattr("compression.quantization.precision.has_bfloat16", lambda _device: True)
    for name, plain in (("_fitted", FeatureLosses._fitted), ("terms", FeatureLosses.terms)):

        def noted(self: FeatureLosses, *given: Any, name: str = name, plain: Any = plain) -> Any:
            seen[name.removeprefix("_")].add(gradient_dtype(torch.device("cpu")))
            return plain(self, *given)

        monkeypatch.setattr(FeatureLosses, name, noted)
    settings = Distill(epochs=1, general=General.model_validate(STILL))
    state = state_of(deep(), Recipe(prune=None, distill=settings, train=TRAIN.model_copy(update={"precision": asked})))
    disturbed(state)
    list(distill(state))
    assert seen == {"fitted": wanted, "terms": wanted}


@pytest.mark.parametrize(
    ("embedding", "terms", "states"), [(None, {"hidden"}, 3), (0.0, {"hidden"}, 2), (1.0, {"hidden", "embedding"}, 3)]
)
def test_embeddings_are_a_term_of_their_own_or_one_more_layer(embedding: float | None, terms: set[str], states: int) -> None:
    settings = Distill(soft=0, hard=0, hidden=1.0, embedding=embedding)
    state = state_of(deep(), Recipe(distill=settings, train=TRAIN))
    state.model = type(state.model)(tiny_config(num_labels=2))
    state.teacher = deep()
    objective = lesson_of(state, settings, state.rows["train"])
    assert len(objective.projections[0]) == states
    assert set(objective.terms(state.rows["train"].batch([0, 1]))) == terms


@pytest.mark.parametrize(("processes", "part"), [(1, ""), (4, ", of the first of 4 processes' rows")])
def test_what_a_step_back_throws_away_is_not_told_and_whose_terms_are(processes: int, part: str) -> None:
    state = state_of(deep(), Recipe(train=TRAIN))
    state.teacher = deep()
    objective = lesson_of(state, Distill(), encoded(sentences(8, 1)))
    score = state.validate()

    def ticks() -> object:
        objective.loss_meter.add({"soft": torch.tensor(float("nan"))})
        yield Log(level="warning", message="Training went back.")
        objective.loss_meter.add({"soft": torch.tensor(2.0)})
        objective.loss_meter.add({"soft": torch.tensor(4.0)})
        yield Step(2, 2, 1.0, 1e-4, 0.5)
        return TrainingOutcome(1, score, score, True)

    said = [event.message for event in log_terms(ticks(), objective, processes) if isinstance(event, Log)]
    assert said[1].startswith("Step 2 of 2: soft 3 × ")
    assert said[1].endswith(f"{objective.weighting.weights()['soft']:.4g}{part}.")
