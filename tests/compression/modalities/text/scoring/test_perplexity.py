"""A score of which less is better, held against others in rows, verdicts, remedies and words; and what its job will take."""

import math
from typing import Any

import pytest

from client.terminal.render import cells, conditions
from compression.engine.reporting.dataset_facts import better_note
from compression.engine.reporting.stage_rows import row_notes
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import parameters_at
from compression.planning.artifact_work import artifacts
from compression.planning.counted import Counted
from compression.planning.memory import HARNESS_BYTES, PROCESS_BYTES
from compression.planning.preflight import preflight
from compression.planning.verdicts import choose, judged, worse_than
from compression.planning.work import EXPORT
from compression.schema.errors import CompressionError, ConfigMismatch
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.presets import PRESETS, preset
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Evaluate, LmEval, Prepare, Recipe, Targets, Train
from compression.schema.report.measurements import Row, Score, shown
from compression.schema.stages import Stage, wanted
from compression.schema.validation import DataFacts, ModelFacts
from tests.client.figures import row as of_accuracy
from tests.compression.planning.test_planning import DATA as CLASSES, MODEL as ENCODER
from tests.support.facts import SMOLLM2 as SHAPE, TEXTS as DATA, V2_LITE, decoder_facts
from tests.support.verdict_rows import perplexity_of, scored

TARGETS = Targets(retention=0.9)
LLAMA = ARCHITECTURE_SPECS["llama"]
MODEL = decoder_facts("llama", SHAPE)
OTHER_TOKENS = decoder_facts("llama", SHAPE.model_copy(update={"vocabulary": SHAPE.vocabulary - 64}))


def score(perplexity: float) -> Score:
    return perplexity_of(perplexity, 0.05 * perplexity, rows=60, chance=800.0)


def row(stage: Stage, perplexity: float, parameters: int = 20_000_000, size: int = 80_000_000) -> Row:
    first = of_accuracy("baseline", 20_000_000, 80_000_000, 16.0, 0.8)
    return scored(of_accuracy(stage, parameters, size, 16.0, 0.8), score(perplexity), first, score(12.0))


BASELINE, QUANTIZED = row("baseline", 12.0), row("quantized", 12.05, size=20_000_000)


def test_what_is_kept_is_the_ratio_turned_over_and_above_chance_it_is_nats() -> None:
    found = row("pruned", 15.0).ratios
    assert found.retention == pytest.approx(12 / 15)
    assert found.retention_above_chance == pytest.approx(math.log(800 / 15) / math.log(800 / 12))
    assert row("pruned", 12.0).ratios.retention == 1
    assert score(12.0).at_retention(0.8) == pytest.approx(15.0)
    assert score(12.0).worth - score(15.0).worth == pytest.approx(math.log(15 / 12))
    assert score(12.0).worth_error == pytest.approx(0.05)


def test_a_higher_perplexity_is_the_worse_one() -> None:
    worse, better = row("pruned", 14.0, size=20_000_000), row("distilled", 11.0, size=20_000_000)
    assert worse_than(worse, [BASELINE, QUANTIZED], TARGETS) == QUANTIZED
    assert worse_than(row("pruned", 12.3, size=20_000_000), [BASELINE, QUANTIZED], TARGETS) is None  # within its error
    assert worse_than(better, [BASELINE, QUANTIZED], TARGETS) is None
    easy = Targets(parameter_reduction=0, size_reduction=0, speed_up=0.5, retention=0.9)
    assert choose([BASELINE, QUANTIZED, worse], easy)[0] == QUANTIZED


def test_words_say_which_way_it_went() -> None:
    said = row_notes(row("pruned", 14.0).ratios, score(14.0), QUANTIZED)
    assert said == ["Test perplexity rose from 12.0500 (quantized) to 14.0000."]
    assert "no better than chance (800" in " ".join(row_notes(row("pruned", 900.0).ratios, score(900.0), None))
    assert better_note(BASELINE, row("distilled", 11.0)) == (
        f"On test the result scores better than the baseline by {math.log(12 / 11):.4f} nats a token; the standard error is "
        "0.0707."
    )
    assert better_note(BASELINE, row("distilled", 13.0)) is None
    assert [shown(name, 0.5) for name in ("perplexity", "loss", "accuracy")] == ["0.5", "0.5 nats a token", "50.00%"]
    assert "12.05 ± 0.6 (99.6 % kept)" in cells(QUANTIZED)
    told = conditions([BASELINE, QUANTIZED])
    assert "Score: perplexity on 60 test rows" in told
    assert "knowing no input: 800." in told


def offered(recipe: Recipe, *rows: Row) -> dict[str, Any]:
    *before, last = rows
    found = judged(last, before, recipe, TARGETS).verdict
    return {remedy.key: remedy for remedy in found.remedies}


def test_remedies_are_reckoned_in_nats() -> None:
    recipe = Recipe(distill=Distill(epochs=4))
    rows = [BASELINE, QUANTIZED, row("pruned", 30.0, 13_000_000), row("distilled", 14.0, 13_000_000)]
    found = offered(recipe, *rows)["recipe.distill.epochs"]
    # 4 epochs left 0.150 of 0.912 nats; 0.101 may stay: 0.912 (0.150 / 0.912)^(n / 4) < 0.101 from n = 5 on.
    assert (found.now, found.proposed) == (4, 5)
    assert "14.0000 is the score, and 13.3333 is needed" in found.why
    lost = offered(Recipe(prune=None, distill=None), BASELINE, row("quantized", 15.0))["recipe.quantize.qat"]
    assert f"Quantization took {math.log(15 / 12):.4f} nats a token, and {-math.log(0.9):.4f} may go" in lost.why


def test_a_model_that_has_learned_nothing_is_no_better_than_chance_and_not_above_it() -> None:
    rows = [row("baseline", 790.0), row("quantized", 795.0)]
    why = offered(Recipe(prune=None, distill=None), *rows)["recipe.prepare.epochs"].why
    assert "scores 790.0000, no more than a standard error better than 800.0000, which knowing no input would" in why


def test_a_preflight_foretells_rows_of_tokens_and_the_table_that_answers() -> None:
    recipe = preset("language", "causal-lm")
    found = preflight(MODEL, DATA, recipe, Evaluate())
    assert found.baseline_parameters == MODEL.parameters
    assert found.parameters.total == parameters_at(LLAMA, SHAPE.model_copy(update={"ffn": 704}), rows=0, outputs=0).total
    assert found.parameters.total / MODEL.parameters.total < 0.71
    untied = MODEL.model_copy(update={"parameters": parameters_at(LLAMA, SHAPE, rows=0, outputs=49152)})
    assert preflight(untied, DATA, recipe, Evaluate()).parameters.total - found.parameters.total == 49152 * 576
    # 400,000 tokens: 781 rows of 512; twice as many texts of half the length are as many.
    other = DATA.model_copy(update={"rows": {**DATA.rows, "train": 800}, "mean_words": 350.0})
    assert preflight(MODEL, other, recipe, Evaluate()).estimate == found.estimate
    assert preflight(MODEL, DATA, recipe, Evaluate(tokens=4096)).estimate.minutes < found.estimate.minutes
    assert preflight(MODEL, DATA, recipe, Evaluate(threads=2)).estimate == found.estimate  # of the engine's are scores
    less = recipe.model_copy(update={"train": Train(batch=8, max_length=512, checkpointing="on")})
    assert preflight(MODEL, DATA, less, Evaluate()).estimate.memory_bytes < found.estimate.memory_bytes
    assert not any("most are cut" in warning or "has 400 rows" in warning for warning in found.warnings)


def test_a_preflight_says_where_a_score_is_of_a_sample() -> None:
    def said(model: ModelFacts, data: DataFacts, evaluate: Evaluate) -> list[str]:
        recipe = preset("language" if data.task == "causal-lm" else "quick", data.task)
        return [one for one in preflight(model, data, recipe, evaluate).warnings if "drawn at random" in one]

    assert not said(MODEL, DATA, Evaluate())
    many = DATA.model_copy(update={"characters": {**DATA.characters, "test": 40_000_000}})
    (warning,) = said(MODEL, many, Evaluate(tokens=10**7))
    assert "of the texts, drawn at random" in warning
    assert not said(MODEL, many, Evaluate())  # as many as are scored unless more are asked for
    texts = CLASSES.model_copy(update={"rows": {**CLASSES.rows, "test": 400_000}})
    (warning,) = said(ENCODER, texts, Evaluate())
    assert "of the rows, drawn at random" in warning
    assert not said(ENCODER, CLASSES, Evaluate())


@pytest.mark.parametrize(
    ("changes", "language", "others"),
    [
        ({}, (4, 4), (3, 2)),  # the headline may be the model of integers: two forms of it, and two of what it was cut to
        ({"prune": None}, (4, 1), (3, 1)),
        ({"prune": None, "distill": None}, (4, 0), (3, 0)),
        ({"artifacts": ()}, (2, 2), (2, 2)),
    ],
)
def test_checkpoints_are_scored_too(changes: dict[str, Any], language: tuple[int, int], others: tuple[int, int]) -> None:
    recipe = preset("language", "causal-lm").model_copy(update=changes)
    model, result = (Counted(SHAPE.model_copy(update={"ffn": ffn}), MODEL.parameters, tied=True) for ffn in (1536, 704))
    for is_language, counts in ((True, language), (False, others)):
        found = artifacts(model, result, recipe, language=is_language)
        models = [one for _, one, _ in found]
        assert (models.count(model), models.count(result)) == counts
        assert [stage for stage, *_ in found if stage != EXPORT] == list(wanted(dict(recipe)))


def test_of_experts_those_that_a_token_is_sent_to_are_reckoned_with() -> None:
    facts = decoder_facts("deepseek_v2", V2_LITE, V2_LITE.vocabulary)
    whole = Counted(V2_LITE, facts.parameters, spoken=102400 * 2048)
    assert facts.parameters.total == pytest.approx(15.7e9, rel=0.01)
    assert whole.active == pytest.approx(2.45e9, rel=0.01)  # its authors say 2.4
    assert Counted(SHAPE, MODEL.parameters, tied=True).active == MODEL.parameters.total
    assert Counted(SHAPE, MODEL.parameters).active == MODEL.parameters.other
    recipe = Recipe(prepare=Prepare(epochs=0), prune=None, distill=None)
    found = preflight(facts, DATA, recipe, Evaluate(tokens=2048))  # 5 minutes, and not 30
    assert not any("drawn at random" in warning for warning in found.warnings)
    assert any("drawn at random" in warning for warning in preflight(facts, DATA, recipe, Evaluate()).warnings)


def test_a_preflight_knows_what_attention_lm_eval_and_a_kept_teacher_take() -> None:
    # Nothing is tuned before: distillation is then what needs most memory.
    recipe = preset("language", "causal-lm").model_copy(update={"prepare": Prepare(epochs=0)})
    plain = preflight(MODEL, DATA, recipe, Evaluate())
    attention = recipe.distill.model_copy(update={"attention": 1.0})
    looking = recipe.model_copy(update={"distill": attention})
    more = preflight(MODEL, DATA, looking, Evaluate()).estimate.memory_bytes - plain.estimate.memory_bytes
    assert more >= 8 * 4 * SHAPE.heads * 512**2
    scores = recipe.model_copy(update={"distill": attention.model_copy(update={"attention_by": "scores"})})
    with pytest.raises(CompressionError, match="turned by their positions") as told:
        preflight(MODEL, DATA, scores, Evaluate())
    assert told.value.param == "recipe.distill.attention_by"
    asked = preflight(MODEL, DATA, recipe, Evaluate(lm_eval=LmEval(tasks=("arc_easy",))))
    assert asked.estimate.memory_bytes - plain.estimate.memory_bytes == PROCESS_BYTES + HARNESS_BYTES
    assert asked.estimate.disk_bytes - plain.estimate.disk_bytes == 4 * plain.baseline_parameters.total
    assert any("does not know" in warning for warning in asked.warnings)
    kept = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"kept": 64})})
    whole, likeliest = plain.estimate, preflight(MODEL, DATA, kept, Evaluate()).estimate
    tokens = 781 * 512
    assert likeliest.disk_bytes - whole.disk_bytes == pytest.approx(258 * tokens, rel=1e-3)
    assert whole.memory_bytes - likeliest.memory_bytes == pytest.approx(1.1 * 2 * 576 * tokens, rel=1e-3)


def test_a_language_model_without_its_output_layer_is_refused_before_it_waits() -> None:
    bare = MODEL.model_copy(update={"architecture": "LlamaModel", "speaks": False})
    with pytest.raises(ConfigMismatch, match="without its output layer") as told:
        preflight(bare, DATA, preset("language", "causal-lm"), Evaluate())
    assert told.value.param == "config.json:architectures"
    tied = bare.model_copy(update={"speaks": True})
    assert preflight(tied, DATA, preset("language", "causal-lm"), Evaluate()).baseline_parameters == MODEL.parameters


def test_a_classifier_that_speaks_by_its_table_has_no_head_drawn() -> None:
    architecture, labels = "LlamaForSequenceClassification", ("no", "yes")
    headed = parameters_at(LLAMA, SHAPE, rows=0, outputs=2)
    classifier = MODEL.model_copy(update={"architecture": architecture, "labels": labels, "parameters": headed})
    found = preflight(classifier, DATA, preset("language", "causal-lm"), Evaluate())
    (said,) = [warning for warning in found.warnings if "for another task" in warning]
    assert "token table" in said
    assert "drawn" not in said
    assert found.baseline_parameters == MODEL.parameters


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_had_for_a_language_model(name: str) -> None:
    assert preflight(MODEL, DATA, preset(name, "causal-lm"), Evaluate()).parameters.total < MODEL.parameters.total


@pytest.mark.parametrize(
    ("changes", "evaluate", "teachers", "param"),
    [
        ({}, {"window": 9000}, [], "evaluate.window"),
        ({}, {}, [OTHER_TOKENS], "models.teachers.0"),
        ({"prune": Prune(axes=("ffn", "vocabulary"))}, {}, [], "recipe.prune.axes"),
    ],
)
def test_preflight_refuses_as_the_engine(
    changes: dict[str, Any], evaluate: dict[str, Any], teachers: list[ModelFacts], param: str
) -> None:
    recipe = preset("language", "causal-lm").model_copy(update=changes)
    with pytest.raises(CompressionError, check=lambda error: error.param == param):
        preflight(MODEL, DATA, recipe, Evaluate(**evaluate), teachers=teachers)


def test_not_all_tokens_of_a_teacher_can_be_kept() -> None:
    small = MODEL.model_copy(update={"shape": SHAPE.model_copy(update={"vocabulary": 512})})
    with pytest.raises(CompressionError, check=lambda error: error.param == "recipe.distill.kept"):
        preflight(small, DATA, Recipe(distill=Distill(kept=512)), Evaluate())
