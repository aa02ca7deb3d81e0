"""Whole stages of tiny models on a device, for a second device without a card (`second_device`) and for cards alike."""

import copy
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertForMaskedLM, BertForSequenceClassification, PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.insert_quantization import settle_ranges
from compression.modalities.registry import task_of
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.schema.recipe.augment import Augment, Synonyms
from compression.schema.recipe.base import Precision, Split
from compression.schema.recipe.distill import Distill, General, Teachers
from compression.schema.recipe.prune import AxisRatios, Prune, Recovery
from compression.schema.recipe.quantize import Qat, Quantize
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe, Train
from tests.compression.training.conftest import Listener, checkpointer, resumed
from tests.support import tiny_bert, tiny_language
from tests.support.job_models import alone
from tests.support.network_graphs import resnet
from tests.support.network_models import drawn_network
from tests.support.stage_runs import distill, prepare, prune, quantize
from tests.support.tiny_maps import network_state

QAT = Qat(full=0, ramp=1, quantized=1, rate=1e-3)
WORK = (prepare, quantize, prune, distill)
LENGTH = 32
ATTENTION = "eager"  #: the same kernels on all devices


def encoder(device: torch.device, recipe: Recipe) -> StageContext:
    """Return the state of a job of a tiny encoder that classifies, on a device."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(tiny_bert.tiny_config(num_labels=2)).eval()
    model.set_attn_implementation(ATTENTION)
    state = tiny_bert.state_of(model.to(device), recipe)
    counts = {"train": 32, "validation": 8, "test": 4}  # two batches
    state.rows = {split: rows.at(list(range(counts[split]))) for split, rows in state.rows.items()}
    return state


def decoder(device: torch.device, recipe: Recipe, family: str = "llama", **changes: Any) -> StageContext:
    """Return the state of a job of a tiny language model on a device."""
    model = tiny_language.model(family, intermediate_size=64, initializer_range=0.05, **changes)
    model.set_attn_implementation(ATTENTION)
    model.set_experts_implementation("eager")
    task, counts = task_of("causal-lm", (), Evaluate(window=LENGTH)), {"train": 12, "validation": 4, "test": 4}
    draw = random.Random(0)
    rows: dict[Split, Any] = {}
    for split, count in counts.items():
        texts = [" ".join(draw.choices(["the", "cat", "sat", "on", "mat"], k=draw.randint(3, 9))) for _ in range(count)]
        rows[split] = PackedDataset.of(texts, tiny_language.tokenizer(bos=True), LENGTH, task)
    return StageContext(recipe, rows, model.to(device), tiny_bert.all_phases(), alone(model, rows))


tied, experts = partial(decoder, tie_word_embeddings=True), partial(decoder, family="deepseek_v2")


def network(device: torch.device, recipe: Recipe) -> StageContext:
    """Return the state of a job of a tiny convolutional network on a device; its rows vary, so its teacher is asked live."""
    return network_state(drawn_network(resnet((1, 1))).to(device), recipe)


Opened = Callable[[torch.device, Recipe], StageContext]


def scenarios(precision: Precision = "auto") -> dict[str, tuple[Opened, Recipe]]:
    """Return the jobs by name. precision: of their training.

    cached: what the teacher says is kept. asked: it is asked for each batch, if `TEACHER_BYTES` is 0, and nothing is on disk.
    """
    text = Train(batch=16, max_length=LENGTH, precision=precision)
    recovery = Recovery(epochs=2, rate=1e-3)
    cut = Prune(ratio=0.5, multiple=8, calibration_rows=8, reconstruct=True, recovery=recovery)
    by_teacher = recovery.model_copy(update={"by": "teacher"})
    static = Quantize(scheme="static-int8", calibration_rows=8, smoothing="search", qat=QAT)
    dynamic = Quantize(calibration_rows=8, smoothing=0.5, qat=QAT)
    held = Distill(
        epochs=1,
        attention=1.0,
        weighting="uncertainty",
        general=General(epochs=1),
        teachers=Teachers(precision="int8"),
        spill_gib=0.0,
    )
    packed = Train(batch=4, max_length=LENGTH, precision=precision)
    ffn = cut.model_copy(update={"recovery": by_teacher})
    maps = Prune.model_validate({"ratio": 0.5, "axes": ["channels"], "importance": "bn_scale", "calibration_rows": 8})
    weights = Quantize(scheme="weight-only-int4", calibration_rows=8, qat=QAT)
    norms = cut.model_copy(update={"importance": "l1_weight", "recovery": None, "sensitivity": True})
    plainly = held.model_copy(update={"attention": 0.0, "general": None})
    routed = Prune(ratio=AxisRatios(experts=0.5, expert_ffn=0.5), multiple=8, calibration_rows=8, recovery=by_teacher)
    first_order = cut.model_copy(update={"importance": "taylor", "recovery": by_teacher, "steps": 2})

    def recipe(quantize: Quantize, prune: Prune, distill: Distill, train: Train) -> Recipe:
        return Recipe(prepare=Prepare(epochs=1, rate=1e-3), quantize=quantize, prune=prune, distill=distill, train=train)

    return {
        "encoder cached": (encoder, recipe(dynamic, cut, Distill(epochs=1, attention=1.0), text)),
        "encoder asked": (encoder, recipe(static, first_order, held, text)),
        "encoder weights": (encoder, recipe(weights, norms, Distill(epochs=1, hidden=0.0), text)),
        "decoder cached": (tied, recipe(dynamic, ffn, Distill(epochs=1, attention=1.0), packed)),
        "decoder asked": (decoder, recipe(weights, cut, plainly, packed)),
        "decoder top-k": (decoder, recipe(static, ffn, Distill(epochs=1, kept=8), packed)),
        "experts asked": (experts, recipe(dynamic, routed, plainly, packed)),
        "network": (network, recipe(static.model_copy(update={"smoothing": None}), maps, Distill(epochs=1), text)),
    }


def run(state: StageContext, scratch: Path) -> Iterator[StageContext]:
    """Run all stages of a job; yield its state after each."""
    state.scratch = scratch
    for work in WORK:
        list(work(state))
        settle_ranges(state)
        yield state
        state.notes.clear()


def misplaced(state: StageContext, device: torch.device) -> list[str]:
    """Return the names of the tensors that are not where they are between two stages: the model's are on the job's device, the
    teacher's in the host's memory.
    """
    models = {"model": (state.model, device.type), "teacher": (state.teacher, "cpu")}
    return [
        f"{of}.{name}"
        for of, (model, place) in models.items()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if tensor.device.type != place
    ]


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return copies of a model's weights on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def trained_on(device: torch.device, precision: Precision = "auto") -> StageContext:
    """Return a state whose baseline is ready to be distilled: a copy of the model that is its teacher."""
    recipe = Recipe(prepare=Prepare(epochs=1, rate=1e-3), distill=Distill(epochs=1), train=Train(batch=16, precision=precision))
    state = encoder(device, recipe)
    list(prepare(state))
    return state


def seeds_of(state: StageContext) -> StageContext:
    """Give a state two more teachers, as its baseline's stage leaves them: on the CPU."""
    state.originals = [copy.deepcopy(state.teacher).cpu() for _ in range(2)]
    distillation = state.recipe.distill.model_copy(update={"teachers": Teachers(seeds=3, fusion="validation")})
    state.recipe = state.recipe.model_copy(update={"distill": distillation})
    return state


def write_helper(folder: Path) -> Path:
    """Write a masked language model that predicts words of the tiny encoder's vocabulary."""
    torch.manual_seed(0)
    BertForMaskedLM(tiny_bert.tiny_config()).save_pretrained(folder)
    tiny_bert.write_tokenizer(folder)
    return folder


MASKED = Augment(copies=1, synonyms=Synonyms(source="masked-lm", model="helper", candidates=4))


def taken_up(before: Any, place: int, folder: Path, listener: Listener) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    """Stop the work at `place` once it is saved, and take it up again -> the state, its weights, and those without a stop."""
    for work in WORK[:place]:
        list(work(before))
    whole, saved, again = (copy.deepcopy(before, {id(before.rows): before.rows}) for _ in range(3))
    list(WORK[place](whole))
    saved.checkpointer = checkpointer(folder)
    listener.hear(WORK[place](saved))
    again.checkpointer = resumed(folder, listener, 2)
    list(WORK[place](again))
    return again, weights(again.model), weights(whole.model)
