"""Looks up synonyms in WordNet's database files, in the format of wndb(5WN), without lemmatization. Torch-free.

A line of index.POS is a lemma with the offsets of its senses in data.POS, the most frequent first; the line at such an offset
is a synset, the words of one meaning.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from compression.modalities.text.augmentation.words import WordSpan
from compression.schema.errors import MissingResource

PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
FILES = tuple(f"{kind}.{part}" for part in PARTS_OF_SPEECH for kind in ("index", "data"))
REMEDY = "Install WordNet 3.0's database files (Debian: wordnet-base) and set LATHE_WORDNET, or choose the source embeddings."

FUNCTION_WORDS = frozenset(
    """a about above after again against all am among an and any are as at be because been before being below between
    both but by can cannot could did do does doing done down during each either every few for from further had has
    have having he her here hers herself him himself his how i if in into is it its itself just may me might more most
    must my myself neither no nor not of off on once one only or other ought our ours ourselves out over own same
    shall she should so some such than that the their theirs them themselves then there these they this those through
    to too under until up upon us very was we were what when where which while who whom whose why will with within
    without would yet you your yours yourself yourselves""".split()  # noqa: SIM905
)
"""English words for which WordNet has only homographs: 'it' for computing, 'a' for ångström."""


class WordNet:
    """Looks up synonyms of English lemmas."""

    def __init__(self, folder: Path) -> None:
        """Read the database files. Raises MissingResource if one is missing or is no such file."""
        self._index: dict[str, dict[bytes, bytes]] = {}
        self._data: dict[str, bytes] = {}
        for part in PARTS_OF_SPEECH:
            lines = self._read(folder, f"index.{part}").splitlines()
            self._index[part] = dict(line.split(b" ", 1) for line in lines if line.strip() and not line.startswith(b" "))
            self._data[part] = self._read(folder, f"data.{part}")
        if not any(self._index.values()):
            raise MissingResource(f"{folder.name} holds no words of WordNet", param="recipe.distill.augment", remedy=REMEDY)

    @staticmethod
    def _read(folder: Path, name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as problem:
            cause = f"WordNet's {name} cannot be read: {problem.strerror}"
            raise MissingResource(cause, param="recipe.distill.augment.synonyms.source", remedy=REMEDY) from problem

    def candidates(self, places: Sequence[WordSpan]) -> list[list[str]]:
        """Return the synonyms of each word; none for function words, even if they have homographs."""
        return [self.synonyms(place.word) for place in places]

    def synonyms(self, word: str) -> list[str]:
        """Return the other words of a word's senses, from the part of speech with the most senses in use on."""
        lemma = word.lower()
        if lemma in FUNCTION_WORDS or len(lemma) < 2:
            return []
        found = dict.fromkeys(other for part, offset in self._senses(lemma) for other in self._synset(part, offset))
        # Names and symbols are no synonyms of a common word: Hope for hope, P for phosphorus.
        return [other for other in found if other.lower() != lemma and other == other.lower()]

    def _senses(self, lemma: str) -> list[tuple[str, int]]:
        senses: list[tuple[int, str, list[int]]] = []
        for part in PARTS_OF_SPEECH:
            line = self._index[part].get(lemma.encode())
            if line is None:
                continue
            # pos synset_cnt p_cnt [ptr_symbol…] sense_cnt tagsense_cnt synset_offset…
            fields = line.split()
            pointers = int(fields[2])
            in_use = int(fields[4 + pointers])  # number of senses that occur in WordNet's corpora; the others are rare
            senses.append((in_use, part, [int(offset) for offset in fields[5 + pointers :]][: max(in_use, 1)]))
        most = max((in_use for in_use, _, _ in senses), default=0)
        senses = [sense for sense in senses if sense[0] or not most]
        senses.sort(key=lambda sense: -sense[0])
        return [(part, offset) for _, part, offsets in senses for offset in offsets]

    def _synset(self, part: str, offset: int) -> Iterator[str]:
        # synset_offset lex_filenum ss_type w_cnt word lex_id [word lex_id…] …: the count is hexadecimal
        data = self._data[part]
        fields = data[offset : data.index(b"\n", offset)].split(b" ")
        for word in islice(fields, 4, 4 + 2 * int(fields[3], 16), 2):
            # An adjective may have a marker of its position: galore(ip).
            yield word.decode("utf-8", "replace").split("(")[0].replace("_", " ")
