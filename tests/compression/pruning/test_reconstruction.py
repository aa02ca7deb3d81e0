"""What a cut left, solved by least squares: nearer to the whole model, exact where what went follows from what stayed."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification, PreTrainedModel

from compression.modalities.registry import task_of
from compression.modalities.sampling import MOST_TOKENS, first_tokens, shuffled_rows
from compression.modalities.text.batches import TokenizedDataset
from compression.models.adapters.registry import adapter_of, encoder_of
from compression.models.adapters.structure import PruningPlan
from compression.pruning.reconstruction import LayerStack, reconstruct, solve_layer
from compression.quantization.fake_quantize import is_simulated
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from tests.support.encoder_models import PADDING, STEMS, WORDS, tiny
from tests.support.stage_runs import prepare, prune, quantize
from tests.support.tiny_bert import state_of, tiny_config

TASK = task_of("text-classification")


def some_rows(count: int = 96, seed: int = 5) -> TokenizedDataset:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 24, (count,), generator=draw).tolist()
    tokens = [torch.randint(5, len(WORDS), (length,), generator=draw).tolist() for length in lengths]
    return TokenizedDataset(tokens, torch.zeros(count, dtype=torch.long), PADDING, TASK)


def stream(model: PreTrainedModel, rows: TokenizedDataset) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model.base_model(**batch.inputs)[0][batch.mask.bool()] for batch in rows.by_length(32)])


def apart(model: PreTrainedModel, whole: PreTrainedModel, kept: PruningPlan, rows: TokenizedDataset) -> float:
    """How far the stream at its end is from the channels of the whole model's that were kept."""
    return (stream(model, rows) - stream(whole, rows)[:, kept.kept.get("hidden", torch.arange(32))]).square().mean().item()


def test_a_layer_learns_what_its_inputs_say_and_keeps_what_they_do_not() -> None:
    torch.manual_seed(0)
    linear, wanted = nn.Linear(8, 3), nn.Linear(8, 3)
    given = torch.randn(512, 8)
    given[:, 7] = 2.0  # the same for every token: nothing can be learned of it
    before = copy.deepcopy(linear)
    with torch.no_grad():
        solve_layer(linear, given, wanted(given) - linear(given), ridge=1e-6)
        assert torch.allclose(linear(given), wanted(given), atol=1e-4)
    assert torch.allclose(linear.weight[:, :7], wanted.weight[:, :7], atol=1e-4)
    assert torch.equal(linear.weight[:, 7], before.weight[:, 7])


def test_a_ridge_holds_the_change_small_and_not_the_weights() -> None:
    torch.manual_seed(0)
    linear, given = nn.Linear(8, 3), torch.randn(512, 8)
    before = copy.deepcopy(linear)
    with torch.no_grad():
        solve_layer(linear, given, torch.randn(512, 3), ridge=1e6)
    assert torch.allclose(linear.weight, before.weight, atol=1e-4)
    with torch.no_grad():
        solve_layer(linear, given, torch.zeros(512, 3))
    assert torch.allclose(linear.weight, before.weight, atol=1e-4)


def test_units_that_follow_from_others_are_not_missed() -> None:
    whole = tiny("bert")
    family, rows = encoder_of(whole), some_rows()
    with torch.no_grad():
        for layer in family.layers(whole):  # the upper half of the units says what the lower says
            layer.up.weight[32:] = layer.up.weight[:32]
            layer.up.bias[32:] = layer.up.bias[:32]
    kept = PruningPlan({"ffn": torch.arange(32)})
    cut, solved = family.narrowed(whole, kept), family.narrowed(whole, kept)
    reconstruct(solved, whole, kept, list(rows.by_length(32)))
    unseen = some_rows(seed=6)
    assert apart(solved, whole, kept, unseen) < 0.02 * apart(cut, whole, kept, unseen)


CHANNELS = {"compared": torch.arange(6), "values": torch.arange(2, 8)}


def narrow(model: PreTrainedModel, axis: str) -> PruningPlan:
    if axis == "ffn":
        return PruningPlan({"ffn": torch.arange(0, adapter_of(model).shape_of(model.config).ffn, 2)})
    if axis == "layers":
        return PruningPlan(layers=(0, 2))
    kept = {"hidden": torch.arange(4, 28), "pooled": torch.arange(24), "heads": torch.tensor([0, 2, 3])}
    if axis == "channels":
        channels = {axis: some.repeat(3, 1) for axis, some in CHANNELS.items()}
        kept |= {"hidden": torch.arange(7, 25), "pooled": torch.arange(18), **channels}
    return PruningPlan(kept)


@pytest.mark.parametrize("axis", ["ffn", "layers", "hidden", "channels"])
@pytest.mark.parametrize("kind", list(STEMS))
def test_every_family_comes_nearer_to_the_whole_on_texts_it_was_not_solved_on(kind: str, axis: str) -> None:
    whole = tiny(kind, num_hidden_layers=3)
    family, kept = adapter_of(whole), narrow(whole, axis)
    cut, solved = family.narrowed(whole, kept), family.narrowed(whole, kept)
    reconstruct(solved, whole, kept, list(some_rows(256).by_length(32)))
    unseen = some_rows(seed=6)
    assert apart(solved, whole, kept, unseen) < 0.6 * apart(cut, whole, kept, unseen)


def test_queries_of_narrower_heads_are_solved_for_the_root_that_they_are_divided_by() -> None:
    whole = tiny("bert")
    cut, said = encoder_of(whole).cut(whole, narrow(whole, "channels")), torch.randn(9, 32)
    rows = {axis: (torch.tensor([0, 16, 24])[:, None] + some).flatten() for axis, some in CHANNELS.items()}
    place = "bert.encoder.layer.0.attention.self"
    assert torch.allclose(cut.outputs(f"{place}.query", said, 0), said[:, rows["compared"]] * (6 / 8) ** 0.5)
    assert cut.outputs(f"{place}.key", said, 0).equal(said[:, rows["compared"]])
    assert cut.outputs(f"{place}.value", said, 0).equal(said[:, rows["values"]])


def test_padding_is_not_observed_and_no_other_layer_runs() -> None:
    model, rows = tiny("bert"), some_rows()
    layers = encoder_of(model).layers(model)
    stack = LayerStack(model, layers, list(rows.by_length(32)))
    ran = []
    layers[1].down.register_forward_hook(lambda *_: ran.append(1))
    with torch.no_grad():
        given, said = stack.collect(0, [(layers[0].up, "in"), (layers[0].up, "out")])
    assert given.shape == (sum(map(len, rows.tokens)), 32)
    assert said.shape == (len(given), 64)
    assert not ran
    assert not layers[0].up._forward_hooks


def test_no_more_tokens_are_taken_than_equations_need() -> None:
    many = TokenizedDataset([list(range(5, 15))] * 4000, torch.zeros(4000, dtype=torch.long), PADDING, TASK)
    assert len(first_tokens(many)) == MOST_TOKENS // 10
    assert len(first_tokens(many.at([0]))) == 1


@pytest.mark.parametrize("scheme", ["dynamic-int8", "static-int8"])
def test_a_job_says_what_the_cut_cost_and_what_was_won_back(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.engine.stages.prune.first_tokens", partial(first_tokens, most=100))
    torch.manual_seed(0)
    recipe = Recipe(
        prepare=Prepare(epochs=3, rate=3e-3),
        quantize=Quantize.model_validate({"scheme": scheme}),
        prune=Prune(ratio=0.5, multiple=8, reconstruct=True),
        distill=Distill(epochs=1),
        train=Train(batch=64, max_length=32),
    )
    state = state_of(BertForSequenceClassification(tiny_config(num_labels=2)).eval(), recipe)
    for stage in (prepare, quantize, prune):
        list(stage(state))
    assert is_simulated(state.model)
    cut, solved = state.notes[-2:]
    assert cut.startswith("The cut alone: validation accuracy")
    rows = first_tokens(shuffled_rows(state.rows["train"], 512, recipe.train.seed), most=100)
    assert 1 < len(rows) < 50
    assert solved.startswith(f"What the cut left, solved by least squares on {len(rows)} rows: ")
    assert f"→ {state.validate().score:.4f}, still without training" in solved
