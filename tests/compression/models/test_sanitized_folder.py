"""What was sent becomes a folder that stock code opens; code that its files name is neither run nor handed on."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoTokenizer

from compression.engine.dataset_run import DatasetRun
from compression.engine.on_disk import backend as streaming
from compression.engine.pipeline import compress
from compression.models import loading
from compression.models.sanitized_folder import sanitized_folder
from compression.schema.errors import UnsafeCheckpoint, UnsupportedArchitecture
from compression.schema.job_spec import Spec
from tests.compression.models.validation.conftest import judged, reasons
from tests.support import encoder_models as models, engine_jobs
from tests.support.decoder_models import saved, tiny
from tests.support.gguf_files import tokens, write
from tests.support.tiny_bert import sentences, write_rows, write_tokenizer

CODE = {"AutoConfig": "configuration_deepseek.DeepseekV2Config", "AutoModel": "modeling_deepseek.DeepseekV2Model"}
CODE |= {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV2ForCausalLM"}
FAR = {name: f"somebody/model--{code}" for name, code in CODE.items()}
TOKENIZER = {"AutoTokenizer": ["somebody/model--tokens.Slow", "somebody/model--tokens.Fast"]}
PUBLISHED: dict[str, Any] = {
    "aux_loss_alpha": 0.001, "ep_size": 1, "moe_layer_freq": 1, "norm_topk_prob": False, "pretraining_tp": 1,
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 4, "mscale": 0.707, "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 16, "type": "yarn",
    },
    "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": True, "topk_method": "greedy",
    "torch_dtype": "bfloat16", "use_cache": True,
}  # fmt: skip
"""What its authors' config.json of DeepSeek-V2-Lite says beside the sizes."""
QUICK: dict[str, Any] = {"prepare": {"epochs": 0}, "prune": None, "distill": None, "train": {"max_length": 32}}


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))


def naming_code(folder: Path, code: dict[str, str] = FAR) -> Path:
    edit(folder / "config.json", auto_map=code)
    edit(folder / "tokenizer_config.json", auto_map=TOKENIZER)
    edit(folder / "generation_config.json", auto_map=code)
    return folder


def published(folder: Path, head: str = "ForCausalLM") -> Path:
    """Write a DeepSeek-V2 as its authors publish the small one: no rank of queries, no groups, and the names of their code."""
    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}, "pad_token_id": 0}
    saved(tiny("deepseek_v2", head, q_lora_rank=None, n_group=1, topk_group=1, **labels).to(torch.bfloat16), folder)
    said = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", "dtype"):
        said.pop(key)
    (folder / "config.json").write_text(json.dumps({**said, **PUBLISHED}))
    write_tokenizer(folder)
    return naming_code(folder, CODE)


def spec_of(place: Path, model: Path, **changes: Any) -> Spec:
    for name, rows in (("train", 40), ("test", 12)):
        write_rows(place / f"{name}.jsonl", sentences(rows, seed=len(name)))
    return engine_jobs.spec_of(model, place, **{"recipe": QUICK, **changes})


def naming(folder: Path) -> list[str]:
    found = [path for path in folder.rglob("*.json") if '"auto_map"' in path.read_text()]
    return [path.relative_to(folder).as_posix() for path in found]


@pytest.fixture(autouse=True)
def _nothing_is_fetched_or_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("somebody calls the network")

    def dynamic(*_: object, **__: object) -> None:
        raise AssertionError("somebody runs code of the model")

    monkeypatch.setattr(socket.socket, "connect", connect)
    for module in ("configuration_auto", "tokenization_auto", "auto_factory"):
        monkeypatch.setattr(f"transformers.models.auto.{module}.get_class_from_dynamic_module", dynamic)


def test_a_model_that_names_code_is_taken_and_its_links_do_not(tmp_path: Path) -> None:
    folder = published(tmp_path / "model")
    assert judged(folder).family == "deepseek_v2"
    (folder / "more").mkdir()
    found = sanitized_folder(folder, tmp_path / "place")
    assert found == tmp_path / "place"
    assert {path.name for path in found.iterdir()} == {path.name for path in folder.iterdir()}
    assert not naming(found)
    assert len(naming(folder)) == 3  # what was sent stays as it was
    assert all((found / file.name).is_symlink() for file in folder.glob("*.safetensors"))  # no second copy of weights
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        sent, clean = (json.loads((place / name).read_text()) for place in (folder, found))
        assert clean == {key: value for key, value in sent.items() if key != "auto_map"}
    edit(folder / "config.json", use_cache=False)  # another attempt, on another model
    assert json.loads((sanitized_folder(folder, tmp_path / "place") / "config.json").read_text())["use_cache"] is False


def test_a_folder_that_names_none_stays_where_it_is(tmp_path: Path) -> None:
    saved(tiny("llama"), tmp_path / "stock")
    assert sanitized_folder(tmp_path / "stock", tmp_path / "place") == tmp_path / "stock"
    assert not (tmp_path / "place").exists()


def test_a_file_is_unpacked_once_and_without_the_code_beside_it(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    write(tiny("llama", vocab_size=len(tokens())), tmp_path / "file" / "tiny.gguf")
    naming_code(tmp_path / "file")
    place = tmp_path / "scratch" / "place"
    assert sanitized_folder(tmp_path / "file", place) == place
    assert not naming(place)
    written = (place / "model.safetensors").stat()
    assert sanitized_folder(tmp_path / "file", place) == place
    assert (place / "model.safetensors").stat().st_ino == written.st_ino


@pytest.mark.parametrize("changes", [{"model_type": "deepseek"}, {"architectures": ["SomethingElse"]}])
def test_a_model_that_needs_its_code_is_refused_and_told_that_it_is_not_run(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = published(tmp_path / "model")
    edit(folder / "config.json", **changes)
    assert set(reasons(folder)) == {"unsupported_architecture"}
    assert sanitized_folder(folder, tmp_path / "place") == folder
    for way in (loading.read_config, loading.load_tokenizer):
        with pytest.raises(UnsupportedArchitecture, check=lambda error: "is not run" in error.remedy_text):
            way(folder)


def test_a_way_that_forgets_the_stock_folder_opens_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnsafeCheckpoint, match="auto_map"):
        loading.load_tokenizer(published(tmp_path / "model"))


def test_a_published_decoder_goes_through_a_job_and_from_file_to_file(tmp_path: Path) -> None:
    model = published(tmp_path / "model", "ForSequenceClassification")
    spec = spec_of(tmp_path, model)
    assert not streaming.fits_on_disk_only(spec, tmp_path)
    report = engine_jobs.report_of(compress(spec, tmp_path))
    assert [row.stage for row in report.rows] == ["baseline", "quantized"]
    assert any("code of its own" in note for note in report.rows[0].notes)
    assert list((tmp_path / "out").rglob("config.json"))
    assert not naming(tmp_path / "out")
    spec = spec_of(tmp_path, model, memory_bytes=500_000_000, output="files")
    assert streaming.fits_on_disk_only(spec, tmp_path)
    report = engine_jobs.report_of(compress(spec, tmp_path))
    assert [row.artifact for row in report.rows] == ["baseline-transformers-bfloat16", "quantized-transformers-int8"]
    assert any("code of its own" in note for note in report.rows[0].notes)
    assert not naming(tmp_path / "files")
    place = tmp_path / "files" / "artifacts" / report.rows[1].artifact
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(place)
    assert type(opened).__name__ == "DeepseekV2ForSequenceClassification"
    assert AutoTokenizer.from_pretrained(place)("good")["input_ids"]


def test_base_student_and_teacher_may_name_code_and_the_base_finds_words(tmp_path: Path) -> None:
    for name, head in (("base", "ForMaskedLM"), ("small", "Model"), ("wise", "ForSequenceClassification")):
        labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
        models.tiny("bert", head, **labels).save_pretrained(tmp_path / name)
        models.write_tokenizer(tmp_path / name)
        naming_code(tmp_path / name)
    augment = {"copies": 1, "synonyms": {"source": "masked-lm"}}
    recipe = {"prepare": {"epochs": 1}, "quantize": None, "prune": None, "train": {"batch": 16, "max_length": 32}}
    recipe["distill"] = {"epochs": 1, "teachers": {"seeds": 0}, "augment": augment}
    spec = spec_of(tmp_path, tmp_path / "base", student="small", teachers=["wise"], recipe=recipe)
    part = DatasetRun.open(spec, tmp_path, spec.asked[0])
    named = [note.split()[0] for note in part.state.notes if "code of its own" in note]
    assert named == ["models.base", "models.student", "models.teachers.0"]
    assert engine_jobs.report_of(compress(spec, tmp_path)).rows[-1].stage == "distilled"
    assert not naming(tmp_path / "out")
