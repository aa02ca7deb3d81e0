"""What a ratio becomes for a decoder: the nearest shape that its config can say, or an error with the reason."""

from typing import Any

import pytest

from compression.models.architectures.decoder_configs import check_decoder, decoder_shape
from compression.schema.errors import UnsupportedShape
from compression.schema.report.decoder_widths import Experts, Latent
from compression.schema.report.measurements import Shape
from tests.support.facts import LLAMA3, SMOLLM2, V3

GPT2 = Shape(layers=12, hidden=768, heads=12, ffn=3072, vocabulary=50257, groups=12, head_size=64)


def changed(shape: Shape, **experts: Any) -> Shape:
    return shape.model_copy(update={"experts": shape.experts.model_copy(update=experts)})


def test_each_axis_goes_to_the_nearest_multiple_and_the_others_stay() -> None:
    small = decoder_shape("qwen3", LLAMA3, {"ffn": 0.3, "layers": 0.2}, 64)
    assert small == LLAMA3.model_copy(update={"ffn": 10048, "layers": 26})
    assert decoder_shape("qwen3", LLAMA3, {"hidden": 0.3}, 64).hidden == 2880
    assert decoder_shape("mistral", LLAMA3, {"heads": 0.3}, 64).groups == 6
    assert decoder_shape("llama", LLAMA3, {}, 64) == LLAMA3


def test_query_heads_go_with_the_head_that_they_read() -> None:
    small = decoder_shape("qwen2", SMOLLM2, {"heads": 0.3}, 64)
    assert (small.groups, small.heads, small.head_size) == (2, 6, 64)


def test_a_hidden_size_is_a_multiple_of_the_heads_where_the_config_insists() -> None:
    free, bound = (decoder_shape(kind, SMOLLM2, {"hidden": 0.2, "heads": 0.3}, 64).hidden for kind in ("qwen2", "llama"))
    assert (free, bound) == (448, 480)
    assert decoder_shape("llama", SMOLLM2, {"hidden": 0.2}, 64).hidden == 432  # 9 × 48: 64 would leave 576 alone
    # 4096 is no multiple of 24 heads, so hidden stays as it is only beside 32 or 16 of them.
    assert decoder_shape("llama", LLAMA3, {"heads": 0.2}, 64).heads == 32
    assert decoder_shape("llama", LLAMA3, {"heads": 0.3}, 64).heads == 16
    with pytest.raises(UnsupportedShape, match="no multiple of 24 heads"):
        check_decoder("llama", LLAMA3.model_copy(update={"heads": 24, "groups": 6}))
    check_decoder("mistral", LLAMA3.model_copy(update={"heads": 24, "groups": 6}))


def test_gpt2_shrinks_hidden_and_heads_together() -> None:
    small = decoder_shape("gpt2", GPT2, {"hidden": 0.3, "heads": 0.3, "ffn": 0.3}, 64)
    assert (small.hidden, small.heads, small.ffn) == (512, 8, 2176)
    with pytest.raises(UnsupportedShape, match="hidden and heads apart"):
        decoder_shape("gpt2", GPT2, {"heads": 0.3}, 64)


def test_experts_are_cut_within_the_groups_of_the_router() -> None:
    small = decoder_shape("deepseek_v3", V3, {"experts": 0.3, "expert_ffn": 0.3, "query_rank": 0.3, "kv_rank": 0.3}, 64)
    assert small.experts == Experts(count=176, ffn=1408, shared=1408, chosen=8, groups=8, chosen_groups=4, dense_layers=3)
    assert small.latent == Latent(query=1088, kv=384, rope=64, value=128)
    assert (small.hidden, small.heads, small.layers) == (V3.hidden, V3.heads, V3.layers)
    lite = V3.model_copy(update={"latent": Latent(query=None, kv=512, rope=64, value=128)})
    narrow = decoder_shape("deepseek_v2", lite, {"query_rank": 0.3, "kv_rank": 0.3}, 64).latent
    assert narrow == Latent(query=None, kv=384, rope=64, value=128)


@pytest.mark.parametrize(
    ("kind", "shape", "cause"),
    [
        ("deepseek_v3", changed(V3, count=252), "groups of one size"),
        ("deepseek_v3", changed(V3, count=8), "two best experts"),
        ("deepseek_v3", changed(V3, chosen_groups=1, count=56), "goes to 8 experts of 1 groups, which would have 7"),
        ("deepseek_v3", changed(V3, shared=3000), "no multiple of the 2048"),
        ("deepseek_v3", changed(V3, ffn=1407, shared=1407), "no multiples of 8"),
        ("deepseek_v3", V3.model_copy(update={"groups": 64}), "a value for each of its 128 heads"),
        ("deepseek_v2", V3.model_copy(update={"latent": Latent(query=None, kv=511, rope=64, value=128)}), "is odd"),
        ("qwen2", SMOLLM2.model_copy(update={"groups": 2}), "evenly"),
        ("qwen2", SMOLLM2.model_copy(update={"ffn": 0}), "no feed-forward units would be left"),
    ],
)
def test_a_shape_that_would_not_open_or_not_run_is_refused(kind: str, shape: Shape, cause: str) -> None:
    with pytest.raises(UnsupportedShape, match=cause):
        check_decoder(kind, shape)


@pytest.mark.parametrize("axis", ["hidden", "heads", "ffn", "layers"])
def test_a_ratio_that_leaves_nothing_is_refused(axis: Any) -> None:
    with pytest.raises(UnsupportedShape, match="would be left"):
        decoder_shape("llama", SMOLLM2, {axis: 0.99}, 64)
