"""A Qwen2 whose tokenizer.json has other rules than stock code has for it: whoever opens the download reads by the file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from compression.engine import shipping
from compression.engine.on_disk import backend, shipping_on_disk
from compression.evaluation.lm_eval import harness, harness_model
from compression.evaluation.measure import Measured
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.measurements import NotMeasured
from tests.compression.engine.on_disk.test_backend import done, spec_of
from tests.compression.evaluation.lm_eval.test_harness import CHOICE, task
from tests.compression.export.test_preprocessor_files import TEXT, write_qwen
from tests.support import measuring
from tests.support.decoder_models import tiny
from tests.support.shipments import shipped

OTHER = r"\p{N}{1,3}| ?[^\s\p{N}]+|\s+"
"""Up to three digits are one piece; the stock class takes each by itself."""
NOTHING = NotMeasured(not_measured="It is not asked.")


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Measured(latency=NOTHING, score=NOTHING, peak_memory_bytes=NOTHING)
    monkeypatch.setattr(shipping, "measure_artifact", lambda *_, **__: measuring.of(nothing))


def qwen(folder: Path, pattern: str) -> Path:
    own = write_qwen(folder, pattern)
    tiny("qwen2", "ForCausalLM", vocab_size=own.get_vocab_size()).to(torch.bfloat16).save_pretrained(folder)
    return folder


def opening(folder: Path) -> str:
    """Return what the card says to do before the model is opened."""
    return (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0].partition("model = ")[0]


def read_by_the_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.chdir(folder)
    found: dict[str, object] = {}
    exec(opening(folder), found)
    return found["tokenizer"](TEXT)["input_ids"]


def test_the_card_opens_a_tokenizer_that_reads_by_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = qwen(tmp_path / "model", OTHER)
    form = {"kind": "transformers", "preprocessor": model, "max_length": 16, "evaluate": Evaluate(window=16)}
    done = shipped(AutoModelForCausalLM.from_pretrained(model), tmp_path, [{"text": TEXT}], **form)
    made = tmp_path / "artifacts" / done.artifact.name
    own = Tokenizer.from_file(str(made / "tokenizer.json")).encode(TEXT).ids
    assert AutoTokenizer.from_pretrained(made)(TEXT)["input_ids"] != own
    assert read_by_the_card(made, monkeypatch) == own


@pytest.mark.parametrize(("pattern", "opener"), [(OTHER, "PreTrainedTokenizerFast"), (PRETOKENIZE_REGEX, "AutoTokenizer")])
def test_so_does_one_from_file_to_file(pattern: str, opener: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "whole_bytes", lambda parameters: 1 << 62)
    monkeypatch.setattr(shipping_on_disk, "opened_bytes", lambda file, table: 1 << 62)
    report = done(spec_of(tmp_path, qwen(tmp_path / "model", pattern), task="causal-lm", memory_bytes=8 << 30), tmp_path)
    checkpoints = [one for one in report.artifacts if one.kind == "transformers"]
    assert [one.stage for one in checkpoints] == ["baseline", "quantized"]
    for one in checkpoints:
        made = tmp_path / "out" / "artifacts" / one.name
        assert f"import AutoModelForCausalLM, {opener}\n" in opening(made)
        assert read_by_the_card(made, monkeypatch) == Tokenizer.from_file(str(made / "tokenizer.json")).encode(TEXT).ids


def test_lm_eval_reads_by_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model, opened, read = qwen(tmp_path / "model", OTHER), harness_model._opened, list[list[int]]()

    def overheard(*given: Any) -> Any:
        model, tokenizer = opened(*given)
        read.append(tokenizer(TEXT)["input_ids"])
        return model, tokenizer

    monkeypatch.setattr(harness_model, "_opened", overheard)
    task(tmp_path / "own", CHOICE, "pick", [{"question": "the 123 is", "choices": ["1", "12"], "answer": 0}])
    found = harness.evaluate(model, ["pick"], include=tmp_path / "own", threads=1)
    assert [figure.task for figure in found.figures] == ["pick"]
    assert read == [Tokenizer.from_file(str(model / "tokenizer.json")).encode(TEXT).ids]
