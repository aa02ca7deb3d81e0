"""What free memory and disk decide: gradient checkpointing, with the same gradients, and where a teacher's states are."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from compression.distillation import teacher
from compression.engine import context, training_memory
from compression.engine.context import StageContext
from compression.engine.training_memory import checkpoints_gradients, needed
from compression.models.adapters.registry import adapter_of
from compression.planning.memory import Products, step_bytes
from compression.quantization.fake_quantize import insert_fake_quantization
from compression.schema.events import Log
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from compression.system import memory
from compression.training import gradient_checkpointing
from compression.training.work import OneProcess
from tests.support import decoder_models, tiny_bert, tiny_maps
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.second_device import second_device
from tests.support.stage_runs import distill, prepare


def opened(**train: Any) -> StageContext:
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_bert.tiny_config(num_labels=2)).eval()
    recipe = Recipe(prepare=Prepare(epochs=1, rate=3e-3), train=Train.model_validate({"batch": 16, **train}))
    return tiny_bert.state_of(model, recipe)


class Together(OneProcess):
    """So many processes, of which none is started."""

    def __init__(self, size: int) -> None:
        self.size = size


def needed_by(size: int, device: str | torch.device = "cpu", **named: Any) -> int:
    """Return what so many processes need: on a card each, on a CPU all of them."""
    state = opened(checkpointing="off", micro_batch=16, devices=size)
    state.model = BertForSequenceClassification(tiny_bert.tiny_config(num_labels=2, num_hidden_layers=4)).to(device)
    state.processes = Together(size)
    return needed(state, recompute=False, **named)


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each time that a layer is computed with gradient checkpointing."""
    seen, plain = list[str](), gradient_checkpointing.checkpoint

    def counted(*given: Any, **named: Any) -> Any:
        seen.append("layer")
        return plain(*given, **named)

    monkeypatch.setattr(gradient_checkpointing, "checkpoint", counted)
    return seen


def trained(state: StageContext) -> list[torch.Tensor]:
    list(prepare(state))
    return [value.detach().to("cpu", copy=True) for value in state.model.parameters()]


def remarks(state: StageContext) -> list[str]:
    return [note for note in state.notes if "gradient checkpointing" in note]


def test_layers_are_computed_again_where_memory_asks_for_it(again: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    need = needed(opened(), recompute=False)
    monkeypatch.setattr(memory, "available", lambda: need + 1)
    plainly = trained(roomy := opened())
    assert not again
    assert not remarks(roomy)
    monkeypatch.setattr(memory, "available", lambda: need - 1)
    tightly = trained(tight := opened())
    assert len(again) == 2 * 20  # layers and steps
    (remark,) = remarks(tight)
    assert "GiB more without" in remark
    assert all(one.equal(other) for one, other in zip(plainly, tightly, strict=True))  # dropout draws the same again


def test_a_recipe_may_decide(again: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1)
    trained(off := opened(checkpointing="off"))
    assert not again
    monkeypatch.setattr(memory, "available", lambda: 1 << 60)
    trained(on := opened(checkpointing="on"))
    assert again
    assert not remarks(off) + remarks(on)


def test_the_earlier_key_is_read() -> None:
    assert Train.model_validate({"recompute": True}) == Train(checkpointing="on")
    assert Train.model_validate({"recompute": True, "checkpointing": "on"}) == Train(checkpointing="on")
    assert Train.model_validate({"recompute": False}) == Train()
    for value in ("auto", "on", "off"):
        assert Train.model_validate({"recompute": False, "checkpointing": value}) == Train(checkpointing=value)
    for wrong in (
        {"recompute": "yes"},
        {"recompute": True, "checkpointing": "off"},
        {"recompute": True, "checkpointing": "auto"},
    ):
        with pytest.raises(ValueError, match="recompute"):
            Train.model_validate(wrong)


def test_models_without_such_layers_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_memory, "free", lambda _: 0)
    network = tiny_maps.network_state(drawn_network(resnet((1, 1))), Recipe())
    assert checkpoints_gradients(network, "prepare") == (False, ())


def test_what_training_needs_follows_the_recipe() -> None:
    whole = needed(opened(), recompute=False)
    count = sum(value.numel() for value in opened().model.parameters())
    assert needed(opened(), recompute=True) < whole
    assert needed(opened()) == needed(opened(), recompute=True)  # the least that it may take
    assert needed(opened(checkpointing="off")) == whole
    assert needed(opened(micro_batch=4), recompute=False) < whole
    assert whole - needed(opened(optimizer="adamw-8bit"), recompute=False) == pytest.approx(6 * count, rel=0.01)
    with second_device() as device:
        there = opened(checkpointing="off")
        there.model.to(device)
        assert needed(there) < needed(there, recompute=False)  # a row at a time
        assert whole - needed(there, recompute=False) == 8 * count  # copies of the weights are on the host


def test_what_training_needs_counts_the_type_of_its_products() -> None:
    def step(products: Products, *, recompute: bool) -> int:
        longest = max(state.rows["train"].lengths)
        return step_bytes(shape, 16, longest, None, products, recompute=recompute)

    plain, half = opened(precision="float32"), opened(precision="bfloat16")
    state, family = plain, adapter_of(plain.model)
    shape, weights = family.shape_of(plain.model.config), family.parameters_of(plain.model).other
    for recompute in (False, True):
        copied = 2 * weights // (shape.layers if recompute else 1)
        found = needed(half, recompute=recompute) - needed(plain, recompute=recompute)
        assert found == step("bfloat16", recompute=recompute) - step("float32", recompute=recompute) + copied
    insert_fake_quantization(half.model)
    found = needed(half, recompute=False) - needed(plain, recompute=False)
    assert found == step("int8", recompute=False) - step("float32", recompute=False) + weights


def test_a_language_models_output_layer_is_not_copied_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder_models.tiny("llama")
    state: Any = SimpleNamespace(model=model, task=SimpleNamespace(packed=object()))
    layer = model.lm_head.weight.numel()
    every = adapter_of(model).parameters_of(model).other
    assert training_memory._multiplied(state) == every - layer
    monkeypatch.setattr(model.lm_head, "weight", model.get_input_embeddings().weight)  # tied: counted with the table
    assert training_memory._multiplied(state) == every - layer


def test_processes_share_what_training_needs_and_each_gathers_some() -> None:
    alone, two, four = (needed_by(size) for size in (1, 2, 4))
    assert two > alone
    assert four - alone == 2 * (two - alone)  # all are in one memory
    assert needed_by(2, compared=True) > two
    assert needed_by(1, compared=True) == alone
    with second_device() as device:
        assert needed_by(2, device) < needed_by(1, device)


def test_a_teachers_states_may_take_half_of_the_free_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "disk_usage", lambda _: SimpleNamespace(free=10 * 2**30))
    state = opened()
    assert state.cache_file("task") is None
    state.scratch = tmp_path / "scratch"
    path, most = state.cache_file("task") or (None, 0)
    assert (path, most) == (tmp_path / "scratch/teacher-task.float16", 5 * 2**30)
    state.cache_bytes = 2**30  # as the worker says
    assert (state.cache_file("task") or (None, 0))[1] == 2**30
    state.cache_bytes = 0
    assert state.cache_file("task") is None
    for asked, expected in ((3.0, 3 * 2**30), (0.0, None)):
        state.recipe = Recipe(distill=Distill(spill_gib=asked))
        assert (state.cache_file("task") or (None, None))[1] == expected


def test_states_beyond_memory_are_written_to_disk_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "TEACHER_BYTES", 0)
    weights = []
    for scratch in (None, tmp_path):
        torch.manual_seed(1)
        state = opened(max_length=32)
        begun = [value.detach().clone() for value in state.model.parameters()]
        state.recipe = state.recipe.model_copy(update={"distill": Distill(epochs=1)})
        state.teacher, state.scratch = copy.deepcopy(state.model).requires_grad_(False), scratch
        said = [event.message for event in distill(state) if isinstance(event, Log)]
        assert any("kept on disk" in message for message in said) == (scratch is not None)
        weights.append([value.detach().clone() for value in state.model.parameters()])
    apart, moved = (
        torch.stack([(one - other).norm() for one, other in zip(weights[0], those, strict=True)]).norm()
        for those in (weights[1], begun)
    )
    assert apart < moved / 4  # states on disk are rounded to half precision, and AdamW's steps follow small gradients' signs
