"""Every decoder family cut on each axis and on all: what stock transformers reopens equals the masked whole model."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from compression.models.adapters.registry import DECODER_ADAPTERS, decoder_of
from compression.models.adapters.structure import PruningPlan
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import parameters_at
from compression.schema.errors import UnsupportedShape
from tests.support import decoder_families as families, decoder_models
from tests.support.decoder_families import IDS, KINDS, WORDS, axes_of, cut_on, error, logits, silenced, tiny

CUTS = [(kind, axes) for kind in KINDS for axes in axes_of(kind)]


def reopened(model: PreTrainedModel, folder: Path, auto: type = AutoModelForCausalLM) -> PreTrainedModel:
    return decoder_models.reopened(model, folder, auto, attn_implementation="eager")


def tolerance(kind: str, axes: tuple[str, ...]) -> float:
    # What no config says is the ε of norms over ranks, and of Qwen3 that of the stream apart from that of the heads.
    return 1e-4 if "ranks" in axes or (kind == "qwen3" and "hidden" in axes) else 1e-5


@pytest.mark.parametrize(("kind", "axes"), CUTS, ids=[f"{kind}-{'+'.join(axes)}" for kind, axes in CUTS])
def test_a_cut_equals_the_masked_model(kind: str, axes: tuple[str, ...], tmp_path: Path) -> None:
    model = tiny(kind)
    family, kept = decoder_of(model), cut_on(kind, model, *axes)
    small = family.narrowed(model, kept)
    opened = reopened(small, tmp_path)
    assert logits(opened).equal(logits(small))
    assert sum(p.numel() for p in opened.parameters()) < sum(p.numel() for p in model.parameters())
    whole = logits(model)
    with silenced(model, kept) as masked:
        wanted = logits(masked)
    assert error(whole, wanted) > 0.05  # the cut is felt
    assert error(logits(opened), wanted) < tolerance(kind, axes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_model_generates_with_its_cache_what_it_says_without(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    model.generation_config.repetition_penalty = 1.3  # the sender's own setting goes along
    opened = reopened(decoder_of(model).narrowed(model, cut_on(kind, model, *axes_of(kind)[-1])), tmp_path)
    assert opened.generation_config.repetition_penalty == 1.3
    opened.generation_config.repetition_penalty = None
    prompt = IDS[:2, :6]
    said = opened.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
    step = prompt
    for _ in range(5):
        step = torch.cat([step, logits(opened, step)[:, -1:].argmax(-1)], dim=1)
    assert said.equal(step)


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_reads_the_last_real_token_as_the_masked_model_does(kind: str, tmp_path: Path) -> None:
    model = families.tiny_classifier(kind)
    family, axes = decoder_of(model), axes_of(kind)[-1]
    kept = cut_on(kind, model, *axes)
    opened = reopened(family.narrowed(model, kept), tmp_path, AutoModelForSequenceClassification)
    head = family.head(opened)
    assert head.dense is None
    assert head.out is opened.score
    mask = torch.ones_like(IDS)
    mask[1, 7:] = 0
    padded = IDS * mask + families.PADDING * (1 - mask)
    answers = logits(opened, padded, mask)
    assert torch.allclose(answers[1], logits(opened, IDS[1:2, :7])[0], atol=1e-5)
    with silenced(model, kept) as masked:
        assert error(answers, logits(masked, padded, mask)) < tolerance(kind, axes)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_parts_are_said_as_they_are(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    family = decoder_of(model)
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    assert logits(family.narrowed(model, PruningPlan())).equal(logits(model))
    small = family.narrowed(model, cut_on(kind, model, *axes_of(kind)[-1]))
    shape = family.shape_of(small.config)
    assert (shape.layers, shape.hidden, len(family.layers(small))) == (2, 24, 2)
    assert family.shape_of(family.drawn(model, shape).config) == shape
    count = family.parameters_of(small)
    assert count.total == sum(p.numel() for p in small.parameters()) == count.embedding + count.other
    tied = model.config.tie_word_embeddings
    assert (small.get_output_embeddings().weight is small.get_input_embeddings().weight) == tied
    assert count.embedding == (WORDS + (64 if kind == "gpt2" else 0)) * 24
    assert (small.get_output_embeddings().weight.shape) == (WORDS, 24)
    depths = {name: family.quantization_group(name) for name, module in small.named_modules() if hasattr(module, "weight")}
    assert set(depths.values()) == {0, 1, 2, 10_000}
    assert sum(p.numel() for layer in family.layer_parameters(small) for p in layer) < count.other
    tied_or_not = {"outputs": 0 if tied else WORDS, "rows": 64 if kind == "gpt2" else 0}
    spec, biases = ARCHITECTURE_SPECS[small.config.model_type], family.biases(small.config)
    assert parameters_at(spec, shape, **tied_or_not, biases=biases) == count
    # The model that was cut is left alone.
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert model.config.to_dict() == config


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_tokens_have_the_logits_that_they_had(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    model.generation_config.eos_token_id = [5, WORDS - 1]
    kept = sorted({families.PADDING, 5, *IDS.flatten().tolist()} - {1})
    kept = [kept[-1], *kept[:-1]]
    opened = reopened(decoder_of(model).with_vocabulary(model, kept), tmp_path)
    new = torch.tensor([[kept.index(token) for token in row] for row in IDS.tolist()])
    assert torch.allclose(logits(opened, new), logits(model)[..., kept], atol=1e-5)
    assert (opened.config.pad_token_id, opened.config.bos_token_id) == (kept.index(families.PADDING), None)
    assert opened.generation_config.eos_token_id == [kept.index(token) for token in (5, WORDS - 1) if token in kept]
    with pytest.raises(ValueError, match="padding"):
        decoder_of(model).with_vocabulary(model, kept[:1])


def test_layers_keep_their_place_in_what_the_config_says_of_each(tmp_path: Path) -> None:
    model = tiny("qwen2")
    assert model.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]
    small = decoder_of(model).narrowed(model, PruningPlan(layers=(0, 2)))
    assert small.config.layer_types == ["full_attention", "sliding_attention"]
    assert [block.self_attn.layer_idx for block in small.model.layers] == [0, 1]
    for kind, keep, dense in (("deepseek_v3", [1, 2], 0), ("deepseek_v2", [0, 2], 1), ("deepseek_v3", [0], 1)):
        model = tiny(kind)
        small = decoder_of(model).narrowed(model, PruningPlan(layers=tuple(keep)))
        assert small.config.first_k_dense_replace == dense
        opened = reopened(small, tmp_path / f"{kind}{keep}")
        with silenced(model, PruningPlan(layers=tuple(keep))) as masked:
            assert error(logits(opened), logits(masked)) < 1e-5
    for wrong in ([], [families.LAYERS], [2, 0]):
        with pytest.raises(ValueError, match="layers"):
            decoder_of(model).narrowed(model, PruningPlan(layers=tuple(wrong)))


def test_routers_stay_in_float32_and_speak_of_the_experts_that_stay(tmp_path: Path) -> None:
    tiny("deepseek_v3").save_pretrained(tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.bfloat16, attn_implementation="eager").eval()
    kept = cut_on("deepseek_v3", model, "experts", "expert_ffn")
    small = decoder_of(model).narrowed(model, kept)
    router, whole = small.model.layers[2].mlp.gate, model.model.layers[2].mlp.gate
    assert small.dtype == torch.bfloat16
    assert router.weight.dtype == router.e_score_correction_bias.dtype == torch.float32
    assert router.e_score_correction_bias.equal(whole.e_score_correction_bias[kept.kept["experts.2"]])
    assert small.config.num_mtp_layers == 0
    small.save_pretrained(tmp_path / "small")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.bfloat16, attn_implementation="eager").eval()
    assert logits(opened).equal(logits(small))


def test_a_bare_decoder_is_cut_too() -> None:
    model = tiny("llama", AutoModel)
    kept = cut_on("llama", model, "hidden", "ffn")
    small = decoder_of(model).narrowed(model, kept)
    with torch.inference_mode(), silenced(model, kept) as masked:
        assert error(small(IDS)[0], masked(IDS)[0][..., kept.kept["hidden"]]) < 1e-5
    assert decoder_of(model).head(model).out is None


def test_what_no_config_can_say_is_refused() -> None:
    for kind, count in (("llama", 21), ("gpt2", 24)):
        model = tiny(kind)
        with pytest.raises(UnsupportedShape, match="hidden"):
            decoder_of(model).narrowed(model, PruningPlan({"hidden": families.some(count, 32, 0)}))
    free = tiny("qwen2")  # whose hidden size may be any
    assert decoder_of(free).narrowed(free, PruningPlan({"hidden": families.some(21, 32, 0)})).config.hidden_size == 21
    uneven = {f"heads.{number}": torch.arange(count) for number, count in enumerate((1, 2, 1))}
    with pytest.raises(ValueError, match="as many heads"):
        decoder_of(free).narrowed(free, PruningPlan(uneven))
    with pytest.raises(ValueError, match="would be"):  # what is said of one layer alone leaves the others whole
        decoder_of(free).narrowed(free, PruningPlan({"ffn.1": torch.arange(8)}))


@pytest.mark.parametrize("kind", families.EXPERTS)
def test_routers_keep_something_to_choose_from(kind: str) -> None:
    model = tiny(kind)
    family = decoder_of(model)

    def with_experts(*numbers: int) -> PruningPlan:
        return PruningPlan({"experts": torch.tensor(numbers)})

    assert family.narrowed(model, with_experts(0, 3, 4, 6)).config.n_routed_experts == 4
    with pytest.raises(UnsupportedShape, match="expert"):
        family.narrowed(model, with_experts(*((0,) if kind == "deepseek_v2" else (0, 5))))
    if kind != "deepseek_v2":
        with pytest.raises(ValueError, match="as many of each"):
            family.narrowed(model, with_experts(0, 1, 2, 5))
    with pytest.raises(UnsupportedShape, match="shared"):
        family.narrowed(model, PruningPlan({"shared": torch.arange(19)}))


def test_every_kind_here_is_a_family() -> None:
    assert {families.tiny_config(kind).model_type for kind in KINDS} == set(DECODER_ADAPTERS)
