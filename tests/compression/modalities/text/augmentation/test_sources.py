"""Where other words come from: WordNet's files, a model's input table, a masked language model."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import Unigram
from tokenizers.normalizers import Prepend, Replace, Sequence
from tokenizers.pre_tokenizers import Metaspace
from transformers import AutoTokenizer, BertForMaskedLM, BertForSequenceClassification, PreTrainedTokenizerFast

from compression.modalities.text.augmentation.embedding_neighbours import Neighbours, Vocabulary, nearest
from compression.modalities.text.augmentation.masked_lm import MaskedLM
from compression.modalities.text.augmentation.wordnet import FILES, PARTS_OF_SPEECH, WordNet
from compression.modalities.text.augmentation.words import WordSpan, replace_span, word_spans
from compression.schema.errors import MissingResource
from tests.compression.modalities.text.augmentation.conftest import byte_pairs
from tests.support.tiny_bert import WORDS, tiny_config, write_tokenizer

INSTALLED = Path("/usr/share/wordnet")


def word(text: str, number: int = 0) -> WordSpan:
    return word_spans(text)[number]


def write_wordnet(folder: Path) -> Path:
    """Write database files as wndb(5WN) describes them: a licence first, hexadecimal counts, pointers, markers, offsets."""
    folder.mkdir()
    licence = "  1 This is the licence.  \n"
    film = "03 n 02 film 0 moving_picture 1 001 @ 00000001 n 0000 | a story"
    synsets = {
        "noun": [film, "03 n 02 film 2 sheet 0 000 | a thin layer"],
        "verb": ["03 v 02 film 0 shoot 0 000 01 + 08 00 | record"],
        "adj": ["00 a 0c good 0 " + " ".join(f"fine{n} 0" for n in "abcdefghij") + " well(p) 0 000 | right"],
        "adv": ["02 r 02 well 0 Goodly 0 000 | rightly"],
    }
    offsets = {}
    for part, lines in synsets.items():
        data = licence
        for line in lines:
            offsets.setdefault(part, []).append(len(data))
            data += f"{len(data):08} {line}  \n"
        (folder / f"data.{part}").write_text(data)
    one, other = (f"{offset:08}" for offset in offsets["noun"])
    (folder / "index.noun").write_text(f"{licence}film n 2 1 @ 2 1 {one} {other}  \nit n 1 0 1 0 {other}  \n")
    for part, entry in (("verb", "film v 1 0 1 0"), ("adj", "good a 1 2 ! & 1 1"), ("adv", "well r 1 0 1 1")):
        (folder / f"index.{part}").write_text(f"{licence}{entry} {offsets[part][0]:08}  \n")
    return folder


def test_a_text_keeps_all_but_the_words_exchanged() -> None:
    assert [place.word for place in word_spans("the 2nd b2b _draft_ re-made @you naïve")] == ["the", "re-made", "you", "naïve"]
    text = "Good film, don't you THINK?  (5 stars)"
    found = word_spans(text)
    assert [place.word for place in found] == ["Good", "film", "don't", "you", "THINK", "stars"]
    changes = {found[4]: "mean", found[0]: "fine", found[5]: "moons"}
    assert replace_span(text, changes) == "Fine film, don't you MEAN?  (5 moons)"
    assert replace_span(text, {}) == text


def test_wordnet_is_read_as_its_format_says(tmp_path: Path) -> None:
    words = WordNet(write_wordnet(tmp_path / "wordnet"))
    # Of the noun the sense in use; the verb, of which none is in use, and the second sense are out of the way.
    assert words.synonyms("Film") == ["moving picture"]
    assert words.synonyms("good") == [*(f"fine{n}" for n in "abcdefghij"), "well"]
    assert words.synonyms("well") == []  # only a name
    assert words.synonyms("it") == []
    assert words.synonyms("absent") == []
    assert words.candidates([word("film good", 1)])[0][0] == "finea"


@pytest.mark.parametrize("name", FILES)
def test_a_wordnet_that_is_not_whole_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_wordnet(tmp_path / "wordnet")
    (folder / name).unlink()
    with pytest.raises(MissingResource, match=name, check=lambda error: "LATHE_WORDNET" in error.remedy_text):
        WordNet(folder)


@pytest.mark.skipif(not (INSTALLED / "index.noun").is_file(), reason="Debian's wordnet-base is not installed")
def test_the_real_wordnet_knows_words_of_all_kinds() -> None:
    words = WordNet(INSTALLED)
    assert "film" in words.synonyms("movie")
    assert "awful" in words.synonyms("terrible")
    assert "rapidly" in words.synonyms("quickly")
    assert "purchase" in words.synonyms("buy")
    assert "Leslie Townes Hope" not in words.synonyms("hope")
    for part in PARTS_OF_SPEECH:  # every synset of every word can be read
        assert all(words._synset(part, offset) for lemma in ("set", "light") for p, offset in words._senses(lemma) if p == part)


def test_nearest_is_by_the_angle_not_by_the_length() -> None:
    table = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), dim=-1)
    assert nearest(table, torch.tensor([[50.0, 1.0], [0.0, 0.2]]), 2).tolist() == [[0, 1], [2, 1]]
    assert nearest(table, torch.tensor([[1.0, 0.0]]), 9).shape == (1, 3)


def test_neighbours_are_whole_words_near_in_the_table(tmp_path: Path, model: BertForSequenceClassification) -> None:
    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["##ly", "x"])
    table = model.get_input_embeddings().weight.detach().clone()
    for name, near in (("great", 0.1), ("fine", 0.2), ("[MASK]", 0.0)):
        table[WORDS[name]] = 3 * table[WORDS["good"]] + near * table[WORDS["bad"]]
    table = torch.cat([table, table[WORDS["good"]][None]])  # of ##ly; x has no row at all
    source = Neighbours(Vocabulary(tokenizer), table, most=2)
    assert source.candidates(word_spans("Good unheard good x")) == [["great", "fine"], [], ["great", "fine"], []]


def test_words_of_several_pieces_have_the_neighbours_of_their_mean() -> None:
    tokenizer = byte_pairs(["low lower lowest new newer newest wide wider widest"] * 20)
    vocabulary = Vocabulary(tokenizer)
    assert "lower" in vocabulary.words.values()  # with the mark of the space before it taken off
    strange = "lownew"
    pieces = vocabulary.pieces([strange])[0]
    assert len(pieces) > 1
    table = torch.randn((len(tokenizer), 16), generator=torch.Generator().manual_seed(0))
    target = next(number for number, found in vocabulary.words.items() if found == "wide")
    table[target] = table[pieces].mean(dim=0)
    assert Neighbours(vocabulary, table, most=1).candidates([word(strange)]) == [[]]
    assert Neighbours(vocabulary, table, most=1, pieced=True).candidates([word(strange)]) == [["wide"]]


def test_a_masked_model_says_what_fits_in_the_place_and_nothing_beyond_what_it_reads(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    torch.manual_seed(0)
    model, tokenizer = BertForMaskedLM(tiny_config()).eval(), AutoTokenizer.from_pretrained(tmp_path)
    source = MaskedLM(model, tokenizer, most=3)
    texts = ["word1 good word2", "sad word4 word5 word6 word7 happy word9"]
    asked = [word(texts[0]), word(texts[1], 1), word(texts[1])]
    # As all positions of one text, alone and unpadded, through the whole head would have it.
    for place, found in zip(asked, source.candidates(asked), strict=True):
        inputs = tokenizer(place.text[: place.start] + "[MASK]" + place.text[place.end :], return_tensors="pt")
        position = inputs["input_ids"][0].tolist().index(WORDS["[MASK]"])
        scores = model(**inputs).logits[0, position]
        order = [list(WORDS)[number] for number in scores.argsort(descending=True).tolist()]
        assert found == [other for other in order if other.isalpha() and other != place.word][:3]
    text = " ".join(["good"] * 80)  # the model has 64 positions
    first, last = source.candidates([word(text), word(text, 79)])
    assert len(first) == 3
    assert last == []


@pytest.mark.parametrize("of_its_own", [True, False])
def test_a_space_that_a_normalizer_puts_before_a_word_is_not_put_there_twice(of_its_own: bool) -> None:
    """As Llama 2's does; in later vocabularies it is the pre-tokenizer, which puts none before a space."""
    pieces = [f"▁{one}" for one in ("good", "bad", "film", "plot")]
    own = Tokenizer(Unigram([("<unk>", 0.0), ("▁", -9.0), *((piece, -1.0) for piece in pieces)], unk_id=0))
    if of_its_own:
        own.normalizer = Sequence([Prepend("▁"), Replace(" ", "▁")])
    else:
        own.pre_tokenizer = Metaspace(prepend_scheme="first")
    own.decoder = decoders.Metaspace()
    words = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>"))
    assert words.pieces(["good", "plot"]) == [[2], [5]]
