"""What a preflight counts of files is what the engine counts of the model that they hold."""

from pathlib import Path
from statistics import mean

import pytest
from transformers import PreTrainedModel

from compression.engine.stages.prune import model_sizes
from compression.planning.model_sizes import ModelSizes
from compression.planning.multi_dataset import preflight_several
from compression.planning.preflight import preflight
from compression.schema.errors import UnsupportedShape
from compression.schema.recipe.base import Task
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, JobEvaluate, Recipe
from compression.schema.validation import DataFacts
from tests.compression.models.validation.conftest import judged
from tests.compression.planning.test_planning import DATA, MODEL
from tests.support import decoder_models, encoder_models

TOKENS = 24
WORDS = [decoder_models.END, decoder_models.UNKNOWN, *(f"w{number}" for number in range(decoder_models.VOCABULARY - 2))]
TEXTS: dict[Task, DataFacts] = {
    "text-classification": DATA,
    "token-classification": DATA.model_copy(update={"task": "token-classification", "labels": ("O", "B-X", "I-X")}),
    "causal-lm": DATA.model_copy(update={"task": "causal-lm", "labels": (), "characters": {"train": 9000}}),
}


def agrees(model: PreTrainedModel, folder: Path, task: Task, outputs: int) -> None:
    facts = judged(folder)
    known, opened = ModelSizes(TEXTS[task], outputs, None, TOKENS).of(facts), model_sizes(model, None, TOKENS)
    for key, count in opened.counts.items():
        assert known.counts[key](facts.shape) == count(facts.shape), key


@pytest.mark.parametrize(
    ("head", "task"), [("SequenceClassification", "text-classification"), ("TokenClassification", "token-classification")]
)
@pytest.mark.parametrize("kind", list(encoder_models.STEMS))
def test_of_encoders(kind: str, head: str, task: Task, tmp_path: Path) -> None:
    outputs = len(TEXTS[task].labels)
    model = encoder_models.tiny(kind, f"For{head}", num_labels=outputs)
    model.save_pretrained(tmp_path)
    encoder_models.write_tokenizer(tmp_path)
    agrees(model, tmp_path, task, outputs)


@pytest.mark.parametrize(
    ("head", "task", "outputs"), [("ForCausalLM", "causal-lm", 0), ("ForSequenceClassification", "text-classification", 2)]
)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "deepseek_v2"])
def test_of_decoders(kind: str, tied: bool, head: str, task: Task, outputs: int, tmp_path: Path) -> None:
    model = decoder_models.tiny(kind, head, tie_word_embeddings=tied, pad_token_id=1)
    model.save_pretrained(tmp_path)
    decoder_models.write_tokenizer(tmp_path, WORDS)
    agrees(model, tmp_path, task, outputs)


def test_a_forecast_has_the_multiply_adds_that_a_target_asks_for() -> None:
    asked = Recipe(prune=Prune(target_flops=0.4))
    found = preflight(MODEL, DATA, asked, Evaluate())
    assert found.multiply_adds is not None
    assert found.baseline_multiply_adds is not None
    assert 0.4 * found.baseline_multiply_adds < found.multiply_adds <= 0.6 * found.baseline_multiply_adds
    assert preflight(MODEL, DATA, asked, Evaluate(length=64)).multiply_adds < found.multiply_adds / 2
    tags = TEXTS["token-classification"]  # a head for each token
    other = preflight(MODEL, tags, asked, Evaluate()).baseline_multiply_adds
    assert other != found.baseline_multiply_adds
    both = preflight_several(MODEL, {"a": DATA, "b": tags}, asked, JobEvaluate())
    assert both.baseline_multiply_adds == mean([found.baseline_multiply_adds, other])


def test_tokens_that_go_reach_no_multiply_adds() -> None:
    with pytest.raises(UnsupportedShape) as caught:
        preflight(MODEL, DATA, Recipe(prune=Prune(axes=("ffn", "vocabulary"), target_flops=0.7)), Evaluate())
    assert caught.value.param == "recipe.prune.target_flops"
