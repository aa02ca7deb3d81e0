"""What the stages ask of a decoder's layers: insides for a teacher, folds for smoothing, equations for what a cut left."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.distillation.teacher import FeatureRequest, Teacher, request_features
from compression.modalities.registry import task_of
from compression.modalities.text.batches import TokenizedDataset
from compression.models.adapters.registry import adapter_of, decoder_of
from compression.models.adapters.structure import PruningPlan
from compression.pruning.reconstruction import reconstruct
from compression.quantization import smoothquant
from compression.quantization.fake_quantize import Simulation, insert_fake_quantization, remove_fake_quantization
from compression.quantization.moe_layers import SimulatedExperts, fused_expert_modules
from compression.schema.schemes import Scheme
from tests.support.decoder_families import EXPERTS, KINDS, PADDING, WORDS, cut_on, logits, tiny_classifier

TASK = task_of("text-classification")


def some_rows(count: int = 8, seed: int = 5) -> TokenizedDataset:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 16, (count,), generator=draw).tolist()
    tokens = [torch.randint(2, WORDS, (length,), generator=draw).tolist() for length in lengths]
    return TokenizedDataset(tokens, torch.zeros(count, dtype=torch.long), PADDING, TASK)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_values_are_read_as_the_attention_reads_them(kind: str) -> None:
    model, rows = tiny_classifier(kind), some_rows()
    shape, batch = adapter_of(model).shape_of(model.config), rows.batch(list(range(8)))
    given: list[Tensor] = []
    hook = decoder_of(model).layers(model)[-1].attended.register_forward_pre_hook(lambda _, x: given.append(x[0]))
    said = request_features(model, batch, TASK, FeatureRequest.at_all(model, relations=True)).relations
    hook.remove()
    assert said is not None
    assert said.shape == (3, *batch.ids.shape, shape.attended)
    # The first token attends to itself alone: what its heads hand on is its value, head by head.
    values = said[2, :, 0].view(8, shape.heads, -1)
    handed = given[0][:, 0].view(8, shape.heads, -1)
    assert torch.allclose(values[..., : handed.shape[-1]], handed, atol=1e-5)
    assert not values[..., handed.shape[-1] :].any()


@pytest.mark.parametrize("kind", ["qwen3", "llama-wide", "deepseek_v3"])
@torch.no_grad()
def test_what_a_teacher_keeps_is_what_it_said_whatever_its_widths(kind: str) -> None:
    model, rows = tiny_classifier(kind), some_rows()
    look = FeatureRequest.at_all(model, relations=True)
    batch = rows.batch([3, 1, 6])
    kept, said = Teacher(model, rows, look).asked().outputs(batch), request_features(model, batch, TASK, look)
    assert kept.relations is not None
    assert said.relations is not None
    assert torch.allclose(kept.hidden, said.hidden, rtol=2e-3, atol=2e-3)
    real = batch.mask.bool()
    assert torch.allclose(kept.relations[:, real], said.relations[:, real], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_smoothing_is_exact_and_reaches_what_norms_feed(kind: str) -> None:
    model, rows = tiny_classifier(kind), some_rows()
    plain, before = logits(model), {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        where = smoothquant.pairs(model)
        smoothquant.smooth(model, rows, 0.6)
    assert torch.allclose(logits(model), plain, atol=2e-5 * plain.abs().max().item())
    readers = {reader for pair in where for reader in pair.readers}
    assert "score" in readers
    # Queries, keys and values, feed-forward units and what is squeezed: all but outputs of attention, and GPT-2's second half.
    assert len(where) == {"gpt2": 7, "deepseek_v2": 11, "deepseek_v2-grouped": 14, "deepseek_v3": 14}.get(kind, 10)
    for reader in readers:
        assert not model.state_dict()[f"{reader}.weight"].equal(before[f"{reader}.weight"])


def stream(model: PreTrainedModel, rows: TokenizedDataset) -> Tensor:
    with torch.inference_mode():
        found = [model.base_model(**batch.inputs)[0][batch.mask.bool()] for batch in rows.by_length(32)]
    return torch.cat(found)


def narrow(kind: str, model: PreTrainedModel, axis: str) -> PruningPlan:
    if axis == "hidden":
        return cut_on(kind, model, "hidden", "heads") if kind == "gpt2" else cut_on(kind, model, "hidden")
    return cut_on(kind, model, axis)


@pytest.mark.parametrize("axis", ["ffn", "layers", "hidden", "ranks"])
@pytest.mark.parametrize("kind", ["llama-wide", "qwen2", "gpt2", "deepseek_v3"])
def test_what_is_left_comes_nearer_to_the_whole_on_texts_it_was_not_solved_on(kind: str, axis: str) -> None:
    if axis == "ranks" and kind not in EXPERTS:
        return
    whole = tiny_classifier(kind)
    family, kept = decoder_of(whole), narrow(kind, whole, axis)
    cut, solved = family.narrowed(whole, kept), family.narrowed(whole, kept)
    head = solved.score.weight.clone()
    insert_fake_quantization(whole)
    reconstruct(solved, whole, kept, list(some_rows(192).by_length(32)))
    remove_fake_quantization(whole)
    unseen = some_rows(32, seed=6)
    wanted = stream(whole, unseen)[:, kept.kept.get("hidden", torch.arange(32))]
    before, after = ((stream(model, unseen) - wanted).square().mean() for model in (cut, solved))
    assert after < 0.8 * before
    assert solved.score.weight.equal(head)


@torch.no_grad()
def test_units_that_follow_from_others_are_not_missed() -> None:
    whole = tiny_classifier("llama")
    family = decoder_of(whole)
    for block in family.layers(whole):  # the upper half of the units says what the lower says
        for part in (block.whole.mlp.gate_proj, block.whole.mlp.up_proj):  # type: ignore[union-attr]
            part.weight[24:] = part.weight[:24]  # type: ignore[index, union-attr]
    kept = PruningPlan({"ffn": torch.arange(24)})
    cut, solved = family.narrowed(whole, kept), family.narrowed(whole, kept)
    reconstruct(solved, whole, kept, list(some_rows(192).by_length(32)))
    unseen = some_rows(32, seed=6)
    before, after = ((stream(model, unseen) - stream(whole, unseen)).square().mean() for model in (cut, solved))
    assert after < 0.02 * before


@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("scheme", ["dynamic-int8", "weight-only-int8"])
def test_fused_experts_have_the_integers_of_linear_layers_and_learn(kind: str, scheme: Scheme) -> None:
    model = tiny_classifier(kind)
    plain, keys = logits(model), list(model.state_dict())
    names = insert_fake_quantization(model, simulation=Simulation(scheme=scheme))
    assert {name for name, _ in fused_expert_modules(model)} <= set(names)
    assert list(model.state_dict()) == keys
    experts = decoder_of(model).layers(model)[1].experts
    assert isinstance(experts, SimulatedExperts)
    x, chosen, weights = torch.randn(5, 32), torch.tensor([[0, 3], [3, 1], [1, 0], [3, 0], [2, 3]]), torch.rand(5, 2)
    linear, other = (torch.nn.Linear(32, 32, bias=False), torch.nn.Linear(16, 32, bias=False))
    wanted = torch.zeros(5, 32)
    for number in range(4):
        linear.weight.data, other.weight.data = experts.gate_up_proj[number].data, experts.down_proj[number].data
        one = torch.nn.ModuleList([linear, other])
        insert_fake_quantization(one, simulation=Simulation(scheme=scheme))
        for token, place in (chosen == number).nonzero().tolist():
            gate, value = one[0](x[token : token + 1]).chunk(2, dim=-1)
            wanted[token] += one[1](experts.act_fn(gate) * value)[0] * weights[token, place]
        remove_fake_quantization(one)
    found = experts(x, chosen, weights)
    assert torch.allclose(found, wanted, atol=1e-5)
    found.square().sum().backward()  # type: ignore[no-untyped-call]
    gradient = experts.down_proj.grad
    assert gradient is not None
    assert [bool(each.any()) for each in gradient] == [True] * 4 + [False] * 4  # nobody went to the last four
    assert not torch.equal(logits(model), plain)
    remove_fake_quantization(model)
    assert torch.equal(logits(model), plain)
