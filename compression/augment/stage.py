"""Augmentation within distillation: train's rows with the new ones behind them, and what a log and a row say of it."""

from collections import Counter
from collections.abc import Generator

from compression.augment.material import Material
from compression.augment.rows import Made, Sources, Texts, augmented
from compression.batches import Encoded
from compression.recipe import Augment
from compression.report import Event, Log
from compression.state import State
from compression.training import Tick

PHASE = "augment"
EXAMPLES, SHOWN = 3, 300
"""Pairs in the log, and the characters of each text in them."""


def with_more_rows(state: State, settings: Augment, material: Material) -> Generator[Event, None, tuple[Encoded, list[Texts]]]:
    """Return train's rows with the made ones behind them, unlabelled, and the texts of these.

    Nothing is kept: a new attempt makes the same again.

    Raises Pause where one is asked for, and what opening the sources raises.
    """
    rows, seed = state.rows["train"], state.recipe.train.seed
    settings, left_out = material.resources.resolve(settings)
    total = settings.rows * len(rows)
    yield from state.journey.at("distilled", PHASE, Tick(0, total))
    work = augmented(material.texts, settings, seed, _opened(state, settings, material))
    while True:
        try:
            done = next(work)
        except StopIteration as end:
            made: list[Made] = end.value
            break
        yield from state.journey.at("distilled", PHASE, Tick(done, total))
        state.heed()
    said = " ".join([_summary(made, settings, material, total), *left_out])
    state.notes.append(said)
    yield Log(message=said)
    for one in made[:: max(1, len(made) // EXAMPLES)][:EXAMPLES]:
        yield Log(message=f"Made of {_shown(material.texts[one.row])}: {_shown(one.texts)}.")
    if not made:
        return rows, []
    labels = rows.labels[[one.row for one in made]].tolist()
    texts = [one.texts for one in made]
    return rows.with_unlabelled(material.encode(texts, labels)), texts


def _opened(state: State, settings: Augment, material: Material) -> Sources:
    assert state.teacher is not None, "the pipeline calls stages in their order"  # noqa: S101
    resources, table = material.resources, state.teacher.get_input_embeddings().weight
    return Sources(
        synonyms=resources.open_synonyms(settings.synonyms, material.tokenizer, table) if settings.synonyms else None,
        translators=resources.open_translators(settings.back_translation) if settings.back_translation else None,
    )


def _summary(made: list[Made], settings: Augment, material: Material, total: int) -> str:
    counts = Counter(one.by for one in made)
    ways = []
    if (asked := settings.back_translation) is not None:
        ways.append(f"{counts['back_translation']} by back-translation by {asked.apertium or ' and '.join(asked.models or ())}")
    if settings.synonyms is not None:
        ways.append(f"{counts['synonyms']} with other words from {material.resources.source(settings.synonyms)}")
    if settings.splices:
        ways.append(f"{counts['splices']} of two rows put together")
    words = f", {sum(one.replaced for one in made)} words replaced" if settings.synonyms is not None else ""
    same = f"; {total - len(made)} came out as they were or twice, and were left out" if len(made) < total else ""
    return f"Augmentation: {len(made)} rows made of {len(material.texts)} ({', '.join(ways) or 'nothing'}){words}{same}."


def _shown(texts: Texts) -> str:
    return " | ".join(repr(text if len(text) <= SHOWN else text[:SHOWN] + "…") for text in texts)
