"""Each decoder family at widths that are published for it: cut as planned, saved, reopened, equal to the masked model."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from compression.modalities.registry import task_of
from compression.modalities.text.batches import TokenizedDataset
from compression.models.adapters.registry import decoder_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.pruning_groups import width_of
from compression.models.architectures.shapes import planned_shape
from compression.pruning.scores import score_units
from compression.schema.recipe.base import Axis
from compression.schema.recipe.prune import Prune
from tests.support.decoder_families import error, logits, silenced

COMMON: dict[str, Any] = {"vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
YARN = {"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
# One expert of DeepSeek-V3 of 2,048 units is 176 MB, and there are 256 of them: theirs is the only width of it that is not
# published. An eighth of the 1,408 that are published of V2-Lite: with them a layer would take 2.2 GB.
DEEPSEEK = {
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "kv_lora_rank": 512, "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
}  # fmt: skip
DEEPSEEK_V3 = {
    **DEEPSEEK, "hidden_size": 7168, "intermediate_size": 18432, "num_attention_heads": 128, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "n_group": 8,
    "topk_group": 4, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "moe_intermediate_size": 16,
    "num_hidden_layers": 1, "rope_parameters": {**YARN, "rope_theta": 10000.0, "mscale": 1.0, "mscale_all_dim": 1.0},
}  # fmt: skip
DEEPSEEK_V2_LITE = {
    **DEEPSEEK, "hidden_size": 2048, "intermediate_size": 10944, "num_attention_heads": 16, "num_key_value_heads": 16,
    "q_lora_rank": None, "first_k_dense_replace": 1, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
    "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "moe_intermediate_size": 176,
    "num_hidden_layers": 2, "rope_parameters": {**YARN, "rope_theta": 10000.0, "mscale": 0.707, "mscale_all_dim": 0.707},
}  # fmt: skip


def grouped(hidden: int, ffn: int, layers: int, heads: int, groups: int, positions: int, **more: Any) -> dict[str, Any]:
    widths = {"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**widths, "num_key_value_heads": groups, "max_position_embeddings": positions, **more}


def turned(theta: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


TIED = {"tie_word_embeddings": True}
CUT = Prune(ratio=0.3)
RANKED: tuple[Axis, ...] = ("hidden", "heads", "query_rank", "kv_rank")
PUBLISHED: dict[str, tuple[str, dict[str, Any], Prune, tuple[int, ...]]] = {
    "SmolLM2-135M": ("llama", grouped(576, 1536, 2, 9, 3, 8192, **turned(1e5), **TIED), CUT, (384, 6, 1088)),
    "Llama-3.2-1B": (
        "llama", grouped(2048, 8192, 2, 32, 8, 131072, head_dim=64, rope_parameters=LLAMA3, **TIED), CUT, (1344, 24, 5760)
    ),
    "deepseek-llm-7b": ("llama", grouped(4096, 11008, 1, 32, 32, 4096, rms_norm_eps=1e-6), CUT, (2816, 22, 7680)),
    "Mistral-7B-v0.1": (
        "mistral", grouped(4096, 14336, 1, 32, 8, 32768, sliding_window=4096, rms_norm_eps=1e-5), CUT, (2880, 24, 10048)
    ),
    "Qwen2-0.5B": ("qwen2", grouped(896, 4864, 2, 14, 2, 131072, **turned(1e6), **TIED), CUT, (640, 7, 3392)),
    "Qwen3-0.6B": ("qwen3", grouped(1024, 3072, 2, 16, 8, 40960, head_dim=128, **turned(1e6), **TIED), CUT, (704, 12, 2176)),
    "gpt2": ("gpt2", {"n_embd": 768, "n_layer": 2, "n_head": 12}, CUT, (512, 8, 2176)),
    "DeepSeek-V2-Lite": (
        "deepseek_v2", DEEPSEEK_V2_LITE, Prune(ratio=0.4, axes=("hidden", "heads", "ffn", "experts", "expert_ffn", "kv_rank")),
        (1280, 10, 6592, 38, 128, 320),
    ),
    # With all of its heads, which the next has, this would be the largest by far.
    "DeepSeek-V3, a dense layer": (
        "deepseek_v3", {**DEEPSEEK_V3, "first_k_dense_replace": 1, "num_attention_heads": 16, "num_key_value_heads": 16},
        Prune(ratio=0.5, axes=(*RANKED, "ffn")), (3584, 8, 768, 256, 9216),
    ),
    "DeepSeek-V3, a layer of experts": (
        "deepseek_v3", {**DEEPSEEK_V3, "first_k_dense_replace": 0},
        Prune(ratio=0.5, axes=(*RANKED, "experts", "expert_ffn"), multiple=8), (3584, 64, 768, 256, 128, 8),
    ),
}  # fmt: skip
"""The family, what its config says, the cut, and what that leaves on each of its axes. Experts are narrower than published, and
tables shorter; layers are one or two."""


NUMBERS = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
"""What weights are made of. It goes round in them: drawing each of half a billion would take longer than all else."""


def made(kind: str, settings: dict[str, Any]) -> PreTrainedModel:
    """Make a model whose biases are not 0 and whose norms are not 1, so that losing one shows."""
    config = CONFIG_MAPPING[kind](**{**COMMON, **settings, "attn_implementation": "eager"})
    with no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    model.tie_weights()
    with torch.no_grad():
        for number, (name, value) in enumerate([*model.named_parameters(), *model.named_buffers()]):
            if "inv_freq" in name:
                continue
            numbers = NUMBERS.roll(7919 * number) * (config.initializer_range if value.ndim > 1 else 0.2)
            for part in value.view(-1).split(len(numbers)):  # its length is a prime number, so that no two rows are alike
                part.copy_(numbers[: len(part)])
            if value.ndim == 1 and name.endswith("weight"):
                value.add_(1)
        # As loud as a trained model's: beside so weak a stream as the drawn one the norms' ε would count.
        model.get_input_embeddings().weight.mul_(20)
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_decoder_at_its_published_widths_is_cut_as_the_masked_model_says(name: str, tmp_path: Path) -> None:
    kind, settings, prune, widths = PUBLISHED[name]
    model = made(kind, settings)
    family, before = decoder_of(model), decoder_of(model).shape_of(model.config)
    ids = torch.randint(3, before.vocabulary, (8, 12), generator=torch.Generator().manual_seed(1))
    rows = TokenizedDataset(ids.tolist(), torch.zeros(8, dtype=torch.int64), 0, task_of("text-classification"))
    scores = score_units(model, prune.model_copy(update={"calibration_rows": 8}), rows, seed=0)
    shape = planned_shape(ARCHITECTURE_SPECS[kind], before, prune)
    assert tuple(width_of(shape, axis) for axis in prune.axes) == widths
    kept = scores.choose(family, shape)
    small = family.narrowed(model, kept)
    assert family.shape_of(small.config) == shape
    asked = ids[:2]
    whole = logits(model, asked)
    with silenced(model, kept) as masked:
        wanted = logits(masked, asked)
    del model, masked  # what was saved is opened without them beside it
    small.save_pretrained(tmp_path)
    del small
    opened, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    shutil.rmtree(tmp_path)  # two gigabytes of them would outlast the tests
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert error(whole, wanted) > 0.05  # the cut is felt
    assert error(logits(opened.eval(), asked), wanted) < 1e-5
