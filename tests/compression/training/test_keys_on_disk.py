"""The names in a training's save and in a stage's folder stay as they are: a new attempt may be of newer code."""

import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from compression.engine import checkpoints
from compression.engine.checkpoints import StageCheckpoint
from compression.engine.stage_result import StageResult
from compression.schema.stages import Stage
from compression.training.save import TENSORS
from tests.compression.training.conftest import WORK, Listener, checkpointer, state_before

LOOP = {"weight.N", "good.N", "step.N", "exp_avg.N", "exp_avg_sq.N", "random.cpu"}
BESIDE: dict[Stage, set[str]] = {
    "baseline": {"best.N", "beside.preparation"},  # the one whose last epoch is not its best
    "quantized": {"beside.qat.order"},
    "pruned": {
        "beside.ratios",
        "beside.shape",
        *(f"beside.scores.{key}" for key in ("compared.N", "ffn.N", "heads.N", "hidden", "pooled", "values.N")),
    },
    "distilled": {"beside.last", "beside.asked"},
}


@pytest.mark.parametrize("stage", list(WORK))
def test_a_training_save_has_the_tensors_on_record(tmp_path: Path, listener: Listener, stage: Stage) -> None:
    state = state_before(stage)
    state.checkpointer = checkpointer(tmp_path)
    listener.hear(WORK[stage](state))
    found: set[str] = set()
    for place in listener.kept.iterdir():
        assert {path.name for path in place.iterdir()} == {TENSORS, "state.json"}
        with safe_open(place / TENSORS, "pt") as file:
            found |= {re.sub(r"\.\d+\b", ".N", key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
    assert found == LOOP | BESIDE[stage]


def test_a_stage_s_folder_has_the_files_on_record(tmp_path: Path, encoder: Path) -> None:
    model = state_before("baseline").model
    facts = StageCheckpoint.model_construct(
        fingerprint="x", stage="pruned", labels=(), simulation=None, rows=(), artifacts=(), pruning=None, files=()
    )
    result = StageResult(smoothed={"layer": torch.ones(1)}, units={"ffn.0": torch.ones(1)})
    checkpoints.write(tmp_path, model, facts, [model, model], encoder, result)
    stock = ("config.json", "model.safetensors")
    tokenizer = ("tokenizer.json", "tokenizer_config.json")
    teachers = tuple(f"teachers/{number}/{name}" for number in (1, 2) for name in stock)
    kept = checkpoints.read(tmp_path, "pruned", {"pruned": "x"})
    beside = ("smoothed.safetensors", "units.safetensors")
    assert {file.path for file in kept.files} == {*stock, *tokenizer, *teachers, *beside}
    assert sorted(path.name for path in (tmp_path / "pruned").iterdir() if path.is_file()) == sorted(
        (*stock, *tokenizer, *beside, "state.json")
    )
