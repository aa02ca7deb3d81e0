"""A preflight says what a job will become, and refuses by name what cannot be."""

import pytest

from compression.catalog import (
    BERT,
    ELECTRA,
    XLM_ROBERTA,
    Estimate,
    artifact_bytes,
    check_task,
    encoder_parameters,
    planned_shape,
    planned_steps,
    preflight,
    preflight_several,
)
from compression.errors import CompressionError, InvalidSpec, LabelMismatch, UnsupportedShape
from compression.recipe import (
    ARTICLE,
    QUICK,
    STANDARD,
    Augment,
    BackTranslation,
    Distill,
    Evaluate,
    Prepare,
    Prune,
    Quantize,
    Recipe,
    Synonyms,
    Task,
    Train,
    preset,
)
from compression.report import DataFacts, ModelFacts, Parameters, Shape

SHAPE = Shape(layers=6, hidden=384, heads=12, ffn=1536, vocabulary=30522)
MODEL = ModelFacts(
    family=BERT.name,
    architecture="BertModel",
    shape=SHAPE,
    max_positions=512,
    parameters=encoder_parameters(BERT, SHAPE, rows=514, labels=None),
    labels=None,
    dtype="float32",
    bytes=90_868_376,
)
DATA = DataFacts(
    labels=("negative", "positive"),
    rows={"train": 4000, "validation": 500, "test": 1000},
    label_counts={"train": {"negative": 1500, "positive": 2500}},
    mean_words=15.0,
    longest_words=146,
)


def test_the_plan_is_the_shape_that_the_config_can_express_and_its_exact_count() -> None:
    plan = preflight(MODEL, DATA, STANDARD, Evaluate())
    assert plan.shape == Shape(layers=6, hidden=256, heads=8, ffn=1088, vocabulary=30522)
    assert plan.parameters == encoder_parameters(BERT, plan.shape, rows=514, labels=2)
    assert plan.baseline_parameters.total == MODEL.parameters.total + 2 * 384 + 2
    assert plan.warnings == ()


def test_without_pruning_the_shape_stays() -> None:
    plan = preflight(MODEL, DATA, Recipe(prune=None), Evaluate())
    assert plan.shape == SHAPE
    assert plan.parameters == plan.baseline_parameters


@pytest.mark.parametrize(
    ("error", "param", "changes"),
    [
        (InvalidSpec, "recipe.train.max_length", {"recipe": Recipe(train=Train(max_length=513))}),
        (InvalidSpec, "evaluate.length", {"evaluate": Evaluate(length=513)}),
        (UnsupportedShape, "recipe.prune.axes", {"recipe": Recipe(prune=Prune(axes=("hidden",)))}),
        (UnsupportedShape, "recipe.prune.ratio", {"recipe": Recipe(prune=Prune(ratio=0.99))}),
        (
            LabelMismatch,
            "config.json:id2label",
            {
                "model": MODEL.model_copy(
                    update={"architecture": "BertForSequenceClassification", "labels": ("negative", "neutral")}
                )
            },
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(error: type[CompressionError], param: str, changes: dict[str, object]) -> None:
    given = {"model": MODEL, "data": DATA, "recipe": STANDARD, "evaluate": Evaluate(), **changes}
    with pytest.raises(error) as caught:
        preflight(**given)  # type: ignore[arg-type]
    assert caught.value.param == param


def test_a_head_may_have_the_labels_in_another_order() -> None:
    preflight(MODEL.model_copy(update={"labels": ("positive", "negative")}), DATA, STANDARD, Evaluate())


def test_a_model_that_no_onnx_file_can_hold_is_refused() -> None:
    # XLM-R large: 24 layers, 1,024 channels, 250,002 tokens.
    shape = Shape(layers=24, hidden=1024, heads=16, ffn=4096, vocabulary=250_002)
    large = MODEL.model_copy(
        update={
            "family": XLM_ROBERTA.name,
            "shape": shape,
            "parameters": encoder_parameters(XLM_ROBERTA, shape, rows=515, labels=None),
        }
    )
    with pytest.raises(UnsupportedShape, match="2 GiB"):
        preflight(large, DATA, STANDARD, Evaluate())


def test_a_stream_never_becomes_as_wide_as_narrow_tables() -> None:
    # ELECTRA small: at half of its heads the stream would be 128 wide, like its tables, and lose its projection.
    shape = Shape(layers=12, hidden=256, heads=4, ffn=1024, vocabulary=30522, embedding=128)
    assert planned_shape(ELECTRA, shape, Prune(ratio=0.5)).hidden == 192
    assert planned_shape(ELECTRA, shape, Prune(ratio=0.75)).hidden == 64


def test_estimates_grow_with_the_work() -> None:
    quick, standard, article = (preflight(MODEL, DATA, recipe, Evaluate()).estimate for recipe in (QUICK, STANDARD, ARTICLE))
    assert quick.minutes < standard.minutes < article.minutes
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


@pytest.mark.parametrize("task", ["token-classification", "question-answering"])
def test_texts_that_answers_point_into_are_not_augmented(task: Task) -> None:
    with pytest.raises(InvalidSpec, match=task) as caught:
        check_task(task, ARTICLE, Evaluate(), ())
    assert caught.value.param == "recipe.distill.augment"
    assert preset("article", "text-regression") == ARTICLE
    suited = preset("article", task)
    check_task(task, suited, Evaluate(), ())
    assert suited.distill == ARTICLE.distill.model_copy(update={"augment": None})  # type: ignore[union-attr]
    assert preset("standard", task) == STANDARD


def test_what_is_unlikely_to_be_meant_is_said() -> None:
    odd = Recipe(prepare=Prepare(epochs=0), prune=Prune(ratio=0.01), distill=None)
    small = DATA.model_copy(
        update={"rows": {"train": 40}, "label_counts": {"train": {"negative": 2, "positive": 38}}, "mean_words": 400.0}
    )
    said = " ".join(preflight(MODEL, small, odd, Evaluate()).warnings)
    for part in (
        "train has 40 rows",
        "no validation and no test",
        "400 words",
        "'negative'",
        "no change",
        "not trained",
        "as it was drawn",
    ):
        assert part in said


QUESTIONS = DataFacts(
    task="question-answering",
    labels=(),
    rows={"train": 900},
    label_counts={"train": {"answerable": 900}},
    mean_words=150,
    longest_words=700,
)
TAGS = DATA.model_copy(update={"task": "token-classification"})
NUMBERS = DATA.model_copy(update={"task": "text-regression", "labels": (), "label_counts": {"train": {}}})


@pytest.mark.parametrize(("data", "outputs", "dense"), [(QUESTIONS, 2, False), (TAGS, 2, False), (NUMBERS, 1, True)])
def test_a_task_has_its_own_head(data: DataFacts, outputs: int, dense: bool) -> None:
    recipe = Recipe(train=Train(max_length=384))
    plan = preflight(MODEL, data, recipe, Evaluate())
    assert plan.parameters == encoder_parameters(BERT, plan.shape, rows=514, labels=outputs, dense=dense)
    assert not any("are cut" in warning for warning in plan.warnings)
    classifier = MODEL.model_copy(update={"architecture": "BertForSequenceClassification", "labels": ("a", "b", "c")})
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
    with pytest.raises(InvalidSpec) as caught:
        preflight(MODEL, DATA, STANDARD, Evaluate(positive="maybe"))
    assert caught.value.param == "evaluate.positive"
    with pytest.raises(InvalidSpec, match="no room"):
        preflight(MODEL, QUESTIONS, Recipe(train=Train(max_length=24)), Evaluate(length=16))


def test_limits_of_training_show_in_the_forecast() -> None:
    whole = preflight(MODEL, DATA, STANDARD, Evaluate())
    half = preflight(MODEL, DATA, STANDARD.model_copy(update={"train": Train(max_steps=1000)}), Evaluate())
    assert planned_steps(STANDARD, 4000) == (3 + 16) * 125
    assert planned_steps(STANDARD.model_copy(update={"train": Train(accumulate=4)}), 4000) == (3 + 16) * 32
    assert half.estimate.minutes < whole.estimate.minutes
    assert any("after 1000 of about 2375 steps" in warning for warning in half.warnings)
    short = preflight(MODEL, DATA, STANDARD.model_copy(update={"train": Train(max_minutes=0.5)}), Evaluate())
    assert short.estimate.minutes < half.estimate.minutes


def test_an_artifact_s_bytes_follow_its_scheme() -> None:
    parameters = Parameters(total=20_000_000, embedding=12_000_000, other=8_000_000)
    plain, int8, int4, coarse = (
        artifact_bytes(parameters, scheme)
        for scheme in (
            None,
            Quantize(),
            Quantize(scheme="weight-only-int4"),
            Quantize(scheme="weight-only-int4", group_size=128),
        )
    )
    assert plain == 80_000_000
    assert int8 == 21_000_000
    assert int4 == round(1.05 * (12_000_000 + 8_000_000 * 0.625))
    assert coarse < int4


def test_several_datasets_are_forecast_one_by_one() -> None:
    more = DATA.model_copy(update={"rows": {"train": 8000, "validation": 500, "test": 90}})
    questions = QUESTIONS.model_copy(update={"rows": {"train": 5000, "validation": 500, "test": 1000}})
    recipe = STANDARD.model_copy(update={"train": Train(max_length=128)})
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


def test_several_datasets_share_the_limits_of_training() -> None:
    recipe = STANDARD.model_copy(update={"train": Train(max_steps=100)})
    alone = preflight(MODEL, DATA, STANDARD.model_copy(update={"train": Train(max_steps=50)}), Evaluate())
    found = preflight_several(MODEL, {"a": DATA, "b": DATA}, recipe, Evaluate())
    assert found.estimate.minutes == pytest.approx(2 * alone.estimate.minutes, abs=0.11)
