"""A job's work becomes time on a machine: its rates, its limits, and what finished jobs took there."""

from dataclasses import replace
from typing import Any

import pytest

from compression.planning.corrections import FEWEST_FOR_SHARES, MOST_JOBS, Correction, learn
from compression.planning.preflight import preflight
from compression.planning.preparation import MOST_PROBES, PROBE_JUDGEMENTS, WARM_UPS, expected
from compression.planning.rates import CARD_ROWS, CARD_SHARES, FURTHER_CARD, REFERENCE, SHARES, Rates
from compression.planning.scoring_time import FEWEST_SECONDS
from compression.planning.training_work import simulated_products
from compression.planning.work import EXPORT, TimeLimits, Work, time_work
from compression.schema.recipe.distill import Teachers
from compression.schema.recipe.presets import STANDARD
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Evaluate, Prepare, Recipe, Train
from tests.compression.planning.test_planning import DATA, MODEL

SIMPLE = Rates(
    float32=1e9, bfloat16=2e9, simulated=5e8, teachers=1e9, step_seconds=0.1, bytes=1e8, encoder=1e9, decoder=1e8, rows=10.0
)
TRAINED = Work(stage="baseline", plain_flops=2e11, float32_flops=1e10, steps=50, step_bytes=1e9)  # 100 + 10 + 5 + 10 s
SHIPPED = Work(stage="baseline", encoder_flops=3e10, scored_rows=200, seconds=12)  # 30 s, more than 200 rows alone, + 12 s
TAUGHT = Work(stage="distilled", simulated_flops=1e11, seconds=5)  # 200 + 5 s


def test_each_kind_of_work_has_its_rate() -> None:
    found = time_work([TRAINED, SHIPPED, TAUGHT], SIMPLE)
    assert found.stages == pytest.approx({"baseline": 125 + 42, "distilled": 205})
    assert (found.training, found.total) == pytest.approx((325, 372))
    small = SHIPPED.model_copy(update={"encoder_flops": 1e6})
    assert time_work([small], SIMPLE).total == pytest.approx(200 / 10 + 12)
    decoder = Work(stage="baseline", decoder_flops=3e9)
    assert time_work([decoder], SIMPLE).total == pytest.approx(30)


def test_what_is_done_in_any_case_exceeds_a_budget() -> None:
    fitted = TAUGHT.model_copy(update={"fitted": True, "least": 0.25})
    other = TRAINED.model_copy(update={"fitted": True, "least": 0.5})
    for budget, taken in ((1e-6, 0.25 * 200 + 0.5 * 125), (3.0, 180 - 42 - 5), (60, 325)):
        found = time_work([SHIPPED, fitted, other], SIMPLE, limits=TimeLimits(budget=budget))
        assert found.training == pytest.approx(taken)


def test_a_budget_takes_time_from_what_is_fitted_into_it_and_from_nothing_else() -> None:
    fitted = TAUGHT.model_copy(update={"fitted": True})
    whole = time_work([TRAINED, SHIPPED, fitted], SIMPLE)
    alone = time_work([fitted], SIMPLE).training
    budget = (whole.total - alone / 2) / 60
    half = time_work([TRAINED, SHIPPED, fitted], SIMPLE, limits=TimeLimits(budget=budget))
    assert half.total == pytest.approx(60 * budget)
    assert half.training == pytest.approx(whole.training - alone / 2)
    least = time_work([TRAINED, SHIPPED, fitted], SIMPLE, limits=TimeLimits(budget=1e-3))
    assert least.training == pytest.approx(whole.training - alone)  # the rest does not fit itself
    assert time_work([TRAINED, SHIPPED, fitted], SIMPLE, limits=TimeLimits(budget=1e6)).total == whole.total


def test_a_limit_of_minutes_ends_training_and_nothing_else() -> None:
    found = time_work([TRAINED, SHIPPED, TAUGHT], SIMPLE, limits=TimeLimits(training=1))
    assert found.training == pytest.approx(60)
    assert found.total == pytest.approx(60 + 42 + 5)
    assert time_work([TRAINED, TAUGHT], SIMPLE, limits=TimeLimits(training=100)).total == pytest.approx(330)
    assert time_work([SHIPPED], SIMPLE, limits=TimeLimits(training=1)).total == pytest.approx(42)


def test_an_artifact_is_not_scored_for_longer_than_the_job_trains() -> None:
    long = Work(stage="baseline", encoder_flops=1e15)
    assert time_work([long], SIMPLE).total == FEWEST_SECONDS
    much = TRAINED.model_copy(update={"plain_flops": 2e12})
    found = time_work([much, long, long], SIMPLE)
    assert found.total == pytest.approx(3 * found.training)


def test_datasets_share_a_limit_of_minutes_and_are_scored_as_long_as_each_trains() -> None:
    long = Work(stage="baseline", encoder_flops=1e15)
    much = TRAINED.model_copy(update={"plain_flops": 2e12})
    alone = time_work([much, long], SIMPLE)
    both = [one.model_copy(update={"part": part}) for part in range(2) for one in (much, long)]
    assert time_work(both, SIMPLE).total == pytest.approx(2 * alone.total)
    assert time_work(both, SIMPLE, limits=TimeLimits(training=1)).training == pytest.approx(60)
    uneven = [TRAINED, much.model_copy(update={"part": 1})]
    assert time_work(uneven, SIMPLE, limits=TimeLimits(training=4)).training == pytest.approx(
        min(120, time_work([TRAINED], SIMPLE).training) + 120
    )


def test_factors_multiply_a_stage_and_a_limit_still_holds() -> None:
    factors = {"baseline": 2.0, EXPORT: 9.0}
    found = time_work([TRAINED, SHIPPED, TAUGHT], SIMPLE, factors=factors)
    assert found.stages == pytest.approx({"baseline": 2 * 167, "distilled": 205})
    limited = time_work([TRAINED, SHIPPED, TAUGHT], SIMPLE, factors=factors, limits=TimeLimits(training=1))
    assert limited.total == pytest.approx(60 + 2 * 42 + 5)


def test_a_limit_of_steps_shares_all_training() -> None:
    whole, half = (
        preflight(MODEL, DATA, STANDARD.model_copy(update={"train": Train(max_steps=most)}), Evaluate()).estimate
        for most in (10**6, 100)
    )
    steps = [sum(one.steps for one in found.work) for found in (whole, half)]
    assert steps[1] == pytest.approx(100, rel=0.01)
    assert half.training_minutes == pytest.approx(100 / steps[0] * whole.training_minutes, abs=0.06)


def work_of(**changes: Any) -> tuple[Work, ...]:
    """Return the work of `standard` with such changes."""
    return preflight(MODEL, DATA, STANDARD.model_copy(update=changes), Evaluate()).estimate.work


def flops(**changes: Any) -> tuple[float, ...]:
    """Return the operations of `standard` with such changes: plain, exact, in float32, of teachers, and simulated."""
    kinds = ("plain", "exact", "float32", "teacher", "simulated")
    return tuple(sum(getattr(one, f"{kind}_flops") for one in work_of(**changes)) for kind in kinds)


def test_precision_decides_the_rate_of_the_original_and_of_teachers() -> None:
    plain, exact, float32, teachers, simulated = flops()
    assert flops(train=Train(precision="float32")) == pytest.approx((0, plain, float32 + teachers, 0, simulated))
    asked = STANDARD.distill.model_copy(update={"teachers": Teachers(precision="float32")})
    assert flops(distill=asked) == pytest.approx((plain, 0, float32 + teachers, 0, simulated))
    assert min(plain, float32, teachers, simulated) > exact == 0


@pytest.mark.parametrize(
    ("scheme", "precision", "products"),
    [
        ("dynamic-int8", "auto", ("int8", "bfloat16")),
        ("static-int8", "bfloat16", ("int8", "bfloat16")),
        ("static-int8", "float32", ("int8", "float32")),
        ("weight-only-int4", "auto", ("tf32", "tf32")),
        ("weight-only-int8", "float32", ("float32", "float32")),
    ],
)
def test_schemes_and_precision_decide_what_a_card_multiplies(scheme: str, precision: Any, products: tuple[str, str]) -> None:
    found = work_of(quantize=Quantize(scheme=scheme), train=Train(precision=precision))
    assert {one.products for one in found if one.simulated_flops} == {products}
    recipe = Recipe(quantize=Quantize(scheme=scheme), train=Train(precision=precision))
    backward = "float32" if precision == "float32" else "bfloat16"
    assert simulated_products(recipe, is_network=True) == ("float32", backward)  # convolutions of rounded numbers


def test_further_cards_shorten_the_training_alone_and_processes_of_a_cpu_nothing() -> None:
    four = [one.model_copy(update={"devices": 4}) for one in (TRAINED, SHIPPED)]
    assert time_work(four, SIMPLE) == time_work([TRAINED, SHIPPED], SIMPLE)
    cards = time_work(four, replace(SIMPLE, further=0.5))
    # 100 s of products and 10 of the optimizer's bytes by the speed of 2.5; not the teachers' 10 s, nor 5 s of 50 steps.
    assert (cards.training, cards.total) == pytest.approx((110 / 2.5 + 15, 110 / 2.5 + 15 + 42))
    found = preflight(MODEL, DATA, STANDARD.model_copy(update={"train": Train(devices=4)}), Evaluate()).estimate.work
    assert {one.devices for one in found if one.steps} == {4}


def test_a_device_that_was_measured_has_rates_of_its_own() -> None:
    reference = {"float32": 4e11, "bfloat16": 8e11, "bytes": 1e10}
    one, two = (Rates.measured({name: by * rate for name, rate in reference.items()}, kind="cpu", cores=2) for by in (1, 2))
    assert (one.further, Rates.measured(reference, kind="cuda", cores=4).further) == (0, FURTHER_CARD)
    for name in ("float32", "bfloat16", "simulated", "bytes", "encoder", "decoder", "rows"):
        assert getattr(two, name) == pytest.approx(2 * getattr(one, name))
    assert two.step_seconds == pytest.approx(one.step_seconds / 2)
    assert Rates.measured({**reference, "bfloat16": None}, kind="cpu", cores=2).bfloat16 < one.bfloat16
    card = Rates.measured(reference, kind="cuda", cores=4)
    assert card.encoder == 2 * REFERENCE.encoder  # artifacts are scored by its host's cores
    assert (card.float32, card.bfloat16, card.bytes) == (one.float32, one.bfloat16, one.bytes)
    assert Rates.measured({}, kind="cuda", cores=4) is None
    assert Rates.measured({"float32": 4e11, "bytes": None}, kind="cpu", cores=2) is None


def test_a_card_s_training_follows_from_the_products_that_it_has() -> None:
    """Integers forward and bfloat16 backward, which is twice the work; TF32 where weights alone are rounded."""
    stated = {"float32": 2e13, "tf32": 1e14, "bfloat16": 2e14, "int8": 4e14, "bytes": 1e12}

    def seconds(products: tuple[Any, Any], **less: None) -> float:
        rates = Rates.measured({**stated, **less}, kind="cuda", cores=4)
        assert rates is not None
        return Work(stage="distilled", simulated_flops=3e15, products=products).training_seconds(rates)

    half, rounded, exact = SHARES["bfloat16"] * 2e14, CARD_SHARES["tf32"] * 1e14, SHARES["float32"] * 2e13
    integers = CARD_SHARES["int8"] * 4e14
    assert seconds(("int8", "bfloat16")) == pytest.approx(1e15 / integers + 2e15 / half)
    assert seconds(("int8", "float32")) == pytest.approx(1e15 / integers + 2e15 / exact)
    assert seconds(("tf32", "tf32")) == pytest.approx(3e15 / rounded)
    assert seconds(("float32", "bfloat16")) == pytest.approx(1e15 / exact + 2e15 / half)
    # What a card does not have it does in float32.
    assert seconds(("int8", "bfloat16"), int8=None) == seconds(("float32", "bfloat16"))
    assert seconds(("tf32", "tf32"), tf32=None) == seconds(("float32", "float32"), tf32=None)
    assert seconds(("int8", "bfloat16"), bfloat16=None) == seconds(("int8", "float32"))
    # No CPU tells them apart.
    both = Rates.measured(stated, kind="cpu", cores=2)
    assert both is not None
    assert both.of_simulated("int8", "bfloat16") == both.of_simulated("tf32", "tf32") == SHARES["simulated"] * 2e13


def test_a_card_asks_teachers_in_bfloat16_and_a_cpu_in_float32() -> None:
    stated = {"float32": 2e13, "bfloat16": 2e14, "bytes": 1e12}
    asked, exact = Work(stage="distilled", teacher_flops=1e15), Work(stage="distilled", float32_flops=1e15)
    rates = {kind: Rates.measured({**stated}, kind=kind, cores=4) for kind in ("cpu", "cuda")}
    assert asked.training_seconds(rates["cuda"]) == pytest.approx(1e15 / (SHARES["bfloat16"] * 2e14))
    assert exact.training_seconds(rates["cuda"]) == pytest.approx(1e15 / (SHARES["float32"] * 2e13))
    assert asked.training_seconds(rates["cpu"]) == exact.training_seconds(rates["cpu"]) == exact.training_seconds(rates["cuda"])
    assert asked.training_seconds(REFERENCE) == exact.training_seconds(REFERENCE)
    assert asked.limited(0.5).teacher_flops == 5e14


def test_a_gpu_scores_the_artifacts_whose_operators_it_has() -> None:
    reference = {"float32": 4e11, "bytes": 1e10}
    plain = Rates.measured(reference, kind="cuda", cores=2)
    card = Rates.measured(reference, kind="cuda", cores=2, on_card=["onnx"])
    assert plain is not None
    assert card is not None
    large, small = (Work(stage="baseline", encoder_flops=flops, scored_rows=200, format="onnx") for flops in (6e12, 1.0))
    assert large.scoring_seconds(card) == pytest.approx(6e12 / card.float32)
    assert small.scoring_seconds(card) == pytest.approx(200 / CARD_ROWS)
    for other in (large.model_copy(update={"format": ""}), large.model_copy(update={"format": "gguf-q8-0"})):
        assert other.scoring_seconds(card) == other.scoring_seconds(plain) == large.scoring_seconds(plain)


@pytest.mark.parametrize(
    ("scheme", "quantized"), [("dynamic-int8", ""), ("static-int8", ""), ("weight-only-int8", "onnx"), (None, "onnx")]
)
def test_activations_in_8_bits_keep_an_onnx_file_from_a_gpu(scheme: str | None, quantized: str) -> None:
    changes = {"quantize": None if scheme is None else Quantize(scheme=scheme)}
    recipe = STANDARD.model_copy(update={**changes, "artifacts": ("onnx", "transformers", "triton", "openvino-f16")})
    found = preflight(MODEL, DATA, recipe, Evaluate()).estimate.work
    scores = [(one.stage, one.format) for one in found if one.encoder_flops]
    assert scores[0] == ("baseline", "onnx")
    assert {kind for stage, kind in scores if stage not in ("baseline", EXPORT)} == {quantized}
    assert [kind for stage, kind in scores if stage == EXPORT] == ["transformers", quantized and "triton", "openvino-f16"]


def test_training_reads_validation_after_each_epoch_and_probe() -> None:
    def flops(rows: int, prepare: Prepare) -> float:
        data = DATA.model_copy(update={"rows": {**DATA.rows, "validation": rows}})
        recipe = Recipe(prepare=prepare, quantize=None, prune=None, distill=None)
        return sum(one.float32_flops for one in preflight(MODEL, data, recipe, Evaluate()).estimate.work)

    once = flops(500, Prepare(epochs=1)) - flops(0, Prepare(epochs=1))
    assert flops(500, Prepare(epochs=4)) - flops(0, Prepare(epochs=4)) == pytest.approx(4 * once)
    assert flops(1000, Prepare(epochs=1)) - flops(0, Prepare(epochs=1)) == pytest.approx(2 * once)
    open_end = flops(500, Prepare()) - flops(0, Prepare())
    assert open_end == pytest.approx((10 + WARM_UPS + PROBE_JUDGEMENTS * MOST_PROBES) * once)
    assert flops(500, Prepare(epochs=0)) == flops(0, Prepare(epochs=0))


@pytest.mark.parametrize(
    ("prepare", "steps", "epochs"),
    [
        (Prepare(), 100, 10),
        (Prepare(patience=2), 100, 7),
        (Prepare(patience=2), 24, 13),  # an epoch has half the steps that count as one without a gain
        (Prepare(patience=2), 1, 100),
        (Prepare(epochs=4), 100, 4),
        (Prepare(epochs=4, patience=2), 100, 4),
    ],
)
def test_open_training_is_expected_to_end_by_its_patience(prepare: Prepare, steps: int, epochs: int) -> None:
    assert expected(prepare, steps) == epochs


TAKEN = {"baseline": 636.6, "quantized": 47.3, "pruned": 58.1, "distilled": 237.3, EXPORT: 22.4}
"""Seconds of `standard` with an OpenVINO form on the demo's data, on two cores of an AMD EPYC, with nothing beside it
(2026-11-29); what its worker had measured is MEASURED."""
MEASURED = {"float32": 1.946e11, "bfloat16": 4.150e11, "bytes": 4.678e10}


def test_a_whole_job_is_forecast_within_a_quarter_of_what_it_took() -> None:
    rows = {"train": 4380, "validation": 626, "test": 1411}
    data = DATA.model_copy(update={"rows": rows, "mean_words": 14.87})
    found = preflight(MODEL, data, STANDARD.model_copy(update={"artifacts": ("onnx", "openvino-int8")}), Evaluate()).estimate
    rates = Rates.measured(MEASURED, kind="cpu", cores=2)
    assert rates is not None
    times = time_work(found.work, rates)
    assert times.total == pytest.approx(sum(TAKEN.values()), rel=0.25)
    for stage in ("baseline", "quantized", "pruned", "distilled"):
        assert times.stages[stage] == pytest.approx(TAKEN[stage], rel=0.25)


def test_nothing_is_learnt_from_nothing() -> None:
    assert learn([]) == learn([{}]) == Correction()
    assert Correction().factors(["baseline"]) == {"baseline": 1.0}


def test_a_factor_is_the_median_ratio_drawn_towards_one() -> None:
    once = learn([{"baseline": (10.0, 80.0)}])
    assert once.stages["baseline"] == pytest.approx(8 ** (2 / 3))
    assert (once.jobs, once.spread) == (1, None)
    thrice = learn([{"baseline": (10.0, 10.0 * ratio)} for ratio in (1.9, 2.0, 40.0)])  # one was disturbed
    assert thrice.stages["baseline"] == pytest.approx(2 ** (3 / 3.5))
    assert thrice.factors(["baseline", "pruned"]) == {"baseline": thrice.stages["baseline"], "pruned": thrice.overall}
    many = learn([{"baseline": (10.0, 20.0)}] * 500)
    assert (many.jobs, many.stages["baseline"]) == (MOST_JOBS, pytest.approx(2 ** (20 / 20.5)))


def test_three_jobs_bring_three_others_within_a_fifth() -> None:
    """A machine half as fast as was thought, whose stages vary by a tenth."""
    taught = [{"baseline": (300.0, 600.0 * off), "distilled": (100.0, 130.0 / off)} for off in (0.9, 1.0, 1.1)]
    found = learn(taught)
    for off in (0.92, 1.03, 1.08):
        took, forecast = (
            600 * off + 130 / off,
            sum(found.stages[stage] * time for stage, time in (("baseline", 300), ("distilled", 100))),
        )
        assert forecast == pytest.approx(took, rel=0.2)
        low, high = (forecast * each for each in found.spread)
        assert low < took * 1.05
        assert high > took * 0.95


def test_a_forecast_lies_within_its_spread_though_it_is_still_drawn_towards_what_was_forecast_first() -> None:
    found = learn([{"baseline": (100.0, took)} for took in (300.0, 305.0, 310.0)])
    assert found.stages["baseline"] < 3  # all three took longer than the corrected forecast
    low, high = found.spread
    assert low == 1.0 < high


def test_the_spread_is_of_what_a_correction_leaves_and_leaves_outliers_out_where_jobs_are_many() -> None:
    jobs = [{"baseline": (10.0, 20.0 * off)} for off in (0.8, 1.0, 1.3)]
    found = learn(jobs)
    assert found.spread == pytest.approx([2 * off / found.stages["baseline"] for off in (0.8, 1.3)])
    many = learn([*[{"baseline": (10.0, 20.0)}] * FEWEST_FOR_SHARES, {"baseline": (10.0, 500.0)}])
    assert many.spread[1] < 1.1
