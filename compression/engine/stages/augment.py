"""Augmentation within distillation: train's rows with the new ones behind them, and what a log and a row say of it."""

from collections import Counter
from collections.abc import Generator

from compression.engine.context import StageContext
from compression.modalities.text.augmentation.augmenter import AugmentedRow, Sources, Texts, augment
from compression.modalities.text.augmentation.source import AugmentationSource
from compression.modalities.text.batches import TokenizedDataset
from compression.schema.events import Event, Log
from compression.schema.recipe.augment import Augment
from compression.system.progress import Returning, Step

PHASE = "augment"
EXAMPLES, SHOWN = 3, 300
"""Pairs in the log, and the characters of each text in them."""


def augment_rows(
    context: StageContext, settings: Augment, augmentation_source: AugmentationSource
) -> Generator[Event, None, tuple[TokenizedDataset, list[Texts]]]:
    """Return train's rows with the made ones behind them, unlabelled, and the texts of these.

    Nothing is kept: a new attempt makes the same again.

    Raises Pause where one is asked for, and what opening the sources raises.
    """
    rows, seed = context.rows["train"], context.recipe.train.seed
    settings, left_out = augmentation_source.resources.resolve(settings)
    total = settings.rows * len(rows)
    yield from context.tracker.emit(PHASE, Step(0, total))
    work = augment(augmentation_source.texts, settings, seed, _opened(context, settings, augmentation_source))
    for done in (each := Returning(work)):
        yield from context.tracker.emit(PHASE, Step(done, total))
        context.check_pause()
    made = each.result
    said = " ".join([_summary(made, settings, augmentation_source, total), *left_out])
    context.notes.append(said)
    yield Log(message=said)
    for one in made[:: max(1, len(made) // EXAMPLES)][:EXAMPLES]:
        yield Log(message=f"Made of {_shown(augmentation_source.texts[one.row])}: {_shown(one.texts)}.")
    if not made:
        return rows, []
    labels = rows.labels[[one.row for one in made]].tolist()
    texts = [one.texts for one in made]
    return rows.with_unlabelled(augmentation_source.encode(texts, labels)), texts


def _opened(context: StageContext, settings: Augment, augmentation_source: AugmentationSource) -> Sources:
    assert context.teacher is not None, "the pipeline calls stages in their order"  # noqa: S101
    resources, table = augmentation_source.resources, context.teacher.get_input_embeddings().weight
    return Sources(
        synonyms=resources.open_synonyms(settings.synonyms, augmentation_source.tokenizer, table)
        if settings.synonyms
        else None,
        translators=resources.open_translators(settings.back_translation) if settings.back_translation else None,
    )


def _summary(made: list[AugmentedRow], settings: Augment, augmentation_source: AugmentationSource, total: int) -> str:
    counts = Counter(one.by for one in made)
    ways = []
    if (asked := settings.back_translation) is not None:
        ways.append(f"{counts['back_translation']} by back-translation by {asked.apertium or ' and '.join(asked.models or ())}")
    if settings.synonyms is not None:
        ways.append(f"{counts['synonyms']} with other words from {augmentation_source.resources.source(settings.synonyms)}")
    if settings.splices:
        ways.append(f"{counts['splices']} of two rows put together")
    words = f", {sum(one.replaced for one in made)} words replaced" if settings.synonyms is not None else ""
    same = f"; {total - len(made)} came out as they were or twice, and were left out" if len(made) < total else ""
    of = len(augmentation_source.texts)
    return f"Augmentation: {len(made)} rows made of {of} ({', '.join(ways) or 'nothing'}){words}{same}."


def _shown(texts: Texts) -> str:
    return " | ".join(repr(text if len(text) <= SHOWN else text[:SHOWN] + "…") for text in texts)
