"""DeepSeek's shapes through a whole job as language models: R1's distilled Qwen2, and V3 with experts and squeezed heads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from compression.modalities.text.causal_lm import token_losses
from compression.modalities.text.causal_lm.documents import read
from compression.modalities.text.scoring.perplexity import figures
from tests.compression.engine.test_language_job import run, scores, texts
from tests.support.tiny_language import model, tokenizer

R1_DISTILL = {"vocab_size": 264, "intermediate_size": 64, "attention_bias": True, "rope_theta": 10_000.0}
V3 = {
    "n_routed_experts": 8,
    "intermediate_size": 64,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
LEFT = {
    "qwen2": {"hidden_size": 24, "num_key_value_heads": 1, "intermediate_size": 32},
    "deepseek_v3": {"intermediate_size": 32, "n_routed_experts": 4, "moe_intermediate_size": 8, "kv_lora_rank": 8},
}
CUT: dict[str, dict[str, float]] = {
    "qwen2": {"hidden": 0.25, "heads": 0.5, "ffn": 0.5},
    "deepseek_v3": {"ffn": 0.5, "experts": 0.5, "expert_ffn": 0.5, "kv_rank": 0.5},
}


@pytest.mark.parametrize(("family", "settings"), [("qwen2", R1_DISTILL), ("deepseek_v3", V3)])
def test_it_is_tuned_rounded_cut_and_taught_and_opens_in_stock_transformers(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    whole = model(family, **{"initializer_range": 0.05, **settings})
    whole.save_pretrained(tmp_path / "model")
    tokenizer(bos=True).save_pretrained(tmp_path / "model")
    for name, count in (("train", 160), ("test", 24)):
        lines = [json.dumps({"text": text}) for text in texts(count, seed=len(name))]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    recipe = {
        "prepare": {"epochs": 4, "rate": 1e-2},
        "prune": {"ratio": CUT[family], "axes": list(CUT[family]), "multiple": 8, "calibration_rows": 16},
        "distill": {"epochs": 4, "rate": 5e-3, "temperature": 1.0, "hidden": 0.0, "hard": 0.3},
        "train": {"batch": 4, "max_length": 48},
    }
    report, _ = run(tmp_path, recipe)
    found = scores(report)
    baseline, quantized, cut, last = found.values()
    assert baseline.value < baseline.chance / 1.5  # there is a score to keep
    assert quantized.worth > baseline.worth - 0.1
    assert last.value < cut.value
    before, after = report.rows[0], report.rows[-1]
    assert after.parameters.total == report.rows[2].parameters.total < 0.75 * before.parameters.total
    assert after.size.bytes < 0.5 * before.size.bytes

    # The cut as stock transformers has it, in 16 bits: the same architecture, smaller, and near what was told in integers.
    half = next(one for one in report.artifacts if (one.stage, one.precision) == ("distilled", "bfloat16"))
    folder = tmp_path / "out" / "artifacts" / half.name
    stock = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert (type(stock), stock.dtype) == (type(whole), torch.bfloat16)
    assert {key: getattr(stock.config, key) for key in LEFT[family]} == LEFT[family]
    assert sum(parameter.numel() for parameter in stock.parameters()) == after.parameters.total
    lines = (tmp_path / "test.jsonl").read_text().splitlines()
    asked = read([json.loads(line)["text"] for line in lines], AutoTokenizer.from_pretrained(folder))
    again = figures(token_losses.told(stock.float(), asked, length=48, stride=24)).perplexity.value
    assert again == pytest.approx(half.score.value, rel=2e-2)
    assert half.score.value == pytest.approx(last.value, rel=0.1)
