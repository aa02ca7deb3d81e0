"""Every way in which a model can be wrong has its code, and a whole one is known by its facts."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import BertForMaskedLM, BertForSequenceClassification

from compression.engine.commands.validate import validate
from compression.models import loading
from compression.schema.job_spec import ModelCheck
from compression.schema.report.measurements import Shape
from tests.compression.models.validation.conftest import edit_json, join, judged, reasons, split
from tests.support.tiny_bert import WORDS, tiny_config, write_tokenizer

WEIGHTS = "model.safetensors"


def test_a_bare_encoder_is_known_by_its_facts(tiny_model: Path) -> None:
    facts = judged(tiny_model)
    assert (facts.family, facts.architecture, facts.labels) == ("bert", "BertModel", None)
    assert facts.shape == Shape(layers=2, hidden=32, heads=4, ffn=64, vocabulary=len(WORDS))
    assert facts.max_positions == 64
    stored = load_file(tiny_model / WEIGHTS)
    assert facts.parameters.total == sum(value.size for value in stored.values())
    assert (facts.bytes, facts.dtype) == ((tiny_model / WEIGHTS).stat().st_size, "float32")


def test_a_classifier_tells_its_labels_in_order(tmp_path: Path) -> None:
    names = {0: "zebra", 1: "ape", 2: "lion"}
    BertForSequenceClassification(tiny_config(id2label=names, label2id={v: k for k, v in names.items()})).save_pretrained(
        tmp_path
    )
    write_tokenizer(tmp_path)
    facts = judged(tmp_path)
    assert facts.labels == ("zebra", "ape", "lion")
    assert facts.parameters.total == sum(value.size for value in load_file(tmp_path / WEIGHTS).values())


def test_heads_of_pre_training_and_half_precision_are_taken(tmp_path: Path) -> None:
    BertForMaskedLM(tiny_config()).to(torch.float16).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    facts = judged(tmp_path)
    assert (facts.architecture, facts.dtype, facts.labels) == ("BertForMaskedLM", "float16", None)


def test_names_of_the_first_checkpoints_are_taken(tiny_model: Path) -> None:
    whole = load_file(tiny_model / WEIGHTS)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    before = loading.load_model(tiny_model, ("a", "b"), "text-classification", seed=0)
    renamed = {}
    for name, value in whole.items():
        ending = next((ending for ending in old if name.endswith(ending)), "")
        renamed[name.removesuffix(ending) + old.get(ending, "")] = value
    assert sum(name.endswith("gamma") for name in renamed) == 5
    save_file(renamed, tiny_model / WEIGHTS, metadata={"format": "pt"})
    judged(tiny_model)
    after = loading.load_model(tiny_model, ("a", "b"), "text-classification", seed=0)
    assert all(value.equal(after.state_dict()[name]) for name, value in before.state_dict().items())


def test_shards_are_taken_together(encoder: Path, tiny_model: Path) -> None:
    shard(tiny_model)
    assert judged(tiny_model).parameters == judged(encoder).parameters


def shard(folder: Path) -> None:
    whole = load_file(folder / WEIGHTS)
    names = sorted(whole)
    index = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: whole[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def test_a_shard_index_may_not_lead_out_nor_name_what_is_not_there(tiny_model: Path) -> None:
    shard(tiny_model)
    index = tiny_model / f"{WEIGHTS}.index.json"
    name = "embeddings.word_embeddings.weight"
    edit_json(index, lambda value: value["weight_map"].update({name: "../outside.safetensors"}))
    assert "outside of the model" in reasons(tiny_model)["unsafe_checkpoint"]
    edit_json(index, lambda value: value["weight_map"].update({name: "model-00009-of-00002.safetensors"}))
    assert "00009" in reasons(tiny_model)["missing_file"]
    first = "model-00001-of-00002.safetensors"
    edit_json(index, lambda value: value["weight_map"].update({name: first, "ghost": first}))
    assert "disagree" in reasons(tiny_model)["config_mismatch"]


def test_shards_hold_each_tensor_once_and_no_file_is_left_over(tiny_model: Path) -> None:
    whole = load_file(tiny_model / WEIGHTS)
    shard(tiny_model)
    index, second = tiny_model / f"{WEIGHTS}.index.json", tiny_model / "model-00002-of-00002.safetensors"
    size = sum(value.nbytes for value in whole.values())
    for total in (size - 1, size * 2, "much", True):
        edit_json(index, lambda value, total=total: value.update(metadata={"total_size": total}))
        assert "states" in reasons(tiny_model)["damaged_checkpoint"]
    edit_json(index, lambda value: value.update(metadata={"total_size": size}))
    judged(tiny_model)
    edit_json(index, lambda value: value.update(metadata={}))
    held = load_file(second)
    name = "embeddings.word_embeddings.weight"
    assert name not in held
    save_file({**held, name: whole[name]}, second)
    assert "same name" in reasons(tiny_model)["damaged_checkpoint"]
    save_file(held, second)
    shutil.copy(second, tiny_model / "model-00003-of-00003.safetensors")
    assert "00003" in reasons(tiny_model)["config_mismatch"]
    edit_json(index, lambda value: value.update(weight_map={f"t{n}": f"{n}.safetensors" for n in range(1025)}))
    assert "1,025 files" in reasons(tiny_model)["damaged_checkpoint"]


def test_headers_of_many_shards_are_bounded_together(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(tiny_model)
    judged(tiny_model)
    first, _ = split(tiny_model / "model-00001-of-00002.safetensors")
    monkeypatch.setattr("compression.models.files.safetensors_header.LARGEST_HEADERS", len(json.dumps(first)) + 100)
    assert "take more than" in reasons(tiny_model)["damaged_checkpoint"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_what_is_missing_is_named(tiny_model: Path, name: str) -> None:
    (tiny_model / name).unlink()
    assert name in reasons(tiny_model)["missing_file"]


ELF, PE, MACHO = b"\x7fELF\2\1\1" + bytes(9), b"MZ\x90" + bytes(20), b"\xcf\xfa\xed\xfe\7\0\0\1"
NATIVE = (pickle.dumps({"a": 1}), ELF, PE, MACHO, b"\0asm\1\0\0\0", b"PK\3\4rest", b"#!/bin/sh\nid\n")
PICKLES = ("pytorch_model.bin", "training_args.BIN", "x.pt", "x.pth", "x.ckpt", "x.pkl", "sub/x.bin")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *((name, pickle.dumps({})) for name in PICKLES),
        *((name, data) for name in ("vocab.txt", "tokenizer.model", "LICENSE", "sub/extra.json") for data in NATIVE),
        *((name, ELF) for name in ("onnx/model.onnx", "sub/model.gguf")),  # weights are what their names say
    ],
)
def test_pickles_and_native_code_are_refused_by_any_name_beside_safe_weights(tiny_model: Path, name: str, data: bytes) -> None:
    (tiny_model / name).parent.mkdir(exist_ok=True)
    (tiny_model / name).write_bytes(data)
    assert name in reasons(tiny_model)["unsafe_checkpoint"]


@pytest.mark.parametrize("name", ["w", "notes.pdf", "train.parquet", "model.safetensors.part"])
def test_what_nothing_reads_is_refused(tiny_model: Path, name: str) -> None:
    (tiny_model / name).write_bytes(b"text")
    assert name in reasons(tiny_model)["unexpected_file"]


def test_what_stock_tools_read_is_taken(tiny_model: Path) -> None:
    files = {
        "tokenizer.model": b"\n\x0e\n\5<unk>\x15\0\0\0\0",
        "vocab.txt": b"MZ\n[PAD]\n#!\n",
        "NOTICE": "é".encode("latin-1"),
    }
    for name, data in {**files, "README.md": b"# A card", "1_Pooling/config.json": b"{}"}.items():
        (tiny_model / name).parent.mkdir(exist_ok=True)
        (tiny_model / name).write_bytes(data)
    judged(tiny_model)


def test_a_pickle_or_torch_s_zip_renamed_to_safetensors_is_known_by_its_first_bytes(tiny_model: Path) -> None:
    for protocol in (2, 3, 4, 5):
        (tiny_model / WEIGHTS).write_bytes(pickle.dumps({"weight": list(range(100))}, protocol=protocol))
        assert "under another name" in reasons(tiny_model)["unsafe_checkpoint"]
    torch.save({"weight": torch.zeros(3)}, tiny_model / WEIGHTS)
    assert "under another name" in reasons(tiny_model)["unsafe_checkpoint"]


def test_nothing_of_a_hostile_pickle_runs(tiny_model: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    for name in (WEIGHTS, "pytorch_model.bin", "tokenizer.json"):
        (tiny_model / name).write_bytes(pickle.dumps(Bomb()))
    assert "unsafe_checkpoint" in reasons(tiny_model)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_config_that_names_code_is_taken_without_it(tiny_model: Path, file: str) -> None:
    edit_json(tiny_model / file, lambda value: value.update(auto_map={"AutoModel": "evil--repo.Model"}))
    assert judged(tiny_model).architecture == "BertModel"


def test_a_model_that_needs_its_code_is_told_that_it_is_not_run(tiny_model: Path) -> None:
    edit_json(tiny_model / "config.json", lambda value: value.update(model_type="own", auto_map={"AutoModel": "own.Model"}))
    rejected = validate(ModelCheck(path=str(tiny_model)), Path.cwd())
    assert [reason["code"] for reason in rejected.reasons] == ["unsupported_architecture"]
    assert "is not run" in str(rejected.reasons[0]["remedy"])


def test_code_and_a_config_that_names_a_kernel_to_fetch_are_refused(tiny_model: Path) -> None:
    (tiny_model / "modeling_evil.py").write_text("print('hello')")
    assert "code" in reasons(tiny_model)["unsafe_checkpoint"]
    (tiny_model / "modeling_evil.py").unlink()
    edit_json(tiny_model / "config.json", lambda value: value.update(attn_implementation="evil/kernels"))
    assert "kernel" in reasons(tiny_model)["unsafe_checkpoint"]


REFUSED: dict[str, dict[str, list[object]]] = {
    "unsupported_architecture": {
        "model_type": ["llama", None, ["bert"]],
        "architectures": [["BertForMultipleChoice"], 7, [["BertModel"]]],
        "is_decoder": [True],
        "quantization_config": [{"quant_method": "torchao"}],
        "position_embedding_type": ["relative_key"],
        "hidden_act": ["evil"],
    },
    "config_mismatch": {
        "hidden_size": [33, -32, True, "32", 32.0],
        "num_hidden_layers": [10**30, 3],
        "num_attention_heads": [0],
        "intermediate_size": [128],
        "vocab_size": [20],
        "max_position_embeddings": [65],
        "type_vocab_size": [1],
        "layer_norm_eps": ["tiny"],
        "classifier_dropout": [2.0],
        "pad_token_id": [10**9],
        "return_dict": [False],
        "output_attentions": [True],
        "chunk_size_feed_forward": [3],
        "attribute_map": [{"hidden_size": "vocab_size"}],
    },
}


@pytest.mark.parametrize("code", REFUSED)
def test_a_config_that_cannot_be_right_is_refused(tiny_model: Path, code: str) -> None:
    whole = (tiny_model / "config.json").read_text()
    for key, value in ((key, value) for key, values in REFUSED[code].items() for value in values):
        (tiny_model / "config.json").write_text(json.dumps({**json.loads(whole), key: value}))
        assert code in reasons(tiny_model), (key, value)


def test_settings_that_old_versions_wrote_out_are_taken(tiny_model: Path) -> None:
    stock = {"return_dict": True, "output_attentions": False, "pruned_heads": {}, "pad_token_id": None}
    edit_json(tiny_model / "config.json", lambda config: config.update(stock, classifier_dropout=None))
    judged(tiny_model)


def test_a_config_that_is_no_plain_json_object_is_refused(tiny_model: Path) -> None:
    deep, long = ("[" * 100_000, '{"a":' * 40 + "1" + "}" * 40), "{" + " " * (1 << 20) + "}"
    for text in ("", "[]", "{", '{"a": NaN}', '{"a": 1, "a": 2}', *deep, long):
        (tiny_model / "config.json").write_text(text)
        assert reasons(tiny_model)["config_mismatch"].startswith("config.json:"), text[:20]


def test_a_lying_set_of_labels_is_refused(tmp_path: Path) -> None:
    BertForSequenceClassification(tiny_config(num_labels=3)).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    judged(tmp_path)
    for names in (
        {"0": "a", "1": "b"},
        {"0": "a", "1": "a", "2": "b"},
        {"0": "a", "2": "b", "3": "c"},
        {"0": "a", "1": 1, "2": "c"},
        {"0": "a", "1": "b\0", "2": "c"},
        {"0": "a", "1": "b\ud800", "2": "c"},
        {"0": "a", "1": "b" * 300, "2": "c"},
    ):
        edit_json(tmp_path / "config.json", lambda value, names=names: value.update(id2label=names))
        assert "config_mismatch" in reasons(tmp_path)


def test_weights_that_lack_or_add_a_tensor_are_refused(tiny_model: Path) -> None:
    whole = load_file(tiny_model / WEIGHTS)
    name = "encoder.layer.1.output.dense.bias"
    save_file({key: value for key, value in whole.items() if key != name}, tiny_model / WEIGHTS)
    assert name in reasons(tiny_model)["config_mismatch"]
    save_file({**whole, "backdoor": np.zeros(3, np.float32)}, tiny_model / WEIGHTS)
    assert "backdoor" in reasons(tiny_model)["config_mismatch"]
    save_file({**whole, name: whole[name].astype(np.int32)}, tiny_model / WEIGHTS)
    assert "floating-point" in reasons(tiny_model)["config_mismatch"]
    without_pooler = {key: value for key, value in whole.items() if not key.startswith("pooler")}
    save_file({**without_pooler, "embeddings.position_ids": np.arange(64)[None]}, tiny_model / WEIGHTS)
    judged(tiny_model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers_are_refused(tiny_model: Path, value: float) -> None:
    whole = load_file(tiny_model / WEIGHTS)
    whole["pooler.dense.bias"][5] = value
    save_file(whole, tiny_model / WEIGHTS)
    assert "pooler.dense.bias" in reasons(tiny_model)["damaged_checkpoint"]


def test_truncated_weights_are_refused(tiny_model: Path) -> None:
    data = (tiny_model / WEIGHTS).read_bytes()
    for end in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        (tiny_model / WEIGHTS).write_bytes(data[:end])
        assert "damaged_checkpoint" in reasons(tiny_model)


def test_a_header_that_lies_is_refused(tiny_model: Path) -> None:
    header, data = split(tiny_model / WEIGHTS)
    name, other = "pooler.dense.bias", "pooler.dense.weight"
    lies = [
        *({"dtype": dtype} for dtype in ("F16", "Q4")),
        *({"shape": shape} for shape in ([31], [-32], [10**40], "32")),
        *({"data_offsets": at} for at in (header[other]["data_offsets"], [len(data), len(data) + 128], [0])),
        {"more": 1},
    ]
    lies = [*({name: {**header[name], **lie}} for lie in lies), {name: None}]
    lies.append({"overlap": {"dtype": "F32", "shape": [32], "data_offsets": header[name]["data_offsets"]}})
    for lie in lies:
        join(tiny_model / WEIGHTS, {**header, **lie}, data)
        assert "damaged_checkpoint" in reasons(tiny_model), lie
    join(tiny_model / WEIGHTS, header, data + b"hidden")
    assert "damaged_checkpoint" in reasons(tiny_model)
    (tiny_model / WEIGHTS).write_bytes((1 << 62).to_bytes(8, "little") + data)
    assert "damaged_checkpoint" in reasons(tiny_model)
    join(tiny_model / WEIGHTS, header, data)
    judged(tiny_model)


def test_all_reasons_are_told_at_once(tiny_model: Path) -> None:
    edit_json(tiny_model / "config.json", lambda value: value.update(hidden_size=0))
    (tiny_model / WEIGHTS).write_bytes(b"short")
    (tiny_model / "tokenizer.json").unlink()
    (tiny_model / "evil.py").touch()
    assert set(reasons(tiny_model)) == {"unsafe_checkpoint", "config_mismatch", "damaged_checkpoint", "missing_file"}


def test_a_tokenizer_must_open_and_fit_the_vocabulary(tiny_model: Path) -> None:
    edit_json(tiny_model / "tokenizer.json", lambda value: value["model"]["vocab"].update(extra=len(WORDS)))
    assert "vocabulary" in reasons(tiny_model)["config_mismatch"]
    for text in ("", "{}", "[1]", '{"model": {"type": "WordPiece"}}', "\x00\x01"):
        (tiny_model / "tokenizer.json").write_text(text)
        assert "tokenizer.json cannot be opened" in reasons(tiny_model)["config_mismatch"]


def test_a_folder_that_is_not_there_is_an_answer_too(tmp_path: Path) -> None:
    assert "missing_file" in reasons(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "missing_file" in reasons(tmp_path / "empty")


def test_a_pipe_in_place_of_weights_does_not_block(tiny_model: Path) -> None:
    (tiny_model / WEIGHTS).unlink()
    os.mkfifo(tiny_model / WEIGHTS)
    assert "missing_file" in reasons(tiny_model)
    shutil.rmtree(tiny_model)
