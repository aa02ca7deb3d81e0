"""Every family made narrower, shallower and poorer in words: what can be exact is exact, and the result is a stock model."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, PreTrainedModel

from compression.distillation.teacher import FeatureRequest, request_features
from compression.modalities.registry import task_of
from compression.modalities.text.batches import TokenizedDataset
from compression.models.adapters.cutting import unit_indices
from compression.models.adapters.registry import ADAPTERS, DECODER_ADAPTERS, adapter_of, encoder_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.families import ARCHITECTURE_SPECS, INSTALLED, NETWORK
from compression.models.architectures.shapes import parameters_at, planned_shape
from compression.pruning.scores import ImportanceScores, score_units
from compression.schema.recipe.base import Axis
from compression.schema.recipe.prune import Prune
from compression.training.gradient_checkpointing import layers_of
from tests.support import decoder_models
from tests.support.decoder_models import reopened
from tests.support.encoder_models import FFN, HEADS, HIDDEN, PADDING, POSITIONS, STEMS, WORDS, tiny
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.stage_runs import counter

KINDS = list(STEMS)
IDS = torch.randint(5, len(WORDS), (4, 11), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 6:] = 0
PADDED = IDS * MASK + PADDING * (1 - MASK)
ROWS = TokenizedDataset(IDS.tolist(), torch.tensor([0, 1, 0, 1]), PADDING, task_of("text-classification"))
AXES: tuple[Axis, ...] = ("hidden", "heads", "ffn", "layers")
HALF_HEADS, SOME_UNITS, SOME_CHANNELS = torch.tensor([0, 3]), torch.arange(0, FFN - 1, 3), torch.arange(1, HIDDEN, 2)


def test_layers_are_computed_again_in_just_the_families_whose_layers_can_be() -> None:
    for kind, spec in ARCHITECTURE_SPECS.items():
        if kind in INSTALLED:
            continue
        if spec.network:
            model: nn.Module = drawn_network(resnet((1, 1)))
        else:
            model = decoder_models.tiny(kind) if spec.decodes else tiny(kind)
        assert spec.recomputes == bool(layers_of(model)), kind


def answers(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=PADDED, attention_mask=MASK)[0]


def narrow_choice(model: PreTrainedModel) -> PruningPlan:
    kept = {"hidden": SOME_CHANNELS, "pooled": torch.arange(16), "heads": HALF_HEADS, "ffn": SOME_UNITS}
    # Three of ELECTRA's heads: two would make the stream as wide as its narrow tables.
    if adapter_of(model).shape_of(model.config).embedding is not None:
        kept |= {"hidden": torch.arange(3, 27), "pooled": torch.arange(24), "heads": torch.tensor([0, 2, 3])}
    elif not adapter_of(model).shared_axes:  # other heads and units in each layer
        kept |= {"heads.0": torch.tensor([1, 2]), "ffn.0": SOME_UNITS + 1}
    return PruningPlan(kept)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_removing_feed_forward_units_equals_masking_them(kind: str) -> None:
    model = tiny(kind)
    family = encoder_of(model)
    small = family.narrowed(model, PruningPlan({"ffn": SOME_UNITS}))
    assert answers(family.narrowed(model, PruningPlan())).equal(answers(model))
    gone = torch.ones(FFN, dtype=torch.bool)
    gone[SOME_UNITS] = False
    for layer in family.layers(model):
        layer.down.weight[:, gone] = 0
    assert family.shape_of(small.config).ffn == len(SOME_UNITS)
    assert torch.allclose(answers(small), answers(model), atol=1e-5)


Attend = Callable[[PreTrainedModel, nn.Module, Tensor], Tensor]
ATTEND: dict[str, Attend] = {
    "distilbert": lambda model, block, stream: block.attention(stream)[0],
    "mpnet": lambda model, block, stream: block.attention.attn(
        stream, position_bias=model.mpnet.encoder.compute_position_bias(stream)
    )[0],
}


def attend(kind: str, model: PreTrainedModel, stream: Tensor) -> Tensor:
    block = encoder_of(model).layers(model)[0].whole
    if kind in ATTEND:
        return ATTEND[kind](model, block, stream)
    return block.attention.output.dense(block.attention.self(stream)[0])


def narrower_heads(model: PreTrainedModel) -> PruningPlan:
    """Three heads of six channels each, others of queries and keys than of values, and others in each head."""
    heads, draw = torch.tensor([0, 2, 3]), torch.Generator().manual_seed(1)

    def some() -> torch.Tensor:
        return torch.stack([torch.randperm(HIDDEN // HEADS, generator=draw)[:6].sort().values for _ in heads])

    channels = {key: some() for number in range(2) for key in (f"compared.{number}", f"values.{number}")}
    kept = {"hidden": torch.arange(7, 25), "pooled": torch.arange(18), "heads": heads, "ffn": SOME_UNITS}
    return PruningPlan({**kept, **channels})


@pytest.mark.parametrize("choice", [narrow_choice, narrower_heads])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_removing_heads_or_their_channels_equals_masking(kind: str, choice: Callable[[PreTrainedModel], PruningPlan]) -> None:
    model = tiny(kind)
    family, kept = encoder_of(model), choice(model)
    small = family.narrowed(model, kept)
    stream, hidden, heads = torch.zeros(2, 7, HIDDEN), kept.kept["hidden"], kept.of("heads", 0)
    stream[..., hidden] = torch.randn(2, 7, len(hidden))
    gone = torch.ones(HIDDEN, dtype=torch.bool)
    compared, said = kept.of("compared", 0), kept.of("values", 0)
    gone[unit_indices(heads, HIDDEN // HEADS, said)] = False
    first = family.layers(model)[0]
    first.attended.weight[:, gone] = 0
    if compared is not None:
        stay = unit_indices(heads, HIDDEN // HEADS, compared)
        for whole in (first.query, first.key):
            rows = torch.zeros(HIDDEN, 1).index_fill(0, stay, 1.0)
            whole.weight *= rows
            whole.bias *= rows[:, 0]
    assert torch.allclose(attend(kind, small, stream[..., hidden]), attend(kind, model, stream)[..., hidden], atol=1e-5)


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"])
@pytest.mark.parametrize("kind", KINDS)
def test_stock_from_pretrained_opens_what_was_cut(kind: str, head: str, tmp_path: Path) -> None:
    model = tiny(kind, head, num_hidden_layers=3)
    family, kept = adapter_of(model), narrow_choice(model)
    kept = replace(kept, layers=(0, 2))
    small = family.narrowed(model, kept)
    shape = family.shape_of(small.config)
    assert (shape.hidden, shape.ffn, shape.layers) == (len(kept.kept["hidden"]), len(SOME_UNITS), 2)
    opened = reopened(small, tmp_path)
    assert answers(opened).equal(answers(small))
    assert head == "Model" or not torch.allclose(answers(small), answers(model), atol=1e-3)  # a bare one gives the stream
    # Layers first and widths then is the same as both at once; a model of the shape that is drawn anew has it too.
    assert answers(family.narrowed(family.narrowed(model, PruningPlan(layers=(0, 2))), replace(kept, layers=None))).equal(
        answers(small)
    )
    assert answers(family.narrowed(small, PruningPlan())).equal(answers(small))
    fewer = family.with_vocabulary(small, list(range(len(WORDS) - 7)))
    drawn = family.drawn(model, shape)
    assert family.shape_of(drawn.config) == shape
    dense, outputs = family.head(model).dense is not None, None if head == "Model" else 2
    rows = POSITIONS + getattr(model.config, "type_vocab_size", 0)
    for each in (model, opened, fewer, drawn):
        now = family.shape_of(each.config)
        foretold = parameters_at(ARCHITECTURE_SPECS[model.config.model_type], now, rows=rows, outputs=outputs, dense=dense)
        assert family.parameters_of(each) == foretold
        assert counter(model)(now) == foretold.total


@pytest.mark.parametrize("kind", KINDS)
def test_a_shallower_model_computes_the_layers_that_stayed(kind: str, tmp_path: Path) -> None:
    deep = tiny(kind, num_hidden_layers=4)
    family = adapter_of(deep)
    with pytest.raises(ValueError, match="layers"):
        family.narrowed(deep, PruningPlan(layers=(4,)))
    small = family.narrowed(deep, PruningPlan(layers=(0, 3)))
    assert family.shape_of(small.config).layers == 2
    blocks = deep.base_model.get_submodule(family.block)
    for number in (2, 1):
        del blocks[number]
    assert answers(small).equal(answers(deep))
    assert answers(reopened(small, tmp_path)).equal(answers(small))


@pytest.mark.parametrize("kind", KINDS)
def test_a_smaller_vocabulary_answers_the_same_for_the_tokens_it_knows(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    family = adapter_of(model)
    kept = [0, 1, 2, 3, 4, *sorted(set(IDS.flatten().tolist()) - {0, 1, 2, 3, 4})]
    assert len(kept) < len(WORDS)
    model.config.eos_token_id, model.config.bos_token_id = kept[-1], min(set(range(len(WORDS))) - set(kept))
    small = family.with_vocabulary(model, kept)
    assert (small.config.eos_token_id, small.config.bos_token_id) == (len(kept) - 1, None)
    for wrong in ([0, 2, 3], [0, 1, 1], [0, len(WORDS)]):
        with pytest.raises(ValueError, match="token"):
            family.with_vocabulary(model, wrong)
    assert counter(model)(family.shape_of(small.config)) == family.parameters_of(small).total
    new = torch.tensor([[kept.index(token) for token in row] for row in PADDED.tolist()])
    opened = reopened(small, tmp_path)
    with torch.inference_mode():
        assert opened(input_ids=new, attention_mask=MASK).logits.equal(answers(model))
    if family.fixed_tokens(model.config):
        with pytest.raises(ValueError, match="positions are counted"):
            family.with_vocabulary(model, [1, 0, *kept[2:]])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_text_may_have_as_many_tokens_as_the_family_says(kind: str) -> None:
    model = tiny(kind)
    longest = adapter_of(model).max_positions(model.config)
    assert longest == POSITIONS - (2 if kind in {"roberta", "xlm-roberta", "mpnet"} else 0)
    assert model(input_ids=torch.full((1, longest), 7)).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 7))


@pytest.mark.parametrize("importance", ["l1", "l1_weight", "l2", "taylor"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_importance_chooses_can_be_built(kind: str, importance: str) -> None:
    model = tiny(kind, num_hidden_layers=3)
    family = adapter_of(model)
    settings = Prune(ratio=0.5, axes=AXES, multiple=8, importance=importance, calibration_rows=8)
    shape = planned_shape(ARCHITECTURE_SPECS[model.config.model_type], family.shape_of(model.config), settings)
    loud = 17  # a channel that is far stronger than the others, wherever the stream starts
    with torch.no_grad():
        for member in family.groups(model)["hidden"].members:
            if not member.tensor.endswith("bias"):
                model.get_parameter(member.tensor).select(member.dim, loud).mul_(20)
    scores = score_units(model, settings, ROWS, seed=0, layers=True)
    kept = scores.choose(family, shape)
    small = family.narrowed(model, kept)
    assert family.shape_of(small.config) == shape
    assert shape.layers == len(kept.layers or ()) == 2
    assert loud in kept.kept["hidden"].tolist() or importance == "taylor"  # loud is not what matters to the loss
    # What is left after a cut is chosen from without asking the model again; a save brings the scores back as they were.
    to = shape.model_copy(update={"ffn": 8, "layers": 1})
    last = ImportanceScores.of_tensors(scores.tensors()).after(kept).choose(family, to)
    assert family.shape_of(family.narrowed(small, last).config) == to
    assert answers(small).isfinite().all()
    if kind == "electra":
        assert (shape.hidden, shape.heads, shape.embedding) == (24, 3, 16)


@pytest.mark.parametrize("importance", ["l1", "l1_weight", "l2", "taylor"])
@pytest.mark.parametrize("kind", KINDS)
def test_where_hidden_goes_alone_each_head_keeps_its_own_best_channels(kind: str, importance: str, tmp_path: Path) -> None:
    model = tiny(kind)
    family = encoder_of(model)
    settings = Prune.model_validate({"ratio": 0.25, "axes": ("hidden",), "importance": importance, "calibration_rows": 8})
    shape = planned_shape(ARCHITECTURE_SPECS[model.config.model_type], family.shape_of(model.config), settings)
    assert (shape.hidden, shape.heads, shape.ffn) == (24, HEADS, FFN)
    first = family.layers(model)[0]
    with torch.no_grad():
        for part, mute in ((first.query, 9), (first.key, 18), (first.value, 29)):  # channels 1, 2 and 5 of heads 1, 2 and 3
            part.weight[mute], part.bias[mute] = 0, 0
        first.attended.weight[:, 29] = 0
    scores = score_units(model, settings, ROWS, seed=0)
    kept = scores.choose(family, shape)
    assert kept.kept[f"heads{'' if kind == 'mpnet' else '.0'}"].tolist() == list(range(HEADS))
    compared, said = kept.kept["compared.0"], kept.kept["values.0"]
    assert 5 not in said[3].tolist()
    assert 1 not in compared[1].tolist()
    assert 2 not in compared[2].tolist()
    small = family.narrowed(model, kept)
    assert answers(reopened(small, tmp_path)).equal(answers(small))
    # A second cut goes on from what is left, by the scores of the first, and fewer heads beside narrower ones can be built too.
    to = shape.model_copy(update={"hidden": 15, "heads": 3})
    left = ImportanceScores.of_tensors(scores.tensors()).after(kept)
    assert left.units["values.0"].shape == left.units["compared.0"].shape == (HEADS, 6)
    assert left.units["compared.0"].equal(scores.units["compared.0"].gather(1, compared))
    again = left.choose(family, to)
    assert family.shape_of(family.narrowed(small, again).config) == to
    assert again.kept["compared.0"].shape == (3, 5)


def test_what_no_config_can_say_is_refused() -> None:
    electra, mpnet = tiny("electra"), tiny("mpnet")
    half = {"hidden": torch.arange(16), "pooled": torch.arange(16)}
    with pytest.raises(ValueError, match="projection"):
        adapter_of(electra).narrowed(electra, PruningPlan({**half, "heads": HALF_HEADS}))
    # Layers that share a bias by distance keep the same heads, and a plan that says so of each alone leaves the bias as it is.
    uneven = PruningPlan({**half, "heads.0": HALF_HEADS, "heads.1": torch.tensor([1, 2])})
    with pytest.raises(ValueError, match="relative_attention_bias"):
        adapter_of(mpnet).narrowed(mpnet, uneven)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_of_any_family_says_what_distillation_compares_and_modules_are_as_deep_as_they_lie(kind: str) -> None:
    model = tiny(kind)
    tokens = [row[: 5 + n] for n, row in enumerate(IDS.tolist())]
    rows = TokenizedDataset(tokens, torch.zeros(4).long(), PADDING, task_of("text-classification"))
    with torch.no_grad():
        said = request_features(model, rows.batch([0, 1, 2, 3]), rows.task, FeatureRequest(states=(0, 1, 2), relations=2))
    assert (said.hidden.shape, said.relations.shape) == ((3, 5 + 6 + 7 + 8, HIDDEN), (3, 4, 8, HIDDEN))
    family, encoder = adapter_of(model), model.base_model_prefix
    depths = {name: family.quantization_group(name) for name, module in model.named_modules() if hasattr(module, "weight")}
    assert {depth for name, depth in depths.items() if ".layer." in name} == {1, 2}
    before = {name for name, depth in depths.items() if depth == 0}
    assert {f"{encoder}.embeddings.word_embeddings", f"{encoder}.embeddings.position_embeddings"} <= before
    assert all(name.startswith(encoder) for name in before)
    after = {name for name, depth in depths.items() if depth > 2}
    assert after == {name for name, module in model.named_modules() if module in vars(family.head(model)).values()}


def test_the_model_that_was_cut_is_left_alone() -> None:
    model = tiny("electra")
    before, config = copy.deepcopy(model.state_dict()), copy.deepcopy(model.config)
    small = adapter_of(model).narrowed(model, narrow_choice(model))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert model.config.to_dict() == config.to_dict()


def test_every_family_of_the_catalog_can_be_taken_apart_and_opened() -> None:
    networks = {kind for kind, family in ARCHITECTURE_SPECS.items() if family.network}
    assert set(ADAPTERS) == ARCHITECTURE_SPECS.keys() - networks | {NETWORK.model_type}  # stock networks are opened as networks
    assert {kind for kind, family in ARCHITECTURE_SPECS.items() if family.decodes} == set(DECODER_ADAPTERS)
    for kind in ARCHITECTURE_SPECS.keys() - {NETWORK.model_type}:
        assert all(hasattr(transformers, architecture) for architecture in ARCHITECTURE_SPECS[kind].architectures)
        auto = AutoModelForImageClassification if kind in networks else AutoModelForSequenceClassification
        assert transformers.CONFIG_MAPPING[kind] in auto._model_mapping
