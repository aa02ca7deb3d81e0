"""The text modality: `modalities.modality.Modality` for all tasks on texts.

Functions import what they need: processes that measure or validate call some of them and must load neither torch nor Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from compression.modalities.modality import SPLITS, InputFacts, Modality, RawInput, Summary
from compression.modalities.scoring.base import Row, Scorer
from compression.modalities.text.inputs import asked_row
from compression.modalities.text.reading_notes import reading_notes
from compression.modalities.text.scoring.perplexity import LanguageScorer
from compression.modalities.text.scoring.question_answering import QuestionScorer
from compression.modalities.text.scoring.token_classification import TagScorer
from compression.modalities.text.scoring.whole_texts import TextClassScorer, TextNumberScorer
from compression.schema.errors import CompressionError, InvalidSpec
from compression.schema.manifest import BATCH, LENGTH
from compression.schema.recipe.base import Split, Task
from compression.schema.recipe.recipe import Evaluate
from compression.schema.tasks import TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from compression.modalities.base import Examples, TaskAdapter
    from compression.modalities.text.augmentation.source import AugmentationSource
    from compression.modalities.text.dataset import Dataset
    from compression.modalities.text.preprocessor import TextPreprocessor
    from compression.modalities.text.vocabulary.reduced import ReducedVocabulary
    from compression.schema.job_spec import Data, Spec
    from compression.schema.prediction_request import AnswerSpec, RowInputs
    from compression.schema.recipe.views import Views
    from compression.schema.report.samples import Sample
    from compression.schema.validation import DataFacts

WINDOW = 512
"""Window of a language model in tokens, if neither the job nor the length of rows sets it."""
SENTENCE = 20
"""Tokens of a row in time estimates."""


class TextModality:
    """The text modality: rows are texts, pairs of texts, tagged words, or questions with their contexts."""

    def read(self, data: Data, base: Path, task: Task, seed: int) -> Dataset:
        """Read all splits and carve the missing ones."""
        from compression.modalities.text.dataset import load_dataset

        return load_dataset(data, base, seed=seed, task=task)

    def check(self, data: Data, base: Path, task: Task) -> DataFacts | list[CompressionError]:
        """Return the facts about an upload, or every reason to reject it."""
        from compression.modalities.text import dataset_check

        return dataset_check.check(data, base, task)

    def question(self, spec: AnswerSpec, base: Path) -> tuple[Row, dict[str, Any], Any]:
        """Return a prediction request's row for the scorer, the row for people, and the expected output."""
        from compression.modalities.text.questions import row_of

        return row_of(spec, base)

    def row(self, task: Task, given: RowInputs) -> Row:
        """Return the scorer's row of a request's own texts."""
        return asked_row(task, given)

    def samples(self, rows: Sequence[Row], labels: tuple[str, ...]) -> tuple[Sample, ...]:
        """Return the rows' texts, cut if long, with their labels."""
        from compression.modalities.text.questions import sample_of

        return tuple(sample_of(row, labels) for row in rows)

    def scorer(self, task: Task, evaluate: Evaluate, labels: tuple[str, ...]) -> Scorer:
        """Return the scorer of a task."""
        if task == "causal-lm":
            length = evaluate.window or WINDOW
            return LanguageScorer(length, max(length // 2, 1))
        if task == "text-regression":
            return TextNumberScorer()
        if task == "token-classification":
            return TagScorer(labels)
        if task == "question-answering":
            return QuestionScorer()
        return TextClassScorer.of(evaluate, labels)

    def task(self, name: Task, evaluate: Evaluate, labels: tuple[str, ...]) -> TaskAdapter:
        """Return the adapter that trains a task. Raises InvalidSpec if labels and metric do not match."""
        from compression.modalities.tasks.classification import Classification
        from compression.modalities.tasks.regression import Regression
        from compression.modalities.text.tasks.causal_lm import CausalLM
        from compression.modalities.text.tasks.question_answering import QuestionAnswering
        from compression.modalities.text.tasks.token_classification import TokenClassification

        scorer = self.scorer(name, evaluate, labels)
        if isinstance(scorer, LanguageScorer):
            return CausalLM(scorer)
        if isinstance(scorer, TextNumberScorer):
            return Regression(scorer, name)
        if isinstance(scorer, TagScorer):
            return TokenClassification(scorer)
        if isinstance(scorer, QuestionScorer):
            return QuestionAnswering(scorer)
        return Classification(name, cast(TextClassScorer, scorer))

    def adapted(
        self, folder: Path, dataset: Dataset, task: Task, target: Path, name: str, like: Path | None = None
    ) -> tuple[Path, str | None]:
        """Return a folder whose tokenizer separates two texts, and a note if it got a separator token."""
        from compression.modalities.text import pair_separator

        # A model that shares a tokenizer with its possible teacher must tokenize as the teacher does.
        if dataset.splits["train"].pairs is None or (like is not None and pair_separator.are_alike(folder, like)):
            return folder, None
        try:
            found, token = pair_separator.apart(folder, task, target)
        except CompressionError:
            return folder, None  # opening the folder later reports the error, with the job's name for it
        if token is None:
            return found, None
        return found, f"The tokenizer of {name} joined two texts; {token!r} stands between them now, in artifacts too."

    def preprocessor(self, folder: Path, config: PretrainedConfig, length: int) -> TextPreprocessor:
        """Open a model's tokenizer."""
        from compression.modalities.text.preprocessor import TextPreprocessor
        from compression.models.adapters.registry import adapter_of
        from compression.models.loading import load_tokenizer

        family = adapter_of(config)
        return TextPreprocessor(load_tokenizer(folder), min(length, family.max_positions(config)), family.types(config) > 1)

    def preprocessor_notes(self, folder: Path) -> list[str]:
        """Return a note if stock code splits texts differently from tokenizer.json."""
        from compression.models.loading import tokenizer_notes

        return tokenizer_notes(folder)

    def write_preprocessor(
        self, source: Path, folder: Path, length: int, task: Task, model: PreTrainedModel | None = None
    ) -> None:
        """Write an artifact's tokenizer.

        A language model's tokenizer allows as many tokens as the model: the length of its rows is no limit.
        """
        from compression.modalities.text.artifact_tokenizer import write_tokenizer
        from compression.models.adapters.registry import adapter_of

        if TASKS[task].generates and model is not None:
            length = adapter_of(model).max_positions(model.config)
        write_tokenizer(source, folder, length, task, model)

    def example_inputs(self, model: nn.Module, batch: int, length: int) -> dict[str, Tensor]:
        """Return token ids, each row but the first padded; token types only if the model has several."""
        import torch

        from compression.models.adapters.registry import adapter_of

        ids, own = torch.zeros(batch, length, dtype=torch.int64), cast("PreTrainedModel", model)
        mask, types = torch.ones_like(ids), adapter_of(own).types(own.config)
        mask[1:, 5:] = 0
        return {"input_ids": ids, "attention_mask": mask, **({"token_type_ids": torch.zeros_like(ids)} if types > 1 else {})}

    def traced(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> nn.Module:
        """Return the module to trace for a model that reads tokens."""
        from compression.modalities.text.traced_model import TracedTextModel
        from compression.modalities.traced_model import TracedModel
        from compression.models.adapters.registry import adapter_of

        own = cast("PreTrainedModel", model)
        kind = TracedTextModel if adapter_of(own).types(own.config) == 1 else TracedModel
        return kind(own, inputs, outputs)

    def free_dimensions(self, model: nn.Module) -> dict[str, dict[int, tuple[str, int | None]]]:
        """Return the dynamic dimensions, rows and tokens, of each input."""
        from compression.models.adapters.registry import adapter_of

        most = adapter_of(own := cast("PreTrainedModel", model)).max_positions(own.config)
        return {name: {0: (BATCH, None), 1: (LENGTH, most)} for name in self.example_inputs(model, 1, 1)}

    def raw_input(self, folder: Path) -> RawInput | None:  # noqa: ARG002
        """Return None: files read what the model reads."""
        return None

    def input_facts(self, model: nn.Module, folder: Path) -> dict[str, InputFacts]:  # noqa: ARG002
        """Return the ranges of token ids, mask, token types and positions."""
        from compression.models.adapters.registry import adapter_of

        config = cast("PreTrainedModel", model).config
        family = adapter_of(config)
        counts = {"input_ids": config.vocab_size, "attention_mask": 2, "position_ids": family.max_positions(config)}
        usual = {"attention_mask": 1.0, "token_type_ids": 0.0}
        counts["token_type_ids"] = family.types(config)
        return {
            name: InputFacts((BATCH, LENGTH), 0.0, float(max(count, 1) - 1), usual.get(name)) for name, count in counts.items()
        }

    def evaluation(self, evaluate: Evaluate, task: Task, length: int, positions: int) -> Evaluate:
        """Set a language model's missing evaluation window to the length of a row. Raises InvalidSpec."""
        window = (evaluate.window or min(length, positions)) if TASKS[task].generates else None
        for asked, param in ((evaluate.length, "evaluate.length"), (window or 0, "evaluate.window")):
            if asked > positions:
                raise InvalidSpec(f"the model takes at most {positions} tokens", param=param)
        return evaluate if window is None else evaluate.model_copy(update={"window": window})

    def scored(
        self, dataset: Dataset, preprocessor: TextPreprocessor, evaluate: Evaluate, task: Task, seed: int
    ) -> dict[Split, list[int]]:
        """Sample the texts that score a language model.

        Raises EmptySplit if test has fewer than two with a scored token.
        """
        from compression.modalities.text.causal_lm.packed_examples import sampled

        return sampled(dataset, preprocessor.tokenizer, evaluate.tokens, seed) if TASKS[task].generates else {}

    def encode(
        self, dataset: Dataset, preprocessor: TextPreprocessor, task: TaskAdapter, splits: Sequence[Split] = SPLITS
    ) -> dict[Split, Examples]:
        """Tokenize splits.

        Raises UnreadableData for a text without tokens, EmptySplit if no token can be scored.
        """
        from compression.modalities.text.causal_lm.packed_examples import check_texts

        rows = {split: preprocessor.encode(dataset, split, task) for split in splits}
        check_texts(rows.items())
        return dict(rows)

    def train_rows(self, rows: Examples, views: Views | None, seed: int) -> Examples:  # noqa: ARG002
        """Return the rows as they are: texts have no views."""
        return rows

    def augmenter(
        self, spec: Spec, base: Path, folder: Path, dataset: Dataset, preprocessor: TextPreprocessor, task: TaskAdapter
    ) -> AugmentationSource | None:
        """Return the text augmenter if the recipe has augmentation.

        Raises MissingResource, and the errors of opening helper models.
        """
        from compression.modalities.text.augmentation.resources import Resources
        from compression.modalities.text.augmentation.source import AugmentationSource

        settings = spec.recipe.distill.augment if spec.recipe.distill is not None else None
        if settings is None:
            return None
        resources = replace(Resources.of(spec, base), base=folder)
        resources.check(settings)
        texts = dataset.splits["train"].columns
        return AugmentationSource(texts, preprocessor.encoder(task), preprocessor.tokenizer, resources)

    def input_pruner(
        self,
        folder: Path,
        config: PretrainedConfig,
        dataset: Dataset,
        preprocessor: TextPreprocessor,
        target: Path,
        ratio: float,
    ) -> ReducedVocabulary:
        """Choose the tokens that the texts need. Raises UnsupportedTokenizer."""
        from compression.modalities.text.vocabulary.reduced import fit_vocabulary

        return fit_vocabulary(folder, preprocessor.tokenizer, config, dataset.seen, target, ratio)

    def digests(self, spec: Spec, base: Path) -> dict[str, str] | None:
        """Return digests of the files that augmented rows depend on."""
        from compression.modalities.text.augmentation.resources import Resources

        settings = spec.recipe.distill.augment if spec.recipe.distill is not None else None
        return Resources.of(spec, base).digests(settings) if settings is not None else None

    def summary(
        self,
        dataset: Dataset,
        preprocessor: TextPreprocessor,
        rows: Mapping[Split, Any],
        evaluate: Evaluate,
        scored: Mapping[Split, list[int]],
    ) -> Summary:
        """Summarize the splits: for language models in tokens, else in texts.

        Texts include the number of truncated ones, except for question answering, which reads contexts in windows.
        """
        facts, length = dataset.facts(), preprocessor.length
        if all(split.task.packed is None for split in rows.values()):
            train = rows.get("train", ())
            windows = bool(train) and TASKS[train.task.name].windows
            cut = 0 if not train or windows else sum(one >= length for one in train.lengths)
            note = f"{cut} of {len(train)} training texts reach {length} tokens and were cut there." if cut else None
            tokens = train.tokens if train else ()
            notes = tuple(reading_notes(tokens, preprocessor.tokenizer, evaluate.length, windows=windows))
            return Summary(facts, {str(name): len(split) for name, split in rows.items()}, note, notes)
        for name, split in rows.items():
            facts[name] = facts[name].model_copy(update={"tokens": split.whole, "bytes": split.bytes})
        notes = tuple(_language_notes(dataset, length, rows, evaluate, scored))
        return Summary(facts, {str(name): split.asked // SENTENCE + 1 for name, split in rows.items()}, None, notes)


def _language_notes(
    dataset: Dataset, length: int, rows: Mapping[Split, Any], evaluate: Evaluate, scored: Mapping[Split, list[int]]
) -> Iterator[str]:
    """Yield notes on the data behind a language model's metrics."""
    validation, window = rows["validation"], evaluate.window or length
    yield (
        f"Perplexity is taken in windows of {window} tokens that go on by {max(window // 2, 1)}; texts share rows of "
        f"{length} tokens in training and do not see each other."
    )
    if validation.asked < validation.whole:
        yield f"Epochs are chosen by {validation.asked:,} of {validation.whole:,} tokens of validation."
    for name, some in scored.items():
        whole = len(dataset.splits[name])
        if len(some) < whole:
            yield f"{len(some)} of {whole} texts of {name} are scored (evaluate.tokens {evaluate.tokens:,})."
    for each, split in rows.items():
        if split.left_out:
            yield f"{split.left_out} texts of {each} have no token to predict, and are left out."


TEXT: Modality = TextModality()
