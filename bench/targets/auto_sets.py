"""Sets that `auto` was not developed with: tweets and editorials, two that are made here, and known ones with other seeds.

The tweets are among the rows of the demo's data, which other recipes were tried on; here they are split anew.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.preparation import datasets
from bench.preparation.datasets import SPLITS, Prepared, Rows
from bench.targets.steps import Place
from scripts.fetch_examples import EDITORIALS, SOURCES, sentences

MOST_TRAIN = 2000
KNOWN = ("sst2", "mrpc", "stsb", "banking77")
FOUND = {"tweets": {"tweets": SOURCES["tweets"]}, "editorials": {"editorials": EDITORIALS["nyt"]}}
"""Name → its file in the source distribution of vaderSentiment, as scripts/fetch_examples.py names them."""
DECIDED = 0.5
"""Mean score, of -4 to 4, from which on people agree that a sentence is positive or negative; others are left out."""
SHARES = {"test": 0.3, "validation": 0.2, "train": 0.5}
MADE_ROWS = {"train": MOST_TRAIN, "validation": 800, "test": 1000}

PLACES = ("the office", "the station", "my flat", "the airport", "the old town", "the lake", "the library", "the harbour")
DAYS = ("today", "tomorrow", "on monday", "next week", "this evening", "at noon", "on friday", "at half past nine")
PEOPLE = ("anna", "my brother", "the whole team", "doctor lee", "paul", "our neighbour", "maria", "the landlord")
THINGS = ("the soup", "the hotel", "the trip", "the new phone", "the play", "the course", "the garden", "the engine")
INTENTS = {
    "book a table": ("a table for two {day} please", "can we eat near {place} {day}", "reserve dinner with {person}"),
    "send a message": ("tell {person} that i am late", "write to {person} about {day}", "let {person} know i left {place}"),
    "find a way": ("how do i get to {place}", "the shortest road from {place} to {person}", "is {place} far from here"),
    "ask for weather": ("will it rain near {place} {day}", "do i need a coat {day}", "how warm is it at {place}"),
    "set an alarm": ("wake me {day}", "remind me {day} to call {person}", "do not let me forget {place} {day}"),
    "cancel": ("i cannot see {person} {day} after all", "call off what we planned for {day}", "no more visits to {place}"),
}
GOOD = ("good", "splendid", "a delight", "better than ever", "well made", "worth it")
BAD = ("bad", "dreadful", "a disgrace", "worse than ever", "badly made", "not worth it")
CLAIMS = {"{thing} was {word}": 1, "nobody would say that {thing} was {word}": -1, "it is not true that {thing} was {word}": -1}
CLAIMS |= {"everybody found that {thing} was {word}": 1, "i doubt that {thing} was {word}": -1, "i swear {thing} was {word}": 1}


def prepare(name: str, place: Place) -> Prepared:
    """Write one set's three splits into the folder of runs, if they are not there. Train has 2,000 rows at most."""
    folder = place.folder / "data" / f"auto-{name}"
    if name in KNOWN:
        most = round(MOST_TRAIN / (1 - datasets.VALIDATION))
        return datasets.prepare(name, place.data, place.examples, folder, most)
    if all((folder / f"{split}.jsonl").is_file() for split in SPLITS):  # what is fetched is fetched once
        rows = {split: _read(folder / f"{split}.jsonl") for split in SPLITS}
    else:
        rows = MADE[name]() if name in MADE else found_rows(sentences(FOUND[name]))
    return datasets.write_set(name, rows, folder)


def found_rows(scored: Iterator[tuple[str, float, str]]) -> dict[str, Rows]:
    """Split scored sentences by their documents. scored: (document, mean score, text)."""
    rows: dict[str, Rows] = {split: [] for split in SPLITS}
    for document, score, text in scored:
        if abs(score) >= DECIDED and text:
            rows[_split_of(document)].append({"text": text, "label": "positive" if score > 0 else "negative"})
    random.Random(0).shuffle(rows["train"])
    return {**rows, "train": rows["train"][:MOST_TRAIN]}


def made_rows(draw_row: Callable[[random.Random], tuple[str, str]], seed: str) -> dict[str, Rows]:
    """Draw different texts, each in one split."""
    draw, seen = random.Random(seed), dict[str, str]()
    while len(seen) < sum(MADE_ROWS.values()):
        text, label = draw_row(draw)
        seen.setdefault(text, label)
    every = iter(seen.items())
    return {split: [{"text": text, "label": label} for text, label in _some(every, rows)] for split, rows in MADE_ROWS.items()}


def intent(draw: random.Random) -> tuple[str, str]:
    """Draw a request with its purpose: two sentences of the same one, in different words."""
    label = draw.choice([*INTENTS])
    filled = (
        form.format(day=draw.choice(DAYS), place=draw.choice(PLACES), person=draw.choice(PEOPLE))
        for form in draw.sample(INTENTS[label], 2)
    )
    return f"{draw.choice(('hello', 'well', 'please', 'so', 'listen'))}, {' and '.join(filled)}", label


def negation(draw: random.Random) -> tuple[str, str]:
    """Draw two claims of which the second one counts; it may be denied."""
    claims = []
    for thing in draw.sample(THINGS, 2):
        form, sign = draw.choice([*CLAIMS.items()])
        words, worth = draw.choice(((GOOD, 1), (BAD, -1)))
        claims.append((form.format(thing=thing, word=draw.choice(words)), sign * worth))
    (first, _), (second, sign) = claims
    return f"although {first}, {second}", "positive" if sign > 0 else "negative"


MADE: Mapping[str, Callable[[], dict[str, Rows]]] = {
    "intents": lambda: made_rows(intent, "intents"),
    "negations": lambda: made_rows(negation, "negations"),
}


def _some(every: Iterator[tuple[str, str]], count: int) -> Iterator[tuple[str, str]]:
    return (next(every) for _ in range(count))


def _read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _split_of(document: str) -> str:
    """Return a document's split, which its hash determines."""
    point = int.from_bytes(hashlib.sha256(f"auto {document}".encode()).digest()[:8], "big") / 2**64
    for name, share in SHARES.items():
        if point < share:
            return name
        point -= share
    return "train"
