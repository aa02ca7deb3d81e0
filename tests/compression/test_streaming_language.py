"""Language models from file to file: experts answer in their integers; settings of generating that nobody reads are refused."""

import json
from pathlib import Path

import pytest
import torch

from compression import measure
from compression.errors import ConfigMismatch
from compression.export import artifact
from compression.pipeline import compress
from compression.report import Score
from compression.streaming import job, shipping
from tests.compression.test_streaming import done, model_into, spec_of


def test_experts_of_a_language_model_are_scored_and_generate_as_the_card_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "whole_bytes", lambda parameters: 1 << 62)
    monkeypatch.setattr(shipping, "opened_bytes", lambda file, table: 0)
    monkeypatch.setattr(artifact, "figures", lambda spec, **_: measure.measure(spec))
    model = model_into(tmp_path / "model", "deepseek_v3", "ForCausalLM")
    report = done(spec_of(tmp_path, model, task="causal-lm", memory_bytes=8 << 30), tmp_path)
    baseline, quantized = (row.score for row in report.rows)
    assert isinstance(baseline, Score)
    assert isinstance(quantized, Score)
    assert abs(quantized.worth - baseline.worth) < 0.05
    made = tmp_path / "out" / "artifacts" / report.rows[1].artifact
    code = (made / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert "generate" in code
    monkeypatch.chdir(made)
    capsys.readouterr()
    exec(code, {"__name__": "card"})  # what the download tells its reader to run
    assert len(capsys.readouterr().out.split()) > 3
    assert torch.is_inference_mode_enabled() is False


@pytest.mark.parametrize("said", ["{no JSON", "[]", '{"max_new_tokens": -1}'])
def test_settings_of_generating_that_stock_code_cannot_read_are_refused_at_once(said: str, tmp_path: Path) -> None:
    model = model_into(tmp_path / "model", head="ForCausalLM")
    (model / "generation_config.json").write_text(said)
    with pytest.raises(ConfigMismatch) as error:
        list(compress(spec_of(tmp_path, model, task="causal-lm"), tmp_path))
    assert error.value.param == "generation_config.json"
    assert not (tmp_path / "out" / "artifacts").exists()


def test_settings_that_stock_code_only_warns_of_are_kept(tmp_path: Path) -> None:
    model = model_into(tmp_path / "model", head="ForCausalLM")
    said = {"temperature": 0.9, "do_sample": False}
    (model / "generation_config.json").write_text(json.dumps(said))
    report = done(spec_of(tmp_path, model, task="causal-lm"), tmp_path)
    kept = json.loads((tmp_path / "out" / "artifacts" / report.rows[1].artifact / "generation_config.json").read_text())
    assert kept["temperature"] == 0.9
