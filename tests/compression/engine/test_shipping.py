"""What is downloaded: a folder that stock tools open by themselves, with its figures and its digests."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

from compression.engine.shipping import count_flops
from compression.export.instruction_sets import hindrance
from compression.schema.manifest import Manifest
from compression.schema.recipe.presets import PRESETS
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.report.instruction_sets import NotCompared
from compression.schema.report.measurements import Latency, NotMeasured
from tests.support.tiny_shipment import LABELS, MAX_LENGTH, Shipment, ship_tiny


@pytest.fixture(scope="module")
def tiny_shipment(
    tiny_classifier: BertForSequenceClassification, encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Shipment:
    """The artifacts as elsewhere, of which the int8 file has been run on another processor: that takes longer than all else."""
    return ship_tiny(tiny_classifier, encoder, tmp_path_factory.mktemp("output"), emulate_seconds=120.0)


def run_card(folder: Path, elsewhere: Path, prelude: str, epilogue: str) -> str:
    """Run the model card's own snippet, isolated: no current folder, no environment, nothing of ours importable."""
    snippet = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    program = f"import os, sys; os.chdir({str(folder)!r}); {prelude}\n{snippet}\n{epilogue}\n"
    done = subprocess.run([sys.executable, "-I", "-c", program], cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["baseline", "int8"])
def test_the_card_of_an_onnx_artifact_runs_without_torch_or_lathe(tiny_shipment: Shipment, tmp_path: Path, name: str) -> None:
    check = "assert not {'torch', 'transformers', 'compression'} & set(sys.modules), 'more than stock tools was loaded'"
    answers = run_card(tiny_shipment.folder(getattr(tiny_shipment, name)), tmp_path, "", check).split()
    assert len(answers) == 2
    assert set(answers) <= set(LABELS)


def test_the_checkpoint_opens_with_stock_code_and_answers_as_it_was_measured(tiny_shipment: Shipment, tmp_path: Path) -> None:
    texts = [text for text, _ in tiny_shipment.rows]
    epilogue = f"""
assert "compression" not in sys.modules
from torchao.quantization.quantize_.workflows import Int8Tensor
assert isinstance(model.classifier.weight, Int8Tensor)
answers = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.argmax().item() for text in {texts!r}]
print("ANSWERS", answers)
"""
    printed = run_card(tiny_shipment.folder(tiny_shipment.checkpoint), tmp_path, "", epilogue)
    answers = json.loads(printed.split("ANSWERS ")[1])
    right = sum(LABELS[answer] == label for answer, (_, label) in zip(answers, tiny_shipment.rows, strict=True))
    assert right / len(answers) == pytest.approx(tiny_shipment.checkpoint.score.value)


def test_the_int8_file_alone_is_compared_with_its_answers_on_another_processor(tiny_shipment: Shipment) -> None:
    compared = tiny_shipment.int8.artifact.compared_on
    card = (tiny_shipment.folder(tiny_shipment.int8) / "README.md").read_text()
    if (cause := hindrance()) is None:
        assert compared.rows == compared.answers == 16
        assert "answers to 16 sample rows under AVX2" in card
    else:
        assert compared == NotCompared(not_compared=cause)
        assert f"not compared: {cause}" in card
    for shipped in (tiny_shipment.baseline, tiny_shipment.checkpoint):
        assert shipped.artifact.compared_on is None
        assert "AVX2" not in (tiny_shipment.folder(shipped) / "README.md").read_text()


def test_the_manifest_lists_every_file_but_itself_with_its_digest(tiny_shipment: Shipment) -> None:
    for shipped in (tiny_shipment.baseline, tiny_shipment.int8, tiny_shipment.checkpoint):
        folder = tiny_shipment.folder(shipped)
        listed = {entry["path"]: entry for entry in json.loads((folder / "manifest.json").read_text())["files"]}
        present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert set(listed) == present - {"manifest.json"}
        assert {file.path for file in shipped.artifact.files} == present
        for path, entry in listed.items():
            data = (folder / path).read_bytes()
            assert (entry["size"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_manifest_says_what_is_read_and_answered_and_at_which_sizes_it_was_tried(tiny_shipment: Shipment) -> None:
    for shipped in (tiny_shipment.baseline, tiny_shipment.int8, tiny_shipment.checkpoint):
        manifest = Manifest.model_validate_json((tiny_shipment.folder(shipped) / "manifest.json").read_bytes())
        config = tiny_shipment.model.config
        assert manifest.kind == shipped.artifact.kind
        ids, mask, types = manifest.interface.inputs
        assert (ids.name, ids.dtype, ids.axes, ids.shape) == ("input_ids", "int64", ("batch", "sequence"), (None, None))
        assert (ids.low, ids.high, ids.usual) == (0, config.vocab_size - 1, None)
        assert [(one.name, one.high, one.usual) for one in (mask, types)] == [
            ("attention_mask", 1, 1),
            ("token_type_ids", 1, 0),
        ]
        assert manifest.interface.largest == {"sequence": config.max_position_embeddings}
        outputs = [(one.name, one.dtype, one.axes[0], one.shape) for one in manifest.interface.outputs]
        assert outputs == ([] if shipped is tiny_shipment.checkpoint else [("logits", "float32", "batch", (None, 2))])
        smallest, typical, largest = manifest.interface.tested
        serves = shipped is not tiny_shipment.checkpoint
        longest = config.max_position_embeddings if serves else typical["sequence"]
        assert (smallest, largest) == ({"batch": 1, "sequence": 1}, {"batch": 1, "sequence": longest})
        assert typical["batch"] == 16


def test_the_tokenizer_cuts_texts_by_itself_and_pads_nothing(tiny_shipment: Shipment) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_shipment.folder(tiny_shipment.int8) / "tokenizer.json"))
    rows = tokenizer.encode_batch(["good " * 50, "good"])
    assert [len(row.ids) for row in rows] == [MAX_LENGTH, 3]


def test_config_names_the_labels_and_the_length(tiny_shipment: Shipment) -> None:
    config = json.loads((tiny_shipment.folder(tiny_shipment.int8) / "config.json").read_text())
    assert (config["id2label"], config["max_length"]) == ({"0": "negative", "1": "positive"}, MAX_LENGTH)
    assert config["pad_token_id"] == 0


def test_figures_are_those_of_the_files(tiny_shipment: Shipment) -> None:
    small, large = tiny_shipment.int8, tiny_shipment.baseline
    assert small.size.bytes == (tiny_shipment.folder(small) / "model.onnx").stat().st_size
    assert (small.size.dtype, large.size.dtype) == ("int8", "float32")
    assert small.size.bytes_at_16_bit == 2 * sum(parameter.numel() for parameter in tiny_shipment.model.parameters())
    for shipped in (small, large):
        assert isinstance(shipped.latency, Latency)
        assert shipped.score.rows == len(tiny_shipment.rows)
        assert f"{shipped.score.value:.2%}" in (tiny_shipment.folder(shipped) / "README.md").read_text()
    assert isinstance(tiny_shipment.checkpoint.latency, NotMeasured)
    assert isinstance(tiny_shipment.checkpoint.peak_memory_bytes, int)


def test_the_card_says_where_it_comes_from_and_what_makes_it_again(tiny_shipment: Shipment) -> None:
    for shipped, tags in ((tiny_shipment.int8, {"onnx", "quantized"}), (tiny_shipment.checkpoint, {"quantized"})):
        folder = tiny_shipment.folder(shipped)
        _, front, body = (folder / "README.md").read_text().split("---\n", 2)
        told = yaml.safe_load(front)
        assert (told["license"], told["base_model"], told["pipeline_tag"]) == ("mit", "org/tiny", "text-classification")
        assert told["library_name"] == shipped.artifact.kind
        assert tags <= set(told["tags"])
        (result,) = told["model-index"][0]["results"]
        figures = {one["type"]: one["value"] for one in result["metrics"]}
        assert figures == {"accuracy": shipped.score.value, **shipped.score.metrics}
        for name in ("f1", "matthews"):
            error = shipped.score.standard_errors[name]
            assert f"| {name} | {shipped.score.metrics[name]:.2%} ± {error:.2%} |" in body
        assert Recipe.model_validate_json((folder / "recipe.json").read_text()) == PRESETS["quick"][0]
        assert (folder / "LICENSE").read_text() == "MIT License"
        assert "```sh\nlathe submit --model MODEL --data DATA --recipe recipe.json --wait\n```" in body
        assert "0" * 64 in body


def test_flops_follow_the_shape(tiny_shipment: Shipment) -> None:
    hidden, ffn, layers, length, labels = 32, 64, 2, 16, 2
    linear = layers * (4 * hidden * hidden + 2 * hidden * ffn) * length
    attention = layers * 2 * length * length * hidden
    expected = 2 * (linear + attention + hidden * hidden + hidden * labels)
    assert count_flops(tiny_shipment.model, Evaluate(length=length), "text-classification") == expected
    assert count_flops(tiny_shipment.model, Evaluate(batch=3, length=length), "text-classification") == 3 * expected
