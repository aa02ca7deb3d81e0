"""Makes new texts from those of train for distillation (`modalities.modality.Augmenter`)."""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from compression.modalities.base import TaskAdapter
from compression.modalities.modality import Augmented
from compression.modalities.text.augmentation.augmenter import AugmentedRow, Sources, Texts, augment
from compression.modalities.text.augmentation.resources import Resources
from compression.modalities.text.batches import TokenizedDataset
from compression.modalities.text.preprocessor import TextPreprocessor
from compression.schema.recipe.augment import Augment

EXAMPLES, SHOWN = 3, 300  #: number of new rows to show, and maximum characters of each of their texts


@dataclass(frozen=True)
class AugmentationSource:
    """The texts of train, one or more per row, with the function that encodes (rows, labels) and the sources of new words."""

    texts: Sequence[Texts]
    encode: Callable[[Sequence[Texts], list[int]], TokenizedDataset]
    tokenizer: PreTrainedTokenizerFast
    resources: Resources

    def read_by(self, preprocessor: TextPreprocessor, task: TaskAdapter) -> "AugmentationSource":
        """Return an augmenter whose rows are encoded for another model."""
        return replace(self, encode=preprocessor.encoder(task))

    def augment(
        self, settings: Augment, seed: int, teacher: PreTrainedModel, rows: TokenizedDataset
    ) -> Generator[tuple[int, int], None, Augmented]:
        """Make rows; a new attempt makes the same rows. Raises the errors of opening the sources."""
        settings, left_out = self.resources.resolve(settings)
        total = settings.rows * len(rows)
        yield 0, total
        words, back, table = settings.synonyms, settings.back_translation, teacher.get_input_embeddings().weight
        sources = Sources(
            synonyms=self.resources.open_synonyms(words, self.tokenizer, table, table.device) if words else None,
            translators=self.resources.open_translators(back, table.device) if back else None,
        )
        made = yield from augment(self.texts, settings, seed, sources)
        note = " ".join([self._summary(made, settings, total), *left_out])
        some = made[:: max(1, len(made) // EXAMPLES)][:EXAMPLES]
        shown = tuple(f"Made of {_shown(self.texts[one.row])}: {_shown(one.texts)}." for one in some)
        if not made:
            return Augmented(rows, [], note, shown)
        labels, texts = rows.labels[[one.row for one in made]].tolist(), [one.texts for one in made]
        return Augmented(rows.with_unlabelled(self.encode(texts, labels)), texts, note, shown)

    def _summary(self, made: list[AugmentedRow], settings: Augment, total: int) -> str:
        counts = Counter(one.by for one in made)
        ways = []
        if (asked := settings.back_translation) is not None:
            by = asked.apertium or " and ".join(asked.models or ())
            ways.append(f"{counts['back_translation']} by back-translation by {by}")
        if settings.synonyms is not None:
            ways.append(f"{counts['synonyms']} with other words from {self.resources.source(settings.synonyms)}")
        if settings.splices:
            ways.append(f"{counts['splices']} of two rows put together")
        words = f", {sum(one.replaced for one in made)} words replaced" if settings.synonyms is not None else ""
        same = f"; {total - len(made)} came out as they were or twice, and were left out" if len(made) < total else ""
        return f"Augmentation: {len(made)} rows made of {len(self.texts)} ({', '.join(ways) or 'nothing'}){words}{same}."


def _shown(texts: Texts) -> str:
    return " | ".join(repr(text if len(text) <= SHOWN else text[:SHOWN] + "…") for text in texts)
