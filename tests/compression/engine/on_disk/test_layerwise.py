"""Layer by layer a decoder gets the scores, and becomes the cut, of a whole one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from compression.engine.on_disk.layerwise import LayerwiseRunner
from compression.modalities.text.batches import Batch
from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.models.adapters.registry import decoder_of
from compression.pruning.scores import ImportanceScores, score_activations
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization
from compression.schema.schemes import Scheme
from compression.system.progress import Returning
from tests.support.decoder_models import saved, tiny

KINDS = ["llama", "qwen2", "gpt2", "deepseek_v2", "deepseek_v3"]


def batches() -> list[Batch]:
    torch.manual_seed(3)
    mask = torch.ones(4, 12, dtype=torch.int64)
    mask[0, 9:] = mask[3, 5:] = 0
    nothing = torch.zeros(4, dtype=torch.int64)
    masks = (mask, torch.ones_like(mask))
    alone = [Batch(torch.randint(3, 90, (4, 12)), some, nothing, torch.arange(4)) for some in masks]
    ids = torch.randint(3, 90, (2, 12))
    places = torch.cat([torch.arange(5), torch.arange(7)]).expand(2, -1)  # two documents in a row, which do not see each other
    return [*alone, PackedBatch(ids=ids, mask=torch.ones_like(ids), positions=places, labels=ids, rows=torch.arange(2))]


def heard(layers: LayerwiseRunner, times: int = 1) -> ImportanceScores:
    cache_file = layers.folder.parent / "states"
    for _ in (steps := Returning(layers.scores(times * batches(), cache_file))):
        # A layer of these has some thousand parameters, as many as the states of three batches have numbers.
        assert cache_file.exists() == (times > 1)
        # Between two layers no weights are in memory but those that all layers share.
        held = {name for name, weight in layers.model.named_parameters() if not weight.is_meta}
        assert all(".layers." not in name and ".h." not in name for name in held)
        assert all(weight.ndim == 1 or "wpe" in name for name, weight in layers.model.named_parameters() if name in held)
    assert not cache_file.exists()
    return steps.result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_whole_model(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    saved(tiny(kind).to(dtype), tmp_path / "model")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert whole.dtype == dtype
    expected, found = score_activations(whole, batches()).tensors(), heard(LayerwiseRunner(tmp_path / "model")).tensors()
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        assert torch.allclose(found[name], scores, rtol=1e-4 if dtype == torch.float32 else 0.02, atol=1e-4), name
    if kind == "llama":  # so many rows that their states are on disk between two layers
        more, many = score_activations(whole, 8 * batches()).tensors(), heard(LayerwiseRunner(tmp_path / "model"), 8).tensors()
        for name, scores in more.items():
            assert torch.allclose(many[name], scores, rtol=1e-4 if dtype == torch.float32 else 0.02, atol=1e-3), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_is_that_of_the_whole_model(kind: str, tmp_path: Path) -> None:
    saved(tiny(kind, num_hidden_layers=3).to(torch.bfloat16), tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    family, layers = decoder_of(whole), LayerwiseRunner(tmp_path / "whole")
    shape = family.shape_of(whole.config)
    halves = {"hidden": 16, "layers": 2, "groups": (shape.groups or 0) // 2, "heads": shape.heads // 2, "ffn": 24}
    to = shape.model_copy(update=halves)
    if shape.experts is not None:
        to = to.model_copy(update={"experts": shape.experts.model_copy(update={"ffn": 8, "shared": 16})})
    kept = heard(layers).choose(family, to)
    expected = family.narrowed(whole, kept)
    for _ in layers.cut(kept, tmp_path / "cut", largest=10_000):
        pass
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 1
    opened: PreTrainedModel = getattr(transformers, type(whole).__name__).from_pretrained(tmp_path / "cut").eval()
    assert opened.dtype == torch.bfloat16
    before, after = expected.state_dict(), opened.state_dict()
    assert before.keys() == after.keys()
    assert all(after[name].equal(weight) for name, weight in before.items())
    ids = torch.arange(3, 19)[None]
    with torch.inference_mode():
        assert opened(ids).logits.equal(expected.eval()(ids).logits)


@pytest.mark.parametrize("scheme", [None, "dynamic-int8", "weight-only-int4"])
@pytest.mark.parametrize("kind", ["llama", "qwen2-tied", "gpt2", "deepseek_v3"])
def test_answers_are_the_whole_model_s_in_float32_and_in_integers(kind: str, scheme: Scheme | None, tmp_path: Path) -> None:
    model = tiny(kind.removesuffix("-tied"), tie_word_embeddings=kind.endswith("-tied") or kind == "gpt2").to(torch.bfloat16)
    saved(model, tmp_path / "model")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    layers = LayerwiseRunner(tmp_path / "model", torch.float32)
    plain = whole(**batches()[0].inputs).logits
    if scheme is not None:
        for one in (whole, layers.model):
            insert_fake_quantization(one, simulation=Simulation(scheme=scheme, group_size=16))
    asked = batches()[:2]
    found = layers.logits(asked, tmp_path / "states")
    for batch, logits in zip(asked, found, strict=True):
        wanted = whole(**batch.inputs).logits[batch.mask.bool()].detach()
        assert logits == pytest.approx(wanted, abs=1e-5 * float(wanted.abs().max()))
    real = asked[0].mask.bool()
    assert (scheme is None) == bool((found[0] - plain[real]).abs().max() < 1e-4 * plain.abs().max())
    assert all(weight.is_meta for weight in layers.model.parameters())


@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "deepseek_v2"])
def test_a_classifier_s_answers_are_those_of_each_row_s_last_token(kind: str, tmp_path: Path) -> None:
    saved(tiny(kind, "ForSequenceClassification", pad_token_id=0, num_labels=3), tmp_path / "model")
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    asked = [replace(batch, ids=batch.ids * batch.mask) for batch in batches()[:2]]
    assert any(not batch.mask.all() for batch in asked)
    found = LayerwiseRunner(tmp_path / "model", torch.float32).logits(asked, tmp_path / "states")
    with torch.inference_mode():
        for batch, logits in zip(asked, found, strict=True):
            assert logits == pytest.approx(whole(**batch.inputs).logits, abs=1e-5)
