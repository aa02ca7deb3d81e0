"""Metrics against scikit-learn, against figures worked out by hand, and the cases that SQuAD's own script is known by."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics as reference
from tokenizers import Tokenizer

from compression.modalities.scoring import metrics, standard_errors
from compression.modalities.scoring.classification import ClassScorer
from compression.modalities.scoring.regression import NumberScorer
from compression.modalities.text.scoring import question_answering
from compression.modalities.text.scoring.question_answering import QuestionScorer, Reader, Window, answer
from compression.modalities.text.scoring.token_classification import TagScorer, first_tokens
from compression.schema.errors import InvalidSpec
from compression.schema.recipe.recipe import Evaluate

DRAW = np.random.default_rng(0)
WANTED = DRAW.integers(0, 3, 200)
FOUND = np.where(DRAW.random(200) < 0.7, WANTED, DRAW.integers(0, 3, 200))
X = DRAW.normal(size=150).round(1)  # rounded, so that there are ties
Y = (X + DRAW.normal(size=150)).round(1)


def test_classification_is_as_scikit_learn_has_it() -> None:
    counts = metrics.label_counts(FOUND, WANTED, 4)  # of which one does not occur
    assert metrics.accuracy(counts) == pytest.approx(reference.accuracy_score(WANTED, FOUND))
    assert metrics.macro_f1(counts) == pytest.approx(reference.f1_score(WANTED, FOUND, average="macro"))
    assert metrics.matthews(counts) == pytest.approx(reference.matthews_corrcoef(WANTED, FOUND))
    two, other = FOUND % 2, WANTED % 2
    counts = metrics.label_counts(two, other, 2)
    for positive in (0, 1):
        assert metrics.f1(counts, positive) == pytest.approx(reference.f1_score(other, two, pos_label=positive))
    assert metrics.matthews(counts) == pytest.approx(reference.matthews_corrcoef(other, two))
    assert metrics.matthews(metrics.label_counts(np.zeros(9, np.int64), np.arange(9) % 2, 2)) == 0
    for seed in range(20):  # weights of rows, whose sums are rounded
        weights = np.random.default_rng(seed).dirichlet(np.ones(16))
        same = metrics.label_counts(np.zeros(16, np.int64), np.arange(16) % 2, 2, weights)
        assert metrics.matthews(same) == metrics.matthews(same[[0, 2, 1]]) == 0


def test_correlations_are_as_scipy_has_them() -> None:
    stats = pytest.importorskip("scipy.stats")
    assert metrics.pearson(X, Y) == pytest.approx(stats.pearsonr(X, Y).statistic)
    assert metrics.spearman(X, Y) == pytest.approx(stats.spearmanr(X, Y).statistic)
    assert metrics.spearman(np.exp(X), X) == pytest.approx(1)
    assert metrics.pearson(np.ones(5), np.arange(5.0)) == 0


def test_entities_are_read_as_conll_reads_them() -> None:
    tags = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-PER", "I-PER", "O", "I-ORG"]
    assert metrics.entities(tags) == {(0, 2, "PER"), (3, 4, "LOC"), (4, 5, "LOC"), (5, 7, "PER"), (8, 9, "ORG")}
    scorer = TagScorer(("O", "B-PER", "I-PER"))
    wanted = [["B-PER", "I-PER", "O"], ["O", "B-PER", "O"]]
    found = [["B-PER", "O", "O"], ["O", "B-PER", "B-PER"]]  # one right of three found and two wanted
    assert scorer.score(found, wanted) == pytest.approx(2 * 1 / (3 + 2))
    figures = scorer.figures(found, [{"label": tags} for tags in wanted])
    assert figures.values == pytest.approx({"entity_f1": 0.4, "precision": 1 / 3, "recall": 1 / 2})
    assert scorer.score([["O"] * 3] * 2, wanted) == figures.chance == 0
    rows = json.loads(json.dumps([{"words": ("a", "b"), "label": ("O", "B-PER")}]))  # scores are read from JSON alone
    assert scorer.figures([["O", "B-PER"]], rows).values["entity_f1"] == 1


@pytest.mark.parametrize(
    ("found", "wanted", "exact", "shared"),
    [
        ("The Norman conquest!", ["norman  conquest"], 1, 1),
        ("in the 10th century", ["10th century", "the tenth"], 0, 0.8),
        ("a b c", ["c d"], 0, 2 * 0.5 * 0.5 / 1),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        ("x", ["the"], 0, 0),  # of "the" nothing is left, so that no answer was wanted
    ],
)
def test_answers_are_compared_as_squad_does(found: str, wanted: list[str], exact: float, shared: float) -> None:
    assert metrics.exact_match(found, wanted) == exact
    assert metrics.overlap(found, wanted) == pytest.approx(shared)


def test_answers_to_all_questions_are_averaged() -> None:
    rows = [{"answers": ["blue sky"]}, {"answers": []}, {"answers": []}, {"answers": ["red"]}]
    figures = QuestionScorer().figures(["blue", "", "x", ""], rows)
    shares = [2 / 3, 1, 0, 0]
    answerable = {"f1_answerable": 1 / 3, "exact_match_answerable": 0, "f1_unanswerable": 0.5, "exact_match_unanswerable": 0.5}
    assert figures.values == pytest.approx({"f1": np.mean(shares), "exact_match": 0.25, **answerable})
    assert (figures.chance, figures.error_from) == (0.5, "analytic")
    samples = {"f1": shares, "exact_match": [0, 1, 0, 0], "f1_answerable": [2 / 3, 0], "f1_unanswerable": [1, 0]}
    samples |= {"exact_match_answerable": [0, 0], "exact_match_unanswerable": [1, 0]}
    wanted = {name: np.std(values, ddof=1) / len(values) ** 0.5 for name, values in samples.items()}
    wanted["exact_match_answerable"] = 1 / 4  # two rows do not make sure that none is ever right
    assert figures.standard_errors == pytest.approx(wanted)
    single = QuestionScorer().figures(["blue", ""], rows[:2])
    assert set(single.standard_errors) == {"f1", "exact_match"}  # how sure one answerable question makes, nobody can tell


def test_the_bootstrap_agrees_with_the_formula_where_there_is_one() -> None:
    right = (FOUND == WANTED).astype(float)

    def statistics(some: npt.NDArray[np.int64]) -> dict[str, float]:
        return {"right": float(right[some].mean()), "wrong": float(1 - right[some].mean()), "constant": 1.0}

    drawn = standard_errors.deviations(standard_errors.resampled(statistics, len(right)), len(right))
    assert drawn["right"] == pytest.approx(standard_errors.of_share(right.mean(), len(right)), rel=0.1)
    assert drawn["wrong"] == pytest.approx(drawn["right"])  # the same samples
    assert drawn["constant"] == 1 / (len(right) + 2)
    assert drawn == standard_errors.deviations(standard_errors.resampled(statistics, len(right)), len(right))
    assert standard_errors.of_mean(right) == pytest.approx(standard_errors.of_share(right.mean(), len(right)), rel=0.01)


def test_classification_reports_all_metrics_and_chance_is_the_most_frequent_label() -> None:
    rows = [{"label": int(label)} for label in WANTED % 2]
    share = sum(row["label"] for row in rows) / len(rows)
    labels = ("no", "yes")
    often, found = max(share, 1 - share), 2 * share / (1 + share) if share > 0.5 else 0
    for metric, chance in (("accuracy", often), ("f1", found), ("accuracy_f1", (often + found) / 2)):
        scorer = ClassScorer.of(Evaluate.model_validate({"metric": metric}), labels)
        figures = scorer.figures((FOUND % 2).tolist(), rows)
        assert set(figures.values) == {"accuracy", "f1", "accuracy_f1", "matthews"}
        assert next(iter(figures.values)) == metric
        assert figures.values["accuracy_f1"] == (figures.values["accuracy"] + figures.values["f1"]) / 2
        assert figures.values[metric] == scorer.score(FOUND % 2, WANTED % 2)
        assert figures.chance == pytest.approx(chance)
        assert figures.error_from == ("analytic" if metric == "accuracy" else "bootstrap")
        assert set(figures.standard_errors) == set(figures.values)
    with pytest.raises(InvalidSpec, match="maybe"):
        ClassScorer.of(Evaluate(positive="maybe"), labels)


def one_by_one(statistic: Callable[[npt.NDArray[np.int64]], float], rows: int) -> float:
    """The bootstrap as its definition has it: a sample, and the statistic of the rows in it."""
    draw = np.random.default_rng(standard_errors.SEED)
    return float(np.std([statistic(draw.integers(0, rows, rows)) for _ in range(standard_errors.RESAMPLES)], ddof=1))


def test_what_is_right_on_all_rows_is_not_certain() -> None:
    rows = [{"label": row % 2, "answers": ["blue"]} for row in range(8)]
    classes = ClassScorer("accuracy", 2, None).figures([row["label"] for row in rows], rows)
    tags = TagScorer(("O", "B-X")).figures([["B-X"]] * 8, [{"label": ["B-X"]}] * 8)
    answers = QuestionScorer().figures(["blue"] * 8, rows)
    found = [each.standard_errors[name] for each, name in ((classes, "accuracy"), (tags, "entity_f1"), (answers, "f1"))]
    assert found == pytest.approx([1 / 10] * 3)
    nothing = TagScorer(("O", "B-X")).figures([["O"]] * 8, [{"label": ["B-X"]}] * 8)
    assert nothing.standard_errors["entity_f1"] == pytest.approx(1 / 10)


@pytest.mark.parametrize("labels", [2, 3])
def test_every_figure_has_the_error_of_its_own_statistic_over_the_samples_of_rows(labels: int) -> None:
    found, wanted = FOUND % labels, WANTED % labels
    figures = ClassScorer("f1", labels, None).figures(found.tolist(), [{"label": int(label)} for label in wanted])
    right = float((found == wanted).mean())

    def drawn(of: Callable[[npt.NDArray[np.float64]], float]) -> float:
        return one_by_one(lambda some: of(metrics.label_counts(found[some], wanted[some], labels)), len(wanted))

    assert figures.standard_errors == pytest.approx(
        {
            "f1": drawn(metrics.macro_f1),
            "accuracy": (right * (1 - right) / len(wanted)) ** 0.5,
            "accuracy_f1": drawn(lambda counts: (metrics.accuracy(counts) + metrics.macro_f1(counts)) / 2),
            "matthews": drawn(metrics.matthews),
        }
    )


def test_both_correlations_have_an_error_beside_that_of_their_mean() -> None:
    figures = NumberScorer().figures(Y.tolist(), [{"label": value} for value in X])
    own: dict[str, Callable[..., float]] = {
        "pearson_spearman": lambda found, wanted: (metrics.pearson(found, wanted) + metrics.spearman(found, wanted)) / 2,
        "pearson": metrics.pearson,
        "spearman": metrics.spearman,
    }
    assert figures.values == pytest.approx({name: of(Y, X) for name, of in own.items()})
    wanted = {name: one_by_one(lambda some, of=of: of(Y[some], X[some]), len(X)) for name, of in own.items()}
    assert figures.standard_errors == pytest.approx(wanted)
    assert NumberScorer().changed([0.0, 1.0, 5.0], [1e-6, 1.0, 4.0]) == 1  # rounding alone changes no answer


def test_precision_and_recall_have_an_error_beside_that_of_f1() -> None:
    kinds = np.array(["O", "B-A", "B-B"])
    wanted, found = (kinds[each.reshape(40, 5)] for each in (WANTED, FOUND))
    figures = TagScorer(tuple(kinds)).figures(found.tolist(), [{"label": tags} for tags in wanted.tolist()])
    right = ((found == wanted) & (found != "O")).sum(axis=1)
    mine, theirs = (found != "O").sum(axis=1), (wanted != "O").sum(axis=1)
    own: dict[str, Callable[..., float]] = {
        "entity_f1": lambda some: 2 * right[some].sum() / (mine[some].sum() + theirs[some].sum()),
        "precision": lambda some: right[some].sum() / mine[some].sum(),
        "recall": lambda some: right[some].sum() / theirs[some].sum(),
    }
    assert figures.standard_errors == pytest.approx({name: one_by_one(of, 40) for name, of in own.items()})


def test_a_word_is_found_by_its_first_token_whoever_counts_the_space() -> None:
    words = ["U.S.", "word1", "x"]  # "U.S. word1 x"
    pieces = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (5, 10), (0, 0)]
    assert first_tokens(pieces, words) == [1, 5, None]
    assert first_tokens([(0, 4), (4, 10), (10, 12)], words) == [0, 1, 2]


def test_a_long_context_is_read_in_windows_that_hold_every_answer(encoder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    words = [f"word{number % 30}" for number in range(70)] + ["good"]
    context, question = " ".join(words), "word1 word2 " * 20
    asked = Reader(tokenizer, 32).read([question, "word3"], [context, "word4"])
    assert asked.owners == [0] * (len(asked.owners) - 1) + [1]
    windows = [Window.of(one) for one in asked.windows]
    assert max(len(one.ids) for one in asked.windows) <= 32
    assert sum(part == 0 for part in asked.windows[0].sequence_ids) == question_answering.longest_question(32)
    places = [window.offsets[window.context] for window in windows[:-1]]
    assert {int(start) for place in places for start in place[:, 0]} == {context.index(words[0])} | {
        number + 1 for number, sign in enumerate(context) if sign == " "
    }
    assert places[0][-question_answering.overlap_of(32)][0] == places[1][0][0]
    start = context.index("good")
    ends = [window.place(start, start + 4) for window in windows[:-1]]
    holding = [(window, each) for window, each in zip(windows, ends, strict=False) if each != (0, 0)]
    assert holding
    for window, (first, last) in holding:
        assert context[window.offsets[first][0] : window.offsets[last][1]] == "good"


def test_the_best_span_is_answered_unless_nothing_is_likelier_everywhere(encoder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    context = "word1 good fine word2"
    window = Window.of(tokenizer.encode("word3", context))  # [CLS] word3 [SEP] word1 good fine word2 [SEP]
    logits = np.zeros((8, 2), np.float32)
    logits[4, 0], logits[5, 1] = 3, 2
    logits[1] = 9  # the question is never the answer
    assert answer([window], [logits], context) == "good fine"
    assert answer([window], [logits[:, ::-1].copy()], context) != "fine good"
    nothing = logits.copy()
    nothing[0] = 3
    assert answer([window], [nothing], context) == ""
    assert answer([window, window], [nothing, logits], context) == "good fine"
