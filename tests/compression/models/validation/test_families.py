"""Uploads of every family are known by their facts, and what its stock config cannot mean is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import CONFIG_MAPPING

from compression.models import loading
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.tensor_names import NAMES
from compression.planning.preflight import preflight
from compression.schema.errors import ConfigMismatch
from compression.schema.recipe.presets import QUICK
from compression.schema.recipe.recipe import Evaluate
from compression.schema.validation import DataFacts
from tests.compression.models.validation.conftest import edit_json, judged, reasons
from tests.support.encoder_models import LAYERS, STEMS, tiny, write_tokenizer

WEIGHTS = "model.safetensors"
KINDS = list(STEMS)


def upload(folder: Path, kind: str, head: str = "Model") -> Path:
    tiny(kind, head).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"])
@pytest.mark.parametrize("kind", KINDS)
def test_facts_are_those_of_the_file(kind: str, head: str, tmp_path: Path) -> None:
    facts = judged(upload(tmp_path, kind, head))
    model = tiny(kind, head)
    family = adapter_of(model)
    assert (facts.family, facts.architecture) == (kind.removesuffix("-base"), STEMS[kind] + head)
    assert facts.shape == family.shape_of(model.config)
    assert facts.max_positions == family.max_positions(model.config)
    assert facts.parameters == family.parameters_of(model)
    assert facts.parameters.total == sum(value.size for value in load_file(tmp_path / WEIGHTS).values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_encoder_is_planned_and_opened_with_a_new_head(kind: str, tmp_path: Path) -> None:
    facts = judged(upload(tmp_path, kind))
    counts = {"train": {"a": 10, "b": 10, "c": 20}}
    data = DataFacts(labels=("a", "b", "c"), rows={"train": 40}, label_counts=counts, mean_words=3.0, longest_words=8)
    recipe = QUICK.model_copy(update={"train": QUICK.train.model_copy(update={"max_length": 32})})
    plan = preflight(facts, data, recipe, Evaluate(length=32))
    first, again, other = (loading.load_model(tmp_path, data.labels, "text-classification", seed=seed) for seed in (1, 1, 2))
    family = adapter_of(first)
    assert plan.baseline_parameters == family.parameters_of(first)
    assert plan.shape.embedding == family.shape_of(first.config).embedding
    heads = [family.head(model).out for model in (first, again, other)]
    assert heads[0].weight.equal(heads[1].weight)
    assert not heads[0].weight.equal(heads[2].weight)
    ids = torch.arange(5, 15)[None]
    bare = tiny(kind, "Model")
    with torch.inference_mode():
        assert torch.allclose(first.base_model(ids)[0], bare(ids)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("head", "kind", "labels"),
    [
        ("ForSequenceClassification", "multi_label_classification", 3),
        ("ForSequenceClassification", "single_label_classification", 3),
        ("ForSequenceClassification", "multi_label_classification", 1),
        ("ForSequenceClassification", "regression", 1),
        ("Model", "multi_label_classification", 3),
    ],
)
def test_several_classes_a_text_are_refused(head: str, kind: str, labels: int, tmp_path: Path) -> None:
    tiny("bert", head, problem_type=kind, num_labels=labels).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    if (head, kind, labels) == ("ForSequenceClassification", "multi_label_classification", 3):
        assert "problem_type" in reasons(tmp_path)["unsupported_architecture"]
    else:
        judged(tmp_path)


MASKED = [(kind, "ForMaskedLM") for kind in ("distilbert", "roberta", "xlm-roberta", "electra", "mpnet")]


@pytest.mark.parametrize(("kind", "head"), [*MASKED, ("electra", "ForPreTraining")])
def test_heads_of_pre_training_are_dropped(kind: str, head: str, tmp_path: Path) -> None:
    facts = judged(upload(tmp_path, kind, head))
    assert (facts.architecture, facts.labels) == (STEMS[kind] + head, None)
    loading.load_model(tmp_path, ("a", "b"), "text-classification", seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_tensor_and_one_too_many_are_named(kind: str, tmp_path: Path) -> None:
    upload(tmp_path, kind, "ForSequenceClassification")
    whole = load_file(tmp_path / WEIGHTS)
    lost = next(name for name in whole if f".{LAYERS - 1}." in name and name.endswith("bias"))
    save_file({name: value for name, value in whole.items() if name != lost}, tmp_path / WEIGHTS, {"format": "pt"})
    assert lost in reasons(tmp_path)["config_mismatch"]
    with pytest.raises(ConfigMismatch, match="lack"):
        loading.load_model(tmp_path, ("LABEL_0", "LABEL_1"), "text-classification", seed=0)
    save_file({**whole, "backdoor.weight": whole[lost]}, tmp_path / WEIGHTS)
    assert "backdoor" in reasons(tmp_path)["config_mismatch"]


@pytest.mark.parametrize(
    ("kind", "key", "value", "code"),
    [
        ("distilbert", "dim", 33, "config_mismatch"),
        ("distilbert", "hidden_dim", 10**9, "config_mismatch"),
        ("distilbert", "activation", "evil", "unsupported_architecture"),
        ("distilbert", "architectures", ["BertModel"], "unsupported_architecture"),
        ("roberta", "pad_token_id", None, "config_mismatch"),
        ("roberta", "max_position_embeddings", 2, "config_mismatch"),
        ("xlm-roberta", "is_decoder", True, "unsupported_architecture"),
        ("electra", "embedding_size", 32, "config_mismatch"),
        ("electra-base", "embedding_size", 16, "config_mismatch"),
        ("electra", "embedding_size", 0, "config_mismatch"),
        ("mpnet", "relative_attention_num_buckets", 16, "config_mismatch"),
        ("mpnet", "pad_token_id", 0, "config_mismatch"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(kind: str, key: str, value: object, code: str, tmp_path: Path) -> None:
    upload(tmp_path, kind)
    edit_json(tmp_path / "config.json", lambda config: config.update({key: value}))
    assert code in reasons(tmp_path)


@pytest.mark.parametrize("kind", list(NAMES))
def test_defaults_are_those_of_the_stock_config(kind: str) -> None:
    stock, names = CONFIG_MAPPING[kind](), NAMES[kind]
    assert {key: own for key, own, _ in names.keys.values()} == {key: getattr(stock, key) for key, _, _ in names.keys.values()}
    assert stock.pad_token_id == names.padding
    assert getattr(stock, names.activation) == "gelu"
    assert all(hasattr(stock, key) for key in (*names.fractions, *names.fixed) if key != "classifier_dropout")
