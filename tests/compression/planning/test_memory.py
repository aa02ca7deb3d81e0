"""The memory of a job's parts: whatever a recipe says about memory shows in the forecast of the training that it is about."""

from dataclasses import replace
from typing import Any

import pytest

from compression.planning import teacher_cost
from compression.planning.card_memory import CONTEXT_BYTES, LIBRARIES_BYTES, card_memory
from compression.planning.cpu_memory import largest_part
from compression.planning.cut_memory import cut_bytes
from compression.planning.estimator import Counted, PlannedJob, estimate
from compression.planning.memory import (
    HARNESS_BYTES,
    KEPT_FREED,
    PROCESS_BYTES,
    STEPPED_BYTES,
    UNTRAINED_BYTES,
    Memory,
    idle_bytes,
    rounded_bytes,
    saved_bytes,
    step_bytes,
    trainings,
)
from compression.planning.preflight import preflight
from compression.schema.recipe.presets import preset
from compression.schema.recipe.recipe import Evaluate, JobEvaluate, LmEval, Recipe
from compression.schema.report.measurements import Parameters, Shape
from tests.support.facts import LLAMA3, SMOLLM2, TEXTS, V2_LITE, decoder_facts

LANGUAGE = preset("language", "causal-lm").model_dump(mode="json", exclude_unset=True)


def job(shape: Shape = SMOLLM2, outputs: int = 0, **changes: dict[str, Any] | None) -> PlannedJob:
    """Return a language model's job by the preset, with keys of some sections changed; a section of None is left out."""
    kind = "deepseek_v2" if shape.latent else "llama"
    recipe = {**LANGUAGE, **{key: None if new is None else {**LANGUAGE[key], **new} for key, new in changes.items()}}
    cut = decoder_facts(kind, shape.model_copy(update={"ffn": shape.ffn // 2}), outputs)
    whole = decoder_facts(kind, shape, outputs)
    before, after = (Counted(one.shape, one.parameters, not outputs, outputs * shape.hidden) for one in (whole, cut))
    return PlannedJob(before, after, TEXTS, Recipe.model_validate(recipe), JobEvaluate())


def one(name: str, device: str = "cpu", **changes: dict[str, Any] | None) -> Memory:
    (found,) = (each for each in trainings(job(**changes), device) if each.name == name)
    return found


def test_a_job_has_the_trainings_of_its_recipe_in_their_order() -> None:
    assert [each.name for each in trainings(job(), "cpu")] == ["tune", "distill"]
    every = job(prune={"recovery": {"epochs": 2}}, quantize={"qat": {}})
    assert [each.name for each in trainings(every, "cpu")] == ["tune", "qat", "recover", "distill"]
    assert not list(trainings(job(prepare={"epochs": 0}, distill=None), "cpu"))


def test_layers_that_cannot_be_computed_again_are_kept_whatever_the_recipe_says() -> None:
    def kept(value: str, device: str) -> tuple[int, int]:
        asked = job(train={"checkpointing": value})
        own = replace(asked.model, recomputes=False), replace(asked.result, recomputes=False)
        other = replace(asked, model=own[0], result=own[1])
        return sum(each.step for each in trainings(other, device)), card_memory(other)[0]

    assert kept("auto", "cuda") == kept("off", "cuda") == kept("on", "cuda")
    plain = [sum(each.step for each in trainings(job(train={"checkpointing": value}), "cuda")) for value in ("auto", "off")]
    assert plain[0] < plain[1]


def test_each_setting_about_memory_changes_the_training_that_it_is_about() -> None:
    plain = one("distill")
    assert one("distill", train={"checkpointing": "on"}).total < plain.total - 0.7 * plain.step
    assert one("distill", train={"batch": 16}).step == pytest.approx(2 * plain.step, rel=0.05)
    added = one("distill", train={"accumulate": 4})
    assert added.total - plain.total == min(plain.gradients, plain.step + plain.passing)
    assert one("distill", distill={"teachers": {"precision": "float32"}}).teachers == 4 * job().model.parameters.total
    assert plain.teachers == rounded_bytes(job().model) < 2 * job().model.parameters.total
    assert one("distill", quantize=None).step != plain.step
    tuned = {value: one("tune", train={"precision": value}).step for value in ("float32", "bfloat16", "auto")}
    assert tuned["bfloat16"] < 0.8 * tuned["float32"] == 0.8 * tuned["auto"]
    whole = {"micro_batch": 32, "checkpointing": "off"}
    assert one("tune", "cuda", train=whole).step == tuned["bfloat16"]


def test_an_optimizer_with_moments_in_8_bits_takes_a_quarter_of_theirs() -> None:
    plain, rounded = one("distill"), one("distill", train={"optimizer": "adamw-8bit"})
    assert plain.weights - rounded.weights == pytest.approx(5.97 * plain.parameters, rel=1e-3)
    assert rounded.gradients - plain.gradients == STEPPED_BYTES
    assert estimate(job()).disk_bytes - estimate(job(train={"optimizer": "adamw-8bit"})).disk_bytes > 11 * plain.parameters


def test_moments_in_8_bits_are_warned_of_on_a_cpu() -> None:
    facts = decoder_facts("llama", SMOLLM2)
    recipes = (Recipe.model_validate({**LANGUAGE, "train": {"optimizer": each}}) for each in ("adamw", "adamw-8bit"))
    plain, rounded = (preflight(facts, TEXTS, recipe, Evaluate()) for recipe in recipes)
    (said,) = set(rounded.warnings) - set(plain.warnings)
    assert "is for GPUs" in said


def test_a_card_needs_no_more_than_the_least_that_the_engine_may_choose() -> None:
    whole = {"micro_batch": 32, "checkpointing": "off"}
    sizes = [
        one("tune", "cuda", train=each).total
        for each in (whole, whole | {"micro_batch": 4}, whole | {"checkpointing": "auto"}, {})
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.7 * sizes[0]
    assert one("tune").total == one("tune", train=whole).total  # on a CPU nothing is tried
    # Whole batches where they take less than gradients that stay beside parts of them.
    few = next(trainings(job(LLAMA3, LLAMA3.vocabulary, train={"batch": 2}), "cuda"))
    assert few.total == few.weights + few.gradients
    assert not few.added


def test_gradients_take_the_place_of_activations() -> None:
    few, many = (next(trainings(job(LLAMA3, LLAMA3.vocabulary, train={"batch": batch}), "cpu")) for batch in (1, 64))
    assert few.step + few.passing < few.gradients < many.step
    assert few.total == few.weights + few.gradients
    assert many.total == many.weights + many.step + many.passing


def test_what_nobody_trains_needs_no_step() -> None:
    untrained = job(prepare={"epochs": 0}, distill=None)
    assert largest_part(untrained) == UNTRAINED_BYTES * untrained.model.parameters.total
    assert estimate(untrained).memory_bytes == round(KEPT_FREED * (PROCESS_BYTES + largest_part(untrained)))
    small = Shape(layers=2, hidden=64, heads=4, ffn=4096, vocabulary=100, groups=4, head_size=16)
    solved = job(small, prepare={"epochs": 0}, distill=None)
    assert largest_part(solved) == cut_bytes(solved, "cpu") > UNTRAINED_BYTES * solved.model.parameters.total
    alone = job(small, prepare={"epochs": 0}, distill=None, prune={"reconstruct": False})
    assert cut_bytes(alone, "cpu") < cut_bytes(solved, "cpu") / 5
    searched = (cut_bytes(job(prune={"search": "solver", "reconstruct": each}), "cpu") for each in (True, False))
    assert len(set(searched)) == 1, "a search's cut is not solved again"
    assert cut_bytes(job(small, prune=None), "cpu") == 0


def test_what_teachers_answered_is_in_memory_while_it_is_learned() -> None:
    assert one("distill").states == one("distill", "cuda").states == 2 * 576 * 781 * 512
    assert one("tune").states == 0


def test_of_experts_those_that_a_token_is_sent_to_keep_activations() -> None:
    assert V2_LITE.experts is not None
    changed = ({}, {"chosen": 12}, {"count": 128})
    shapes = (V2_LITE.model_copy(update={"experts": V2_LITE.experts.model_copy(update=each)}) for each in changed)
    plain, twice, more = (next(trainings(job(shape, 102400), "cpu")) for shape in shapes)
    assert 1.2 * plain.step < twice.step < 2 * plain.step
    assert more.step == plain.step
    assert more.gradients > 1.8 * plain.gradients


def test_a_card_holds_what_trains_and_the_host_what_is_read_and_written() -> None:
    large = job(LLAMA3, LLAMA3.vocabulary)
    card, host = card_memory(large)
    parameters = large.model.parameters.total
    assert card > CONTEXT_BYTES + 16 * parameters  # what AdamW steps with; the best weights are on the host
    assert LIBRARIES_BYTES + (UNTRAINED_BYTES + 4) * parameters < host < 1.1 * (UNTRAINED_BYTES + 4 + 1) * parameters
    assert (card, host) == (estimate(large).card_bytes, estimate(large).host_bytes_with_card)
    assert card_memory(job(LLAMA3, LLAMA3.vocabulary, train={"checkpointing": "on"}))[0] <= card
    untrained = job(LLAMA3, LLAMA3.vocabulary, prepare={"epochs": 0}, distill=None)
    assert 4 * parameters < card_memory(untrained)[0] < 12 * parameters


def test_a_teacher_that_nothing_asks_is_on_the_host_beside_a_card() -> None:
    """A card has room for it where it teaches; a CPU's memory has it always."""
    held = 4 * job().model.parameters.total
    assert (idle_bytes(job(), "cpu"), idle_bytes(job(), "cuda"), idle_bytes(job(distill=None), "cpu")) == (held, 0, 0)
    for importance in ("l1", "taylor"):
        both = {device: cut_bytes(job(prune={"importance": importance}), device) for device in ("cpu", "cuda")}
        assert both["cpu"] - both["cuda"] == held
    taught = cut_bytes(job(prune={"importance": "taylor"}), "cuda")
    assert taught == cut_bytes(job(prune={"importance": "taylor"}, distill=None), "cuda")
    for changes in ({"quantize": {"qat": {}}}, {"prune": {"recovery": {"epochs": 2}}}):
        name = "qat" if "quantize" in changes else "recover"
        (idle,) = (each.teachers for each in trainings(job(**changes), "cuda") if each.name == name)
        (there,) = (each.teachers for each in trainings(job(**changes), "cpu") if each.name == name)
        assert (idle, there) == (0, held)
    asked = job(prune={"recovery": {"epochs": 2, "by": "teacher"}})
    assert next(each.teachers for each in trainings(asked, "cuda") if each.name == "recover") > 0
    (card, host), (alone, without) = (card_memory(job(prepare={"epochs": 0}, distill=each)) for each in ({}, None))
    assert card > alone
    assert host - without >= KEPT_FREED * held - 1


def test_a_job_from_file_to_file_needs_no_card_if_its_model_is_never_whole() -> None:
    recipe = Recipe.model_validate({"prepare": {"epochs": 0}, "prune": None, "distill": None})
    huge = LLAMA3.model_copy(update={"layers": 80, "hidden": 8192, "heads": 64, "ffn": 28672})
    for shape, whole in ((LLAMA3, False), (huge, False), (SMOLLM2, True)):
        facts = decoder_facts("llama", shape, 0 if whole else shape.vocabulary)
        found = preflight(facts, TEXTS, recipe, Evaluate()).estimate
        assert (found.card_bytes > 0) == whole
        assert found.host_bytes_with_card >= found.memory_bytes


def test_a_card_has_room_for_a_model_that_lm_eval_asks() -> None:
    """In a process of its own, while the engine's models are on the host: of a small model that is more than its training."""
    recipe, asked = Recipe.model_validate(LANGUAGE), JobEvaluate(lm_eval=LmEval(tasks=("arc_easy",)))
    tiny = SMOLLM2.model_copy(update={"layers": 2, "vocabulary": 1000})
    for shape, outputs, adds in ((tiny, 0, True), (LLAMA3, LLAMA3.vocabulary, False)):
        facts = decoder_facts("llama", shape, outputs)
        plain, found = (preflight(facts, TEXTS, recipe, each).estimate.card_bytes for each in (JobEvaluate(), asked))
        assert (found > plain) == adds
        assert found >= 2 * CONTEXT_BYTES + HARNESS_BYTES + 4 * facts.parameters.total


def test_a_teacher_in_8_bits_keeps_tables_and_output_layer_in_float32() -> None:
    shape = SMOLLM2.model_copy(update={"vocabulary": 10})
    assert rounded_bytes(Counted(shape, Parameters(total=100, embedding=20, other=80))) == 4 * 20 + 80
    assert rounded_bytes(Counted(shape, Parameters(total=100, embedding=20, other=80), spoken=30)) == 4 * 50 + 50


def test_devices_share_what_is_sharded_and_each_has_the_rest() -> None:
    """An 8-billion model: on eight cards trainings take half of what they take on one, and what is not sharded decides."""
    alone, eight = (one("distill", "cuda", train={"devices": devices, "micro_batch": 8}) for devices in (1, 8))
    assert (eight.devices, eight.parameters, eight.states) == (8, alone.parameters, alone.states)
    assert alone.weights / 8 < eight.weights < alone.weights / 4
    assert alone.teachers / 8 < eight.teachers < alone.teachers
    assert eight.passing == alone.passing
    assert eight.step < alone.step
    assert eight.copies == alone.copies // 8
    assert one("distill", "cuda", train={"devices": 8}) == eight  # whole batches, of which each takes a part
    assert eight.plain > eight.teachers
    large = {devices: job(LLAMA3, LLAMA3.vocabulary, train={"devices": devices, "batch": 8}) for devices in (1, 8)}
    (whole, host), (each, hosts) = (card_memory(large[devices]) for devices in (1, 8))
    most = {devices: max(one.total - one.copies for one in trainings(large[devices], "cuda")) for devices in large}
    assert most[8] < 0.6 * most[1]  # the output layer's loss is whole on each
    assert cut_bytes(large[8], "cuda") < most[8]  # the teacher is on the host while one process cuts
    assert each == CONTEXT_BYTES + round(KEPT_FREED * most[8]) < whole
    assert hosts > host + 7 * LIBRARIES_BYTES
    # On a CPU all are in one memory: what is not sharded is there as often as there are processes.
    two = job(train={"devices": 2})
    assert largest_part(two) > largest_part(job()) + PROCESS_BYTES
    saved = saved_bytes("adamw", two.model.parameters.total)  # whole, in the first alone
    assert largest_part(two) == max(PROCESS_BYTES + 2 * (found.total + found.states) + saved for found in trainings(two, "cpu"))


def test_each_further_process_has_other_teachers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three teachers, two beside the guide; on a card those whose states are kept leave their layers on the host."""

    def asked(devices: int, **distill: Any) -> PlannedJob:
        distill = {"teachers": {"seeds": 3}, "kept": None, "spill_gib": 0, **distill}
        return job(prepare={"epochs": 1}, train={"devices": devices}, distill=distill)

    def further(device: str, devices: int = 4, **distill: Any) -> int:
        return list(trainings(asked(devices, **distill), device))[-1].further

    parameters = job().model.parameters
    assert further("cpu") == 4 * 2 * parameters.embedding
    assert further("cuda") == 4 * 2 * parameters.total
    assert further("cuda", 1) == further("cpu", 1) == further("cuda", kept=16) == 0  # a file has what they said
    hosts = [card_memory(asked(4, **distill))[1] for distill in ({}, {"kept": 16})]
    assert hosts[0] - hosts[1] > 3 * further("cuda")
    disks = [estimate(asked(devices)).disk_bytes for devices in (1, 2, 4)]
    assert disks[2] == disks[1] > disks[0] + 4 * 4 * parameters.other  # the student and three teachers
    monkeypatch.setattr(teacher_cost, "TEACHER_BYTES", 0)
    assert further("cuda") == 0  # they are on the cards
    assert further("cpu") == 4 * 2 * parameters.embedding


def test_what_a_step_keeps_is_of_each_layers_own_units() -> None:
    shape = Shape(layers=2, hidden=64, heads=4, ffn=256, vocabulary=100)
    own, wide, narrow = (step_bytes(each, 8, 16) for each in (shape.with_ffns((256, 128)), shape, shape.with_ffns((128, 128))))
    assert 2 * own == wide + narrow
    assert step_bytes(shape.with_ffns((256, 128)), 8, 16, recompute=True) == step_bytes(shape, 8, 16, recompute=True)
