"""Opening a user's model: stock weights alone, nothing that runs, and errors that say what to send instead."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, PreTrainedModel

from compression.export.transformers.exporter import write_transformers
from compression.modalities.registry import task_of
from compression.modalities.text.batches import tokenize
from compression.models import loading
from compression.models.adapters.registry import adapter_of
from compression.models.architectures import heads
from compression.schema import errors
from compression.schema.errors import ConfigMismatch, MissingFile, UnsafeCheckpoint
from tests.support import decoder_models as decoders, tiny_language
from tests.support.tiny_bert import BAD, FILLER, GOOD, tiny_config, write_tokenizer

TASK = task_of("text-classification")
TOKENS = [decoders.END, decoders.UNKNOWN, *GOOD, *BAD, *FILLER]


@pytest.fixture
def folder(encoder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(encoder, tmp_path / "model")


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def headed(folder: Path, labels: list[str]) -> BertForSequenceClassification:
    torch.manual_seed(1)
    model = BertForSequenceClassification(
        tiny_config(id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)})
    )
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model.eval()


def test_a_bare_encoder_gets_a_head_by_seed(folder: Path) -> None:
    first, again, other = (loading.load_model(folder, ("a", "b", "c"), "text-classification", seed=seed) for seed in (1, 1, 2))
    assert first.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert first.classifier.weight.equal(again.classifier.weight)
    assert not first.classifier.weight.equal(other.classifier.weight)
    stored = load_file(folder / "model.safetensors")
    assert first.bert.embeddings.word_embeddings.weight.equal(stored["embeddings.word_embeddings.weight"])


def test_a_head_is_used_in_its_own_order(tmp_path: Path) -> None:
    stored = headed(tmp_path, ["yes", "no"])
    opened = loading.load_model(tmp_path, ("no", "yes"), "text-classification", seed=0)
    assert loading.head_labels(opened.config) == ("yes", "no")
    ids = torch.arange(5, 12)[None]
    assert torch.allclose(opened(ids).logits, stored(ids).logits, atol=1e-6)


def test_a_head_for_other_labels_is_refused(tmp_path: Path) -> None:
    headed(tmp_path, ["yes", "no"])
    with pytest.raises(errors.LabelMismatch, match="'maybe'"):
        loading.load_model(tmp_path, ("maybe", "no"), "text-classification", seed=0)


def without(name: str) -> object:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def truncated(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("harm", "error", "param"),
    [
        (without("config.json"), MissingFile, "config.json"),
        (without("tokenizer.json"), MissingFile, "tokenizer.json"),
        (without("model.safetensors"), MissingFile, "*.safetensors"),
        (pickled, UnsafeCheckpoint, "pytorch_model.bin"),
        (lambda folder: edit_config(folder, auto_map={"AutoModel": "evil.Model"}), UnsafeCheckpoint, "config.json:auto_map"),
        (lambda folder: edit_config(folder, model_type="gpt9"), errors.UnsupportedArchitecture, "config.json:model_type"),
        (lambda folder: edit_config(folder, intermediate_size=128), ConfigMismatch, "config.json"),
        (lambda folder: (folder / "config.json").write_text("[]"), ConfigMismatch, "config.json"),
        (truncated, errors.DamagedCheckpoint, "*.safetensors"),
        (lacking, ConfigMismatch, None),
    ],
)
def test_a_model_s_faults_are_named(folder: Path, harm: object, error: type[Exception], param: str | None) -> None:
    harm(folder)
    with pytest.raises(error, check=lambda problem: param is None or problem.param == param):
        loading.load_model(folder, ("a", "b"), "text-classification", seed=0)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"save_pretrained": 1}, "config.json:save_pretrained"),
        ({"use_return_dict": True}, "config.json:use_return_dict"),
        ({"pad_token_id": 10**9}, "config.json"),
    ],
)
def test_a_config_that_would_break_what_calls_it_is_refused(folder: Path, changes: dict[str, object], param: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ConfigMismatch, check=lambda error: error.param == param):
        loading.load_model(folder, ("a", "b"), "text-classification", seed=0)


def test_a_token_without_a_row_in_the_table_is_refused(folder: Path) -> None:
    loading.load_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "[OUTSIDE]"}))
    with pytest.raises(ConfigMismatch, match="has the id"):
        loading.load_tokenizer(folder)


def decoder(folder: Path, head: str = "ForCausalLM", **names: str) -> PreTrainedModel:
    """Write a language model whose tokenizer pads with nothing, unless it is named."""
    model = decoders.tiny("llama", head, vocab_size=len(TOKENS), num_labels=3)
    model.save_pretrained(folder)
    decoders.write_tokenizer(folder, TOKENS, **names)
    return model


@pytest.mark.parametrize(("named", "padding"), [({}, 0), ({"pad_token": "good"}, 2)])
def test_a_decoder_knows_what_pads_and_answers_alike_padded_or_not(named: dict[str, str], padding: int, tmp_path: Path) -> None:
    sent = decoder(tmp_path, "ForSequenceClassification", **named)
    tokenizer = loading.load_tokenizer(tmp_path)
    model = loading.load_model(tmp_path, ("LABEL_0", "LABEL_1", "LABEL_2"), "text-classification", seed=0)
    assert tokenizer.pad_token_id == model.config.pad_token_id == padding
    rows = tokenize(tokenizer, ["bad word1 word2 word3", "word4 bad", "word5"], None, [0, 1, 2], 16, TASK, types=False)
    assert rows.padding == padding
    with torch.inference_mode():
        together = model(**rows.batch([0, 1, 2]).inputs).logits
        for row in range(3):
            ids = torch.tensor([rows.tokens[row]])
            assert torch.allclose(model(input_ids=ids).logits[0], together[row], atol=1e-6)
            # The head that was sent answers: at the last token of each row, whatever stands behind it.
            assert torch.allclose(sent(input_ids=ids).logits[0], together[row], atol=1e-6)


def test_a_decoder_gets_a_head_without_bias_whose_answers_can_be_put_in_order(tmp_path: Path) -> None:
    sent = decoder(tmp_path)
    one, same, other = (loading.load_model(tmp_path, ("b", "a"), "text-classification", seed=seed) for seed in (0, 0, 1))
    assert type(one).__name__ == "LlamaForSequenceClassification"
    assert one.score.weight.equal(same.score.weight)
    assert not one.score.weight.equal(other.score.weight)
    assert one.model.embed_tokens.weight.equal(sent.model.embed_tokens.weight)
    before = one.score.weight.clone()
    assert loading.in_order(one, ("a", "b")).score.weight.equal(before[[1, 0]])
    with pytest.raises(errors.UnsupportedTask, match="llama"):
        loading.load_model(tmp_path, ("a", "b"), "token-classification", seed=0)


def test_weights_of_16_bits_are_loaded_as_they_are_in_float32(tmp_path: Path) -> None:
    sent = decoder(tmp_path).to(torch.bfloat16)
    sent.save_pretrained(tmp_path)
    model = loading.load_model(tmp_path, ("a", "b"), "text-classification", seed=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.model.norm.weight.equal(sent.model.norm.weight.float())


@pytest.mark.parametrize("head", ["Model", "ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "gpt2"])
def test_a_decoder_of_any_head_becomes_a_reader(kind: str, head: str, tmp_path: Path) -> None:
    """Stock readers call the bare model otherwise than other classes of some families do."""
    sent = decoders.tiny(kind, head, vocab_size=tiny_language.VOCABULARY + 4)
    sent.save_pretrained(tmp_path)
    tiny_language.tokenizer().save_pretrained(tmp_path)
    opened = loading.load_model(tmp_path, (), "question-answering", seed=0)
    assert type(opened).__name__.endswith("ForQuestionAnswering")
    theirs = opened.base_model.state_dict()
    assert all(theirs[name].equal(value) for name, value in sent.base_model.state_dict().items())
    if head == "ForQuestionAnswering":
        assert opened.qa_outputs.weight.equal(sent.qa_outputs.weight)
    else:
        again = loading.load_model(tmp_path, (), "question-answering", seed=0)
        assert opened.qa_outputs.weight.equal(again.qa_outputs.weight)
        assert opened.qa_outputs.weight.std() > 0
        assert not opened.qa_outputs.bias.any()
    assert opened.config.use_cache is False
    assert opened.config.pad_token_id == tiny_language.tokenizer().eos_token_id
    kept, shipped = tmp_path / "kept", tmp_path / "shipped"
    adapter_of(opened).save(opened, kept)
    write_transformers(opened, shipped, int8=False)
    for folder, uploaded in ((kept, False), (shipped, True)):
        again = loading.open_whole(folder, heads.of_task("question-answering"), sent=uploaded)
        assert all(value.equal(again.state_dict()[name]) for name, value in opened.state_dict().items())


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "gpt2"])
def test_a_reader_becomes_a_classifier(kind: str, tmp_path: Path) -> None:
    sent = decoders.tiny(kind, "ForQuestionAnswering", vocab_size=tiny_language.VOCABULARY + 4)
    sent.save_pretrained(tmp_path)
    tiny_language.tokenizer().save_pretrained(tmp_path)
    opened = loading.load_model(tmp_path, ("a", "b"), "text-classification", seed=0)
    theirs = opened.base_model.state_dict()
    assert all(theirs[name].equal(value) for name, value in sent.base_model.state_dict().items())
    adapter_of(opened).save(opened, tmp_path / "kept")
    again = loading.open_whole(tmp_path / "kept", heads.of_task("text-classification"), sent=False)
    assert all(value.equal(again.state_dict()[name]) for name, value in opened.state_dict().items())


def test_a_folder_that_lacks_a_weight_is_not_opened_with_a_drawn_one(tmp_path: Path) -> None:
    model = headed(tmp_path / "model", ["a", "b"])
    kept = {name: value for name, value in model.state_dict().items() if name != "bert.encoder.layer.0.output.dense.weight"}
    save_file(kept, tmp_path / "model/model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigMismatch, match=r"the weights lack 'bert\.encoder\.layer\.0\.output\.dense\.weight'"):
        loading.open_whole(tmp_path / "model", heads.of_task("text-classification"))


def test_a_family_without_a_stock_reader_answers_no_questions(tmp_path: Path) -> None:
    decoders.tiny("deepseek_v3").save_pretrained(tmp_path)
    decoders.write_tokenizer(tmp_path, TOKENS)
    with pytest.raises(errors.UnsupportedTask, match="not question-answering"):
        loading.load_model(tmp_path, (), "question-answering", seed=0)
