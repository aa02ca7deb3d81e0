"""Classifiers made of decoders as ONNX files and as checkpoints: they answer as the engine does, alone and beside others."""

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from bench.language.windows import document_losses
from compression.evaluation.runtimes.transformers import TransformersDecoder
from compression.export.exporter import exporter_of
from compression.export.onnx.exporter import FILE, plain_model
from compression.export.onnx.flatten_sequence import flatten_sequence
from compression.export.onnx.quantize_graph import to_int8
from compression.export.onnx.trace import graph
from compression.export.onnx.unfused_experts import unfuse_experts
from compression.export.parity_check import Agreement, compare, limit, verify
from compression.export.transformers.exporter import write_transformers
from compression.modalities.registry import scorer_of
from compression.modalities.scoring.base import Floats as Logits, Row
from compression.modalities.text.causal_lm.documents import read
from compression.modalities.text.inputs import Batch
from compression.models.linear_layers import is_linear, is_transposed
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, left_in_float, quantizable
from compression.quantization.moe_layers import fused_expert_modules
from compression.schema.errors import ExportMismatch
from compression.schema.recipe.recipe import Evaluate
from compression.schema.schemes import Scheme
from tests.compression.export.onnx.test_one_pass import alone, answers, opened, padded
from tests.support import decoder_models as decoders
from tests.support.decoder_families import IDS, tiny_classifier
from tests.support.shipments import Wrapped


def written_tokenizer(folder: Path) -> Path:
    """Write the tokenizer of a language model in which each token is a word of its own."""
    words = [decoders.END, decoders.UNKNOWN, *(f"w{number}" for number in range(2, decoders.VOCABULARY))]
    return decoders.write_tokenizer(folder, words)


def rows_of(ids: torch.Tensor) -> list[Row]:
    return [{"text": " ".join(f"w{word}" for word in row)} for row in ids.tolist()]


@pytest.mark.parametrize("kind", ["gpt2", "deepseek_v2-grouped"])
def test_a_file_answers_as_the_engine_whoever_shares_the_batch(kind: str, tmp_path: Path) -> None:
    # Tracing takes as long as the graph is large. Two layers are one of experts, which GPT-2 lacks.
    model, batch = tiny_classifier(kind, num_hidden_layers=2, n_routed_experts=4), padded()
    model.config.use_cache = False
    simulated = copy.deepcopy(model)
    layers = [layer for name in insert_fake_quantization(simulated) if is_linear(layer := simulated.get_submodule(name))]
    experts = 2 * sum(len(module.down_proj) for _, module in fused_expert_modules(model))
    twin = plain_model(model)
    unfuse_experts(twin)
    traced = flatten_sequence(graph(twin))  # once: tracing takes longer than all the rest
    for whose, proto in ((model, traced), (simulated, to_int8(traced, dict(quantizable(twin))))):
        onnx.save(proto, tmp_path / FILE)
        runner = opened(tmp_path)
        found, wanted = runner.logits(batch), answers(whose, batch)
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
        for row, together in enumerate(found):
            assert alone(runner, batch, row) == pytest.approx(together, abs=1e-5)
    operators = Counter(node.op_type for node in proto.graph.node)
    assert operators["MatMulInteger"] == len(layers) + experts
    assert left_in_float(model) == (4 * 32 if kind == "deepseek_v2-grouped" else 0)  # a router


@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "deepseek_v2", "deepseek_v3"])
def test_a_checkpoint_of_integers_opens_with_stock_code_and_says_what_stayed(kind: str, tmp_path: Path) -> None:
    model, batch = tiny_classifier(kind), padded()
    write_transformers(model, tmp_path / "int8", int8=True)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "int8").eval()
    plain = answers(model, batch)
    insert_fake_quantization(model)
    wanted = answers(model, batch)
    # As a job holds it: of experts, too, torchao's rounding is not ours.
    compare(wanted, answers(stock, batch), limit(wanted, plain, noise=exporter_of("transformers").rounding_noise))
    whole = {name for name, value in stock.named_parameters() if type(value) is torch.nn.Parameter and value.ndim > 1}
    transposed = {f"{name}.weight" for name, layer in model.named_modules() if is_transposed(layer)}
    routers = {name for name, _ in model.named_parameters() if ".mlp.gate.weight" in name}
    assert whole == transposed | routers
    precision = exporter_of("transformers").precision_of("dynamic-int8", model)
    assert precision == ("mixed" if kind == "gpt2" else "int8")
    left = sum(model.get_parameter(name).numel() for name in whole)
    assert exporter_of("transformers").stored_as(model, precision) == (f"int8, {left:,} parameters float32" if left else "int8")


@pytest.mark.parametrize("scheme", ["dynamic-int8", "weight-only-int8", "weight-only-int4"])
@pytest.mark.parametrize("kind", ["deepseek_v2", "deepseek_v3"])
def test_experts_of_a_model_in_memory_are_integers_that_answer_as_simulated(kind: str, scheme: Scheme, tmp_path: Path) -> None:
    model = decoders.tiny(kind, moe_intermediate_size=48, n_routed_experts=16)
    folder = written_tokenizer(tmp_path)
    plain = write_transformers(model, folder, int8=False).stat().st_size
    simulation = Simulation(scheme=scheme, group_size=32 if scheme == "weight-only-int4" else None)
    insert_fake_quantization(model, simulation=simulation)
    before = copy.deepcopy(model)
    assert write_transformers(model, folder, int8=True).stat().st_size < 0.5 * plain
    assert json.loads((folder / "config.json").read_text())["experts_implementation"] == "eager"
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), before.parameters(), strict=True))
    sample, scorer = rows_of(IDS), scorer_of("causal-lm", Evaluate(window=16), ())
    found = verify(model, folder, kind="transformers", int8=True, sample=sample, scorer=scorer, pad_id=0)
    assert found.difference <= found.allowed.rms
    stock = AutoModelForCausalLM.from_pretrained(folder).eval()
    experts = stock.model.layers[1].mlp.experts
    assert type(experts.gate_up_proj).__name__ == type(experts.down_proj).__name__ == "Int8Tensor"
    texts = read([row["text"] for row in sample], AutoTokenizer.from_pretrained(folder))
    told, same = (document_losses(one, texts, length=16, stride=8).loss for one in (stock, model))
    assert told == pytest.approx(same, rel=0.05)
    with torch.no_grad():  # as above
        wanted, said = model(IDS).logits, stock(IDS).logits
    if scheme == "dynamic-int8":  # torchao's rounding is not ours
        assert torch.cosine_similarity(said.flatten(), wanted.flatten(), dim=0) > 0.97
    else:
        assert (said - wanted).abs().max() < 1e-5 * wanted.abs().max()


class Bent(Wrapped):
    """A checkpoint that answers the first token that it is ever asked otherwise, by as much as is told."""

    by = 0.0

    def logits(self, batch: Batch) -> Logits:
        found = super().logits(batch)
        found[0, 0] += self.by
        self.by = 0.0
        return found


def bend(monkeypatch: pytest.MonkeyPatch, folder: Path, by: float) -> None:
    bent = Bent(TransformersDecoder(folder, threads=1))
    bent.by = by
    monkeypatch.setattr("compression.export.parity_check.open_artifact", lambda *_, **__: bent)


@pytest.mark.parametrize("form", ["float32", "weight-only-int8", "bfloat16", "dynamic-int8"])
def test_other_experts_are_excused_only_of_rounded_numbers(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = decoders.tiny("deepseek_v3"), written_tokenizer(tmp_path)
    int8, half = form.endswith("int8"), torch.bfloat16 if form == "bfloat16" else None
    if int8:
        insert_fake_quantization(model, simulation=Simulation(scheme=form))
    write_transformers(model, folder, int8=int8, half=half is not None)
    sample, scorer = rows_of(IDS.repeat(4, 1)), scorer_of("causal-lm", Evaluate(window=16), ())

    def held() -> Agreement:
        return verify(model, folder, kind="transformers", int8=int8, half=half, sample=sample, scorer=scorer, pad_id=0)

    bend(monkeypatch, folder, 1.5 * held().allowed.largest)
    if form in ("bfloat16", "dynamic-int8"):
        found = held()
        assert found.largest > found.allowed.largest
    else:
        with pytest.raises(ExportMismatch, match="logits differ"):
            held()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_token_between_experts_is_excused_and_no_other(sign: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {"n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1}
    model, folder = decoders.tiny("deepseek_v3", **alone), written_tokenizer(tmp_path)
    gate, states = model.model.layers[1].mlp.gate, list[torch.Tensor]()
    with gate.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])), torch.no_grad():
        model(IDS)
    scores = gate(states[0].view(*IDS.shape, -1)[1, 0])[0].sigmoid().flatten().detach()  # of what the second row begins with
    gate.e_score_correction_bias.copy_(torch.stack([scores[1], scores[0]]) - scores.mean())
    other = copy.deepcopy(model)
    other.model.layers[1].mlp.gate.e_score_correction_bias[0] += sign * 1e-6
    write_transformers(other, folder, int8=False)
    sample, scorer = rows_of(IDS.repeat(4, 1)), scorer_of("causal-lm", Evaluate(window=16), ())

    def held() -> Agreement:
        return verify(model, folder, kind="transformers", int8=False, sample=sample, scorer=scorer, pad_id=0)

    found = held()
    assert found.largest < found.allowed.largest
    bend(monkeypatch, folder, 1.5 * found.allowed.largest)
    with pytest.raises(ExportMismatch, match="logits differ"):
        held()
