"""A language model is shipped, scored, timed and opened as its user would: ONNX Runtime's files and stock checkpoints."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from bench.language.windows import document_losses
from compression.engine.shipping import ArtifactRequest, RunSettings, ShippedArtifact, measure_latency
from compression.evaluation import generation_latency
from compression.evaluation.measure import read_rows
from compression.evaluation.runtimes.runner import open_artifact
from compression.evaluation.turns import FEWEST_QUIET
from compression.export.exporter import exporter_of
from compression.export.manifest import write_config
from compression.export.parity_check import compare, limit, verify
from compression.export.transformers.exporter import write_transformers
from compression.modalities.registry import scorer_of
from compression.modalities.scoring.base import Floats as Logits
from compression.modalities.text.causal_lm.documents import read
from compression.modalities.text.inputs import Batch, Ids
from compression.modalities.text.scoring.perplexity import LanguageScorer, figures
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, remove_fake_quantization
from compression.schema.errors import ExportMismatch
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.measurements import Score
from tests.support import shipments
from tests.support.shipments import Wrapped
from tests.support.tiny_language import TEXTS, model, tokenizer

MANY = [f"{text} {number}" for number in range(6) for text in TEXTS]
SAMPLE = [{"text": text} for text in MANY]
EVALUATE = Evaluate(length=16)
ASKED = {"int8": False, "sample": SAMPLE, "scorer": scorer_of("causal-lm", EVALUATE, ()), "pad_id": 0}
Shipped = dict[str, tuple[Path, ShippedArtifact]]
DONE = {"baseline": None, "int8": Simulation(), "int4": Simulation(scheme="weight-only-int4", group_size=16)}


@pytest.fixture(scope="module")
def network() -> PreTrainedModel:
    return model("llama", tie_word_embeddings=True, max_position_embeddings=64, eos_token_id=3)


def settings(output: Path, rows: Path, texts: list[str], evaluate: Evaluate = EVALUATE) -> RunSettings:
    sample = [{"text": text} for text in texts]
    return RunSettings(task="causal-lm", labels=(), evaluate=evaluate, output=output, rows={"test": rows}, sample=sample)


@pytest.fixture(scope="module")
def shipped(network: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    output = tmp_path_factory.mktemp("output")
    tokenizer(bos=True).save_pretrained(output / "tokenizer")
    first = shipments.shipped(network, output, SAMPLE)
    made = {"baseline": (output / "artifacts" / first.artifact.name, first)}
    for name in ("int8", "int4"):
        with simulated(network, DONE[name]):
            later = {"stage": "quantized", "precision": name, "baseline": made["baseline"][0]}
            found = shipments.shipped(network, output, SAMPLE, **later)
            made[name] = (output / "artifacts" / found.artifact.name, found)
    return made


@contextmanager
def simulated(network: PreTrainedModel, simulation: Simulation | None) -> Iterator[None]:
    if simulation is not None:
        insert_fake_quantization(network, simulation=simulation)
    yield
    remove_fake_quantization(network)


@pytest.mark.parametrize("name", DONE)
def test_the_score_is_the_files_and_agrees_with_the_engines(name: str, shipped: Shipped, network: PreTrainedModel) -> None:
    score, scorer = shipped[name][1].score, scorer_of("causal-lm", EVALUATE, ())
    with simulated(network, DONE[name]):
        told = document_losses(network, read(MANY, tokenizer(bos=True)), length=scorer.length, stride=scorer.stride)
    assert (score.value, score.rows) == (pytest.approx(figures(told).perplexity.value, rel=1e-3), len(MANY))


def test_windows_are_counted_as_they_are_answered(shipped: Shipped, tmp_path: Path) -> None:
    folder, found = shipped["int8"]
    told = list[int]()
    scorer = scorer_of("causal-lm", EVALUATE, ())
    rows = folder.parents[1] / "test.jsonl"
    runner = open_artifact("onnx", folder, threads=1)
    asked = scorer.open_split(runner, scorer.reader(folder), read_rows(rows))
    score = asked.answer(told.append).score
    assert score.model_copy(update={"runtime": runner.name, "device": "cpu"}) == found.score
    assert sum(told) == asked.windows
    assert set(told[:-1]) == {1}  # then the first of them again, together


@pytest.mark.parametrize("name", DONE)
def test_the_speed_is_that_of_generating(name: str, shipped: Shipped) -> None:
    latency = shipped[name][1].latency
    generation = latency.generation
    assert (latency.batch, latency.length, generation.prompt) == (1, 16, 16)
    assert latency.runs >= min(generation_latency.FEWEST_ROUNDS * generation.tokens, FEWEST_QUIET)
    assert generation.decode_per_second == pytest.approx(1000 / latency.median_ms)
    assert generation.baseline_decode_per_second == pytest.approx(1000 / latency.baseline_median_ms)
    assert generation.prefill_per_second == pytest.approx(16 * 1000 / generation.first_token_ms)
    assert (generation.first_token_ms == generation.baseline_first_token_ms) == (name == "baseline")


def test_bytes_are_those_of_graph_and_weights(shipped: Shipped) -> None:
    for name in DONE:
        folder, found = shipped[name]
        files = {file.path: file.size for file in found.artifact.files}
        assert found.size.bytes == files["model.onnx"] + files["model.onnx_data"]
        assert files["model.onnx"] == (folder / "model.onnx").stat().st_size
    assert shipped["int8"][1].size.bytes < shipped["baseline"][1].size.bytes


def run_card(folder: Path) -> str:
    code = (folder / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    return subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True).stdout.decode()


@pytest.mark.parametrize("name", ["baseline", "int8"])
def test_the_cards_code_goes_on_with_a_text_in_onnx_runtime(name: str, shipped: Shipped, network: PreTrainedModel) -> None:
    said = run_card(shipped[name][0])
    ids = torch.tensor([tokenizer(bos=True)("Once upon a time")["input_ids"]])
    with torch.inference_mode(), simulated(network, DONE[name]):
        wanted = network.generate(ids, max_new_tokens=32, do_sample=False)[0].tolist()
    assert said == tokenizer(bos=True).decode(wanted, skip_special_tokens=True) + "\n"


@pytest.mark.parametrize("place", [0, 4])
def test_the_cards_code_stops_at_every_end(place: int, shipped: Shipped, network: PreTrainedModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped["baseline"][0], tmp_path / "copy"))
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 3
    twin, ids = copy.deepcopy(network), torch.tensor([tokenizer(bos=True)("Once upon a time")["input_ids"]])
    with torch.inference_mode():
        free = twin.generate(ids, max_new_tokens=32, do_sample=False)[0].tolist()
        end = free[ids.shape[1] + place]
        twin.generation_config.eos_token_id = [3, end]  # as instruct models have it; config.json knows the first alone
        wanted = twin.generate(ids, max_new_tokens=32, do_sample=False)[0].tolist()
    assert ids.shape[1] < len(wanted) <= ids.shape[1] + place + 1 < len(free)
    write_config(twin, folder, (), 64, "onnx")
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 3
    assert run_card(folder) == tokenizer(bos=True).decode(wanted[:-1], skip_special_tokens=True) + "\n"


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_tied_checkpoint_of_integers_generates_by_stock_code(name: str, network: PreTrainedModel, tmp_path: Path) -> None:
    prompt = torch.tensor([[4, 5, 6, 7]])
    with simulated(network, DONE[name]):
        write_transformers(network, tmp_path, int8=True)
        wanted = network(prompt).logits[0].detach().numpy()
    plain = network(prompt).logits[0].detach().numpy()
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True).eval()
    assert opened.get_output_embeddings().weight is not opened.get_input_embeddings().weight
    assert opened.generate(prompt, min_new_tokens=8, max_new_tokens=8, do_sample=False).shape == (1, 12)
    with torch.inference_mode():
        # Of dynamic-int8 torchao rounds to integers of its own, of weights alone it holds ours.
        noise = exporter_of("transformers").rounding_noise if name == "int8" else 0.0
        compare(wanted, opened(prompt).logits[0].numpy(), limit(wanted, plain, noise=noise))


def test_a_checkpoint_of_16_bits_is_the_model_without_its_integers(network: PreTrainedModel, tmp_path: Path) -> None:
    tokenizer(bos=True).save_pretrained(tmp_path)
    with simulated(network, Simulation()):
        write_transformers(network, tmp_path, int8=False, half=True)
        found = verify(network, tmp_path, kind="transformers", half=torch.bfloat16, **ASKED)
        assert 0 < found.difference < found.allowed.rms
        with pytest.raises(ExportMismatch):  # held against float32 it is another model
            verify(network, tmp_path, kind="transformers", **ASKED)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    assert {parameter.dtype for parameter in opened.parameters()} == {torch.bfloat16}
    for name, parameter in network.named_parameters():
        assert torch.equal(opened.get_parameter(name), parameter.to(torch.bfloat16))
    assert opened.lm_head.weight is opened.model.embed_tokens.weight


class Forgetful(Wrapped):
    """A real session that loses the oldest token of its cache."""

    def step(self, ids: Ids, cache: Any = None, mask: Ids | None = None) -> tuple[Logits, Any]:
        if cache is not None:
            cache.mask[:, 0] = 0
        return super().step(ids, cache, mask)


def test_a_cache_that_forgets_is_found_out(shipped: Shipped, network: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = shipped["baseline"]
    assert verify(network, folder, kind="onnx", **ASKED).difference < 1e-4
    forgetful = Forgetful(open_artifact("onnx", folder, threads=1))
    monkeypatch.setattr("compression.export.parity_check.open_artifact", lambda *_, **__: forgetful)
    with pytest.raises(ExportMismatch, match="logits differ"):
        verify(network, folder, kind="onnx", **ASKED)


class Sure(Wrapped):
    """A real session that is all but certain of one token, whatever comes."""

    def logits(self, batch: Batch) -> Logits:
        found = super().logits(batch)
        found[..., 0] = 1e4
        return found


@pytest.mark.parametrize("lost", [True, False])
def test_an_error_that_nobody_knows_is_not_told_as_none(lost: bool, shipped: Shipped, tmp_path: Path) -> None:
    folder, rows = shipped["baseline"][0], tmp_path / "test.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in (MANY if lost else MANY[:1])))
    runner = open_artifact("onnx", folder, threads=1)
    runner = Sure(runner) if lost else runner
    scorer = LanguageScorer(length=64, stride=32)
    score = scorer.open_split(runner, scorer.reader(folder), read_rows(rows)).answer(lambda _: None).score
    assert "perplexity" not in score.standard_errors
    assert (score.standard_error, score.worth_error) == (score.value, 1)
    assert (score.value == pytest.approx(1e300)) == lost


def test_a_shape_is_timed_without_being_shipped(shipped: Shipped, network: PreTrainedModel, tmp_path: Path) -> None:
    baseline, _ = shipped["baseline"]
    asked = {"kind": "onnx", "stage": "pruned", "precision": "int8", "preprocessor": baseline, "baseline": baseline}
    found = measure_latency(network, ArtifactRequest(**asked, max_length=16), settings(tmp_path, tmp_path / "test.jsonl", []))
    assert found.generation is not None
    assert found.median_ms != found.baseline_median_ms
    assert not [*tmp_path.iterdir()]


def test_a_prompt_leaves_room_for_what_is_generated() -> None:
    assert generation_latency.prompt_of(128, {"max_position_embeddings": 8192}) == 128
    assert generation_latency.prompt_of(128, {"n_positions": 64}) == 64 - generation_latency.TOKENS


def test_a_model_with_positions_for_no_more_than_is_generated_is_timed_and_scored(tmp_path: Path) -> None:
    """GPT-2 looks its positions up in a table: one token more than there is room for would end the process that measures."""
    network = model("gpt2", n_positions=generation_latency.TOKENS + 4, pad_token_id=3)
    tokenizer(bos=True).save_pretrained(tmp_path / "tokenizer")
    evaluate = Evaluate(length=generation_latency.TOKENS + 4, window=generation_latency.TOKENS + 4)
    found = shipments.shipped(network, tmp_path, [{"text": text} for text in TEXTS], evaluate=evaluate)
    assert isinstance(found.score, Score), found.score
    assert found.latency.length == 4
    assert isinstance(found.peak_memory_bytes, int)


def test_both_sides_go_on_with_their_own_tokens_by_turns(shipped: Shipped) -> None:
    asked: list[tuple[str, list[int]]] = []

    class Noted(Wrapped):
        def step(self, ids: Ids, cache: Any = None, mask: Ids | None = None) -> tuple[Logits, Any]:
            asked.append((self.name, ids[0].tolist()))
            return super().step(ids, cache, mask)

    sides = [Noted(open_artifact("onnx", shipped[name][0], threads=1)) for name in ("int8", "baseline")]
    sides[0].name, sides[1].name = "int8", "baseline"
    generation_latency.time_both(*sides, np.array([[3, 4, 5, 6]], np.int64), threads=1, seconds=0.01)
    last = asked[-2 * (generation_latency.TOKENS + 1) :]
    assert [ids for _, ids in last[:2]] == [[3, 4, 5, 6]] * 2
    assert all({last[at][0], last[at + 1][0]} == {"int8", "baseline"} for at in range(0, len(last), 2))
    assert last[0][0] != last[2][0]
    assert all(len(ids) == 1 for _, ids in last[2:])
