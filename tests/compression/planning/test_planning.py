"""A preflight says what a job will become, and refuses by name what cannot be."""

from typing import Any

import pytest
from pydantic import ValidationError

from compression.models.architectures.families import ARCHITECTURE_SPECS, BERT, XLM_ROBERTA
from compression.models.architectures.shapes import parameters_at
from compression.planning.artifact_work import scored
from compression.planning.counted import Counted
from compression.planning.estimator import Estimate, PlannedJob, artifact_bytes, planned_steps
from compression.planning.multi_dataset import preflight_several
from compression.planning.network_rules import check_recomputing
from compression.planning.preflight import check_task, preflight
from compression.planning.rates import REFERENCE
from compression.schema.errors import CompressionError, InvalidSpec, LabelMismatch, UnsupportedShape
from compression.schema.recipe.augment import Augment, BackTranslation, Synonyms
from compression.schema.recipe.base import Task
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.presets import ARTICLE, QUICK, STANDARD, preset
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Evaluate, JobEvaluate, Prepare, Recipe, Train
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.tasks import JUDGED
from compression.schema.validation import DataFacts, ModelFacts
from tests.support.facts import SMOLLM2, TEXTS, decoder_facts

SHAPE = Shape(layers=6, hidden=384, heads=12, ffn=1536, vocabulary=30522)
OWN = {"family": BERT.name, "architecture": "BertModel", "shape": SHAPE, "max_positions": 512, "labels": None}
PARAMETERS = parameters_at(BERT, SHAPE, rows=514, outputs=None)
MODEL = ModelFacts(**OWN, parameters=PARAMETERS, dtype="float32", bytes=90_868_376)
COUNTS = {"train": {"negative": 1500, "positive": 2500}}
ROWS = {"train": 4000, "validation": 500, "test": 1000}
DATA = DataFacts(labels=("negative", "positive"), rows=ROWS, label_counts=COUNTS, mean_words=15.0, longest_words=146)


HEADED = MODEL.model_copy(update={"architecture": "BertForSequenceClassification", "labels": ("positive", "negative")})


def test_what_only_the_worker_finds_out_is_said_with_its_bounds() -> None:
    fast = Prune(axes=("ffn", "layers"), target_latency=TargetLatency(speed_up=4))
    plan = preflight(MODEL, DATA, Recipe(prune=fast), Evaluate())
    assert plan.shape == SHAPE
    (said,) = plan.warnings
    assert f"{plan.parameters.total:,}" in said
    assert "measured on the worker" in said
    slower = preflight(MODEL, DATA, Recipe(prune=fast.model_copy(update={"target_latency": None})), Evaluate())
    assert plan.estimate.minutes > slower.estimate.minutes
    (said,) = preflight(MODEL, DATA, Recipe(prune=Prune(axes=("ffn", "vocabulary"))), Evaluate()).warnings
    assert f"up to {30521 * 384:,} parameters" in said
    some = Prune(ratio={"ffn": 0.3, "vocabulary": 0.5})
    assert f"up to {15261 * 384:,} parameters" in preflight(MODEL, DATA, Recipe(prune=some), Evaluate()).warnings[0]
    # What cannot be reached with all tokens may be without some: the worker decides.
    deep = Prune(axes=("ffn", "vocabulary"), target_params=0.5)
    assert preflight(MODEL, DATA, Recipe(prune=deep), Evaluate()).shape.ffn == 320


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ratio": {"ffn": 0.3}, "axes": ["ffn", "layers"]}, "ratio does not"),
        ({"ratio": {"ffn": 0.3, "layers": 0.3}, "axes": ["ffn"]}, "axes does not"),
        ({"ratio": {"hidden": 1.3}}, "less than 1"),
        ({"ratio": {"width": 0.3}}, "Extra inputs"),
        ({"target_params": 0.5, "target_latency": {"speed_up": 2}}, "name one of"),
        ({"target_params": 0.5, "target_bytes": 0.5}, "name one of"),
        ({"target_latency": {}}, "either"),
        ({"target_latency": {"speed_up": 0.5}}, "greater than 1"),
        ({"axes": ["vocabulary"], "target_params": 0.5}, "other than vocabulary"),
        ({"steps": 2}, "recovery"),
        ({"steps": 4, "recovery": {"epochs": 3}}, "recovery"),
    ],
)
def test_keys_of_a_cut_that_do_not_agree_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        Recipe.model_validate({"prune": settings})
    within = (), ("target_latency",), ("target_latency", "speed_up"), ("ratio", "hidden"), ("ratio", "width")
    assert caught.value.errors()[0]["loc"] in [("prune", *place) for place in within]


@pytest.mark.parametrize(
    ("units", "prune", "said"),
    [
        (1536, Prune(axes=("ffn", "experts", "vocabulary"), target_params=0.3), "no axis 'experts'"),
        (96, Prune(axes=("ffn",), multiple=256, target_latency=TargetLatency(speed_up=2)), "0 feed-forward units"),
    ],
)
def test_a_target_hides_no_cut_that_cannot_be(units: int, prune: Prune, said: str) -> None:
    """What the words of the texts may still bring about is the target alone."""
    model = MODEL.model_copy(update={"shape": SHAPE.model_copy(update={"ffn": units})})
    with pytest.raises(UnsupportedShape, match=said):
        preflight(model, DATA, Recipe(prune=prune), Evaluate())


def test_a_recipe_of_ratios_comes_back_from_json_as_it_went() -> None:
    for settings in ({"ratio": {"heads": 0.5, "layers": 0.3}}, {"ratio": 0.4}, {"ratio": {"ffn": 0.2, "vocabulary": 0.5}}):
        recipe = Recipe.model_validate({"prune": settings})
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Prune(ratio={"layers": 0.3, "heads": 0.5}).axes == ("hidden", "heads", "layers")
    kinds = Recipe.model_json_schema()["$defs"]["Prune"]["properties"]["ratio"]["anyOf"]
    assert [kind.get("type", kind.get("$ref")) for kind in kinds] == ["number", "#/$defs/AxisRatios"]


def test_without_pruning_the_shape_stays() -> None:
    plan = preflight(MODEL, DATA, Recipe(prune=None), Evaluate())
    assert (plan.shape, plan.parameters) == (SHAPE, plan.baseline_parameters)


@pytest.mark.parametrize(
    ("error", "param", "changes"),
    [
        (InvalidSpec, "recipe.train.max_length", {"recipe": Recipe(train=Train(max_length=513))}),
        (InvalidSpec, "evaluate.length", {"evaluate": Evaluate(length=513)}),
        (InvalidSpec, "evaluate.metric", {"evaluate": JobEvaluate(metric=("f1", "f1"))}),
        (InvalidSpec, "evaluate.positive.0", {"evaluate": JobEvaluate(positive=("maybe",))}),
        (UnsupportedShape, "recipe.prune.axes", {"recipe": Recipe(prune=Prune(axes=("heads",)))}),
        (UnsupportedShape, "recipe.prune.axes", {"recipe": Recipe(prune=Prune(axes=("ffn", "experts")))}),
        (UnsupportedShape, "recipe.prune.ratio", {"recipe": Recipe(prune=Prune(ratio={"hidden": 0.3, "heads": 0.4}))}),
        (UnsupportedShape, "recipe.prune.ratio", {"recipe": Recipe(prune=Prune(ratio=0.99))}),
        (UnsupportedShape, "recipe.prune.ratio", {"recipe": Recipe(prune=Prune(ratio={"layers": 0.95}))}),
        (UnsupportedShape, "recipe.prune.target_params", {"recipe": Recipe(prune=Prune(axes=("ffn",), target_params=0.5))}),
        (LabelMismatch, "config.json:id2label", {"model": HEADED.model_copy(update={"labels": ("negative", "neutral")})}),
    ],
)
def test_what_cannot_be_is_refused_by_name(error: type[CompressionError], param: str, changes: dict[str, object]) -> None:
    given = {"model": MODEL, "data": DATA, "recipe": STANDARD, "evaluate": Evaluate(), **changes}
    with pytest.raises(error, check=lambda problem: problem.param == param):
        preflight(**given)


def test_a_head_may_have_the_labels_in_another_order() -> None:
    preflight(HEADED, DATA, STANDARD, Evaluate())


def test_a_model_that_no_onnx_file_can_hold_is_refused() -> None:
    # XLM-R large: 24 layers, 1,024 channels, 250,002 tokens.
    shape = Shape(layers=24, hidden=1024, heads=16, ffn=4096, vocabulary=250_002)
    parameters = parameters_at(XLM_ROBERTA, shape, rows=515, outputs=None)
    large = MODEL.model_copy(update={"family": XLM_ROBERTA.name, "shape": shape, "parameters": parameters})
    with pytest.raises(UnsupportedShape, match="2 GiB"):
        preflight(large, DATA, STANDARD, Evaluate())


def test_estimates_grow_with_the_work() -> None:
    quick, standard, article = (preflight(MODEL, DATA, recipe, Evaluate()).estimate for recipe in (QUICK, STANDARD, ARTICLE))
    assert max(quick.minutes, standard.minutes) < article.minutes / 2
    more = DATA.model_copy(update={"rows": {**DATA.rows, "train": 40_000}})
    assert preflight(MODEL, more, STANDARD, Evaluate()).estimate.minutes > 5 * standard.minutes
    large = preflight(MODEL, DATA, STANDARD.model_copy(update={"train": Train(batch=256)}), Evaluate()).estimate
    assert large.memory_bytes > 2 * standard.memory_bytes
    # At the least: the baseline's file, its checkpoint, and an int8 file and a checkpoint for each later row.
    # And two saves of a training: weights, both moments, last good and best epoch.
    assert standard.disk_bytes > 2 * MODEL.bytes + 3 * MODEL.bytes // 2 + 2 * 5 * MODEL.bytes


def test_made_rows_are_reckoned_with() -> None:
    def estimate(augment: Augment | None) -> Estimate:
        return preflight(MODEL, DATA, Recipe(distill=Distill(augment=augment)), Evaluate()).estimate

    plain = estimate(None)
    one, three = (estimate(Augment(copies=copies, synonyms=Synonyms())) for copies in (1, 3))
    distilling = plain.minutes - preflight(MODEL, DATA, Recipe(distill=None), Evaluate()).estimate.minutes
    assert plain.minutes + 0.5 * distilling < one.minutes < three.minutes
    assert plain.memory_bytes < one.memory_bytes < three.memory_bytes
    assert estimate(Augment(back_translation=BackTranslation(models=("a", "b")))).minutes > one.minutes
    assert one.minutes < estimate(Augment(splices=1)).minutes < three.minutes  # as many rows, twice as long


@pytest.mark.parametrize("task", ["token-classification", "question-answering"])
def test_texts_that_answers_point_into_are_not_augmented(task: Task) -> None:
    with pytest.raises(InvalidSpec, match=task, check=lambda error: error.param == "recipe.distill.augment"):
        check_task(task, ARTICLE, Evaluate())
    assert preset("article", "text-regression") == ARTICLE
    suited = preset("article", task)
    check_task(task, suited, Evaluate())
    assert suited.distill == ARTICLE.distill.model_copy(update={"augment": None})
    assert (preset("standard", task), preset("quick", task)) == (STANDARD, QUICK)


def test_what_is_unlikely_to_be_meant_is_said() -> None:
    odd = Recipe(prepare=Prepare(epochs=0), prune=Prune(ratio=0.01), distill=None)
    small = DATA.model_copy(
        update={"rows": {"train": 40}, "label_counts": {"train": {"negative": 2, "positive": 38}}, "mean_words": 400.0}
    )
    said = " ".join(preflight(MODEL, small, odd, Evaluate()).warnings)
    about_data = ("train has 40 rows", "no validation and no test", "400 words", "'negative'")
    assert all(part in said for part in (*about_data, "no change", "not trained", "as it was drawn"))


def test_rows_of_test_that_are_in_train_and_rows_without_words_are_told() -> None:
    rows = {"train": 2000, "validation": 300, "test": 400}
    leaked = DATA.model_copy(update={"rows": rows, "repeated": {"validation": 5, "test": 8}, "empty": {"train": 3}})
    said = preflight(MODEL, leaked, STANDARD, Evaluate()).warnings
    assert [one.partition(":")[0] for one in said if "rows of" in one] == [
        "8 of 400 rows of test are in train too, word for word",
        "3 of 2,000 rows of train have no word.",
    ]
    carved = DATA.model_copy(update={"rows": {"train": 2000, "validation": 300}, "repeated": {"train": 50}})
    (told,) = [one for one in preflight(MODEL, carved, STANDARD, Evaluate()).warnings if "rows of" in one]
    assert told.startswith("50 of 2,000 rows of train are there more than once, word for word")
    assert told.endswith("Keep one of each, or send test too.")


ANSWERABLE = {"task": "question-answering", "labels": (), "label_counts": {"train": {"answerable": 900}}}
QUESTIONS = DataFacts(**ANSWERABLE, rows={"train": 900}, mean_words=150, longest_words=700)
TAGS = DATA.model_copy(update={"task": "token-classification"})
NUMBERS = DATA.model_copy(update={"task": "text-regression", "labels": (), "label_counts": {"train": {}}})


@pytest.mark.parametrize(("data", "outputs", "dense"), [(QUESTIONS, 2, False), (TAGS, 2, False), (NUMBERS, 1, True)])
def test_a_task_has_its_own_head(data: DataFacts, outputs: int, dense: bool) -> None:
    recipe = Recipe(train=Train(max_length=384))
    plan = preflight(MODEL, data, recipe, Evaluate())
    assert plan.parameters == parameters_at(BERT, plan.shape, rows=514, outputs=outputs, dense=dense)
    assert not any("are cut" in warning for warning in plan.warnings)
    classifier = HEADED.model_copy(update={"labels": ("a", "b", "c")})
    if data is NUMBERS:
        with pytest.raises(LabelMismatch, match="3 outputs, text-regression needs 1"):
            preflight(classifier, data, recipe, Evaluate())
    else:
        assert any("for another task" in warning for warning in preflight(classifier, data, recipe, Evaluate()).warnings)
    for changes in ({"metric": "f1"}, {"positive": "positive"}):
        with pytest.raises(InvalidSpec, match="for classification"):
            preflight(MODEL, data, recipe, Evaluate.model_validate(changes))


def test_what_a_score_is_asked_for_must_be_there() -> None:
    preflight(MODEL, DATA, STANDARD, Evaluate(metric="matthews", positive="negative"))
    with pytest.raises(InvalidSpec, check=lambda error: error.param == "evaluate.positive"):
        preflight(MODEL, DATA, STANDARD, Evaluate(positive="maybe"))
    with pytest.raises(InvalidSpec, match="no room"):
        preflight(MODEL, QUESTIONS, Recipe(train=Train(max_length=24)), Evaluate(length=16))


def steps(recipe: Recipe, data: DataFacts = DATA) -> int:
    model = Counted(SHAPE, MODEL.parameters)
    return planned_steps(PlannedJob(model, model, data, recipe, Evaluate()))


def test_limits_of_training_show_in_the_forecast() -> None:
    whole = preflight(MODEL, DATA, STANDARD, Evaluate())
    half = preflight(MODEL, DATA, STANDARD.model_copy(update={"train": Train(max_steps=1000)}), Evaluate())
    given = STANDARD.model_copy(update={"prepare": Prepare(epochs=3)})
    assert steps(given) == (3 + 3 + 6) * 125
    assert steps(given.model_copy(update={"train": Train(accumulate=4)})) == (3 + 3 + 6) * 32
    probed = steps(STANDARD)  # some ten epochs, and five probes of 64 steps with a head's warm-ups before them
    assert probed - steps(STANDARD.model_copy(update={"prepare": Prepare(rate=1e-4)})) == pytest.approx(5 * 64, 1)
    assert (10 + 3 + 6) * 125 + 5 * 64 < probed < (10 + 3 + 6) * 125 + 6 * 64
    assert half.estimate.minutes < whole.estimate.minutes
    assert any("after 1000 of about 2738 steps" in warning for warning in half.warnings)
    short = preflight(MODEL, DATA, STANDARD.model_copy(update={"train": Train(max_minutes=0.5)}), Evaluate())
    assert short.estimate.minutes < half.estimate.minutes


def test_an_artifact_s_bytes_follow_its_scheme() -> None:
    parameters = Parameters(total=20_000_000, embedding=12_000_000, other=8_000_000)
    fine, coarse = (Quantize(scheme="weight-only-int4", group_size=size) for size in (32, 128))
    assert artifact_bytes(parameters, None) == 80_000_000
    assert artifact_bytes(parameters, Quantize()) == 21_000_000
    assert artifact_bytes(parameters, fine) == round(1.05 * (12_000_000 + 8_000_000 * 0.625))
    assert artifact_bytes(parameters, coarse) < artifact_bytes(parameters, fine)


def test_several_datasets_are_forecast_one_by_one() -> None:
    more = DATA.model_copy(update={"rows": {"train": 8000, "validation": 500, "test": 90}})
    questions = QUESTIONS.model_copy(update={"rows": {"train": 5000, "validation": 500, "test": 1000}})
    recipe = preset("standard", "question-answering").model_copy(update={"train": Train(max_length=128)})
    each = [preflight(MODEL, data, recipe, Evaluate()) for data in (DATA, more, questions)]
    found = preflight_several(MODEL, {"a": DATA, "b": more, "c": questions}, recipe, Evaluate())
    assert found.estimate.memory_bytes == max(one.estimate.memory_bytes for one in each)
    assert found.estimate.disk_bytes == sum(one.estimate.disk_bytes for one in each)
    assert found.estimate.minutes == pytest.approx(sum(one.estimate.minutes for one in each), abs=0.11)
    assert found.parameters.other == round(sum(one.parameters.other for one in each) / 3)
    assert next(warning for warning in found.warnings if "test has 90 rows" in warning).startswith("b: ")
    wordy = STANDARD.model_copy(update={"distill": Distill(augment=Augment(synonyms=Synonyms()))})
    with pytest.raises(InvalidSpec, match=r"datasets\.1 \(c\): texts of question-answering") as caught:
        preflight_several(MODEL, {"a": DATA, "c": questions}, wordy, Evaluate())
    assert caught.value.param == "recipe.distill.augment"


@pytest.mark.parametrize(
    ("asked", "param", "cause"),
    [
        ({"metric": ["matthews", "auto", "auto"]}, None, ""),
        ({"metric": ["auto", "auto", "accuracy_f1"], "positive": [None, None, "negative"]}, None, ""),
        ({"positive": "negative"}, "evaluate.positive", r"^datasets\.1 \(b\): question-answering has one headline metric"),
        ({"metric": "f1"}, "evaluate.metric", r"^datasets\.1 \(b\): question-answering has one headline metric"),
        (
            {"metric": ["f1", "f1", "auto"]},
            "evaluate.metric.1",
            r"^datasets\.1 \(b\): question-answering has one headline metric",
        ),
        ({"positive": [None, None, "maybe"]}, "evaluate.positive.2", r"^datasets\.2 \(c\): the data has no label 'maybe'"),
        ({"metric": ["f1", "auto"]}, "evaluate.metric", "^metric is a list of 2, and there are 3 datasets"),
    ],
)
def test_each_of_several_datasets_may_have_its_own_metric(asked: dict[str, Any], param: str | None, cause: str) -> None:
    recipe = preset("quick", "question-answering").model_copy(update={"train": Train(max_length=128)})
    parts, evaluate = {"a": DATA, "b": QUESTIONS, "c": DATA}, JobEvaluate.model_validate(asked)
    if param is None:
        preflight_several(MODEL, parts, recipe, evaluate)
        return
    with pytest.raises(InvalidSpec, match=cause, check=lambda error: error.param == param):
        preflight_several(MODEL, parts, recipe, evaluate)


def seconds_of(model: Counted, data: DataFacts) -> float:
    """Return the forecast of scoring a model on two cores."""
    return scored("baseline", model, data, QUICK.train, JobEvaluate()).scoring_seconds(REFERENCE)


def test_a_score_takes_as_long_as_its_model_is_large_and_its_rows_are_long() -> None:
    shape = Shape(layers=24, hidden=896, heads=14, ffn=4864, vocabulary=151936, groups=2, head_size=64)
    qwen = decoder_facts("qwen2", shape, max_positions=32768)
    assert qwen.parameters.other == pytest.approx(358e6, rel=0.01)
    few, many = (DATA.model_copy(update={"rows": {**DATA.rows, "test": test}, "mean_words": 27.0}) for test in (400, 5463))
    seconds = [seconds_of(Counted(shape, qwen.parameters), data) for data in (few, many)]
    a_row = 2 * 2 * qwen.parameters.other * (27 * 1.4 + 2) / REFERENCE.decoder
    assert seconds == pytest.approx([a_row * (400 + 500), a_row * (5463 + 500)], rel=0.01)  # of test and of validation
    # As ever of a small encoder; of a large one by its size.
    large = Shape(layers=24, hidden=1024, heads=16, ffn=4096, vocabulary=30522)
    small, big, long = (
        seconds_of(Counted(one, parameters_at(BERT, one, rows=514, outputs=2)), data)
        for one, data in ((SHAPE, DATA), (large, DATA), (large, DATA.model_copy(update={"mean_words": 60.0})))
    )
    assert small == 15.0
    assert long > 3 * big > 3 * 5 * small


def test_a_preflight_says_where_scores_are_taken_on_a_sample() -> None:
    shape = Shape(layers=24, hidden=896, heads=14, ffn=4864, vocabulary=151936, groups=2, head_size=64)
    qwen = decoder_facts("qwen2", shape, max_positions=32768)
    untrained = Recipe(prepare=Prepare(epochs=0), prune=None, distill=None)

    def said(test: int, recipe: Recipe = untrained) -> list[str]:
        data = DATA.model_copy(update={"rows": {**DATA.rows, "test": test}})
        return [one for one in preflight(qwen, data, recipe, Evaluate()).warnings if "drawn at random" in one]

    assert not said(400)
    (warning,) = said(50_000)
    assert "longer than the 10 minutes that any score may take" in warning
    assert not said(20_000, QUICK)  # which trains for longer
    (warning,) = said(5_000_000, QUICK)
    assert "longer than all training" in warning


def test_checkpointing_is_refused_for_layers_that_cannot_be_computed_again() -> None:
    asked = Recipe(prune=None, distill=None, train=Train(checkpointing="on"))
    preflight(MODEL, DATA, asked, Evaluate())
    mpnet = MODEL.model_copy(update={"family": "mpnet"})
    preflight(mpnet, DATA, Recipe(prune=None, distill=None), Evaluate())
    with pytest.raises(InvalidSpec, match="family mpnet") as refused:
        preflight(mpnet, DATA, asked, Evaluate())
    assert refused.value.param == "recipe.train.checkpointing"
    with pytest.raises(InvalidSpec, match="family mpnet"):
        check_recomputing(asked, ARCHITECTURE_SPECS["mpnet"])


def test_a_language_models_validation_is_read_as_far_as_it_chooses_the_epoch() -> None:
    def read(characters: int, length: int) -> float:
        data = TEXTS.model_copy(update={"characters": {**TEXTS.characters, "validation": characters}})
        model = Counted(SMOLLM2, decoder_facts("llama", SMOLLM2).parameters, tied=True)
        job = PlannedJob(model, model, data, Recipe(train=Train(max_length=length)), Evaluate())
        return job.validated(model, 1.0) / (2 * model.active)

    assert read(4 * 8192, 128) == pytest.approx(8192)
    for length in (128, 512):
        assert read(4 * 10**6, length) == pytest.approx(JUDGED)


def test_several_datasets_share_the_limits_of_training() -> None:
    recipe = STANDARD.model_copy(update={"train": Train(max_steps=100)})
    alone = preflight(MODEL, DATA, STANDARD.model_copy(update={"train": Train(max_steps=50)}), Evaluate())
    found = preflight_several(MODEL, {"a": DATA, "b": DATA}, recipe, Evaluate())
    assert found.estimate.minutes == pytest.approx(2 * alone.estimate.minutes, abs=0.11)
