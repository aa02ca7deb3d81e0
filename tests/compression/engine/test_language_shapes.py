"""DeepSeek's shapes through a whole job as language models: R1's distilled Qwen2, and V3 with experts and squeezed heads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compression.engine.test_language_job import RECIPE, opened, perplexity, run, scores, write

R1_DISTILL = {"vocab_size": 264, "attention_bias": True, "rope_theta": 10_000.0}
V3 = {"n_routed_experts": 8, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True}
LEFT = {
    "qwen2": {"hidden_size": 24, "num_key_value_heads": 1, "intermediate_size": 32},
    "deepseek_v3": {"intermediate_size": 32, "n_routed_experts": 4, "moe_intermediate_size": 8, "kv_lora_rank": 8},
}
CUT: dict[str, dict[str, float]] = {
    "qwen2": {"hidden": 0.25, "heads": 0.5, "ffn": 0.5},
    "deepseek_v3": {"ffn": 0.5, "experts": 0.5, "expert_ffn": 0.5, "kv_rank": 0.5},
}


@pytest.mark.parametrize(("family", "settings"), [("qwen2", R1_DISTILL), ("deepseek_v3", V3)])
def test_tuned_rounded_cut_and_taught_it_opens_in_stock_code(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    whole = write(tmp_path, family, tie_word_embeddings=False, **settings)
    prune = {"ratio": CUT[family], "axes": list(CUT[family]), "multiple": 8, "calibration_rows": 16}
    report, _ = run(tmp_path, {**RECIPE, "prune": prune, "distill": {**RECIPE["distill"], "hidden": 0.0}})
    baseline, quantized, cut, last = scores(report).values()
    assert baseline.value < baseline.chance / 1.5  # there is a score to keep
    assert quantized.worth > baseline.worth - 0.1
    assert last.value < cut.value
    before, after = report.rows[0], report.rows[-1]
    assert after.parameters.total == report.rows[2].parameters.total < 0.75 * before.parameters.total
    assert after.size.bytes < 0.5 * before.size.bytes

    # The cut as stock transformers has it, in 16 bits: the same architecture, smaller, and near what was told in integers.
    half = next(one for one in report.artifacts if (one.stage, one.precision) == ("distilled", "bfloat16"))
    folder = tmp_path / "out" / "artifacts" / half.name
    stock = opened(folder)
    assert (type(stock), stock.dtype) == (type(whole), torch.bfloat16)
    assert {key: getattr(stock.config, key) for key in LEFT[family]} == LEFT[family]
    assert sum(parameter.numel() for parameter in stock.parameters()) == after.parameters.total
    assert perplexity(stock.float(), tmp_path, folder).perplexity.value == pytest.approx(half.score.value, rel=2e-2)
    assert half.score.value == pytest.approx(last.value, rel=0.1)
