"""Texts become documents: what is asked for, what is only read, and how many bytes that is."""

import pytest

from compression.modalities.text.causal_lm.documents import affixes, read
from tests.support.tiny_language import BOS, EOS, TEXTS, tokenizer


def test_what_the_tokenizer_puts_around_a_text_is_read_and_not_scored_whatever_settings_say() -> None:
    reader = tokenizer(bos=True, eos=True)
    found = read(TEXTS, reader)
    assert affixes(reader) == ([reader.bos_token_id], [reader.eos_token_id])
    assert found.bytes.tolist() == [len(text.encode()) for text in TEXTS]
    for text, start, end, scored in zip(TEXTS, found.starts.tolist(), found.ends.tolist(), found.scored.tolist(), strict=True):
        ids = found.ids[start:end].tolist()
        assert ids == reader(text)["input_ids"]
        assert reader.decode(ids[found.lead : found.lead + scored]) == text
    reader = tokenizer(bos=True)
    assert reader.add_bos_token is False  # nobody said so; the post-processor does it all the same
    assert affixes(reader) == ([reader.bos_token_id], [])


def test_an_affix_that_a_text_has_itself_is_not_put_there_again() -> None:
    reader = tokenizer(bos=True, eos=True)
    found = read([f"{BOS}hello{EOS}", "hello"], reader)
    chat, plain = (found.ids[start:end].tolist() for start, end in zip(found.starts, found.ends, strict=True))
    assert chat == plain
    assert chat.count(reader.bos_token_id) == chat.count(reader.eos_token_id) == 1
    # Its own BOS is foretold by nothing; its own EOS is text, and scored with its bytes.
    assert (found.scored.tolist(), found.bytes.tolist()) == ([6, 5], [len("hello" + EOS), len("hello")])


def test_without_a_token_before_it_the_first_of_a_text_is_not_scored_and_its_bytes_do_not_count() -> None:
    found = read(["the cat", "Æther", "🦊 fox"], tokenizer())
    assert (found.lead, found.scored.tolist()) == (1, [4, 3, 7])
    # "the" is one token; of a character that lies in several tokens no byte counts where one of them is not scored.
    assert found.bytes.tolist() == [4, 4, 4]


def test_texts_that_ask_nothing_are_left_out_and_counted() -> None:
    assert (read(["", "a", "ab"], tokenizer()).left_out, len(read(["", "a", "ab"], tokenizer()))) == (2, 1)
    found = read(["", BOS, "a"], tokenizer(bos=True, eos=True))
    assert (found.left_out, found.scored.tolist()) == (2, [1])
    assert len(read([], tokenizer())) == 0


def test_a_tokenizer_that_cuts_and_pads_neither_cuts_nor_pads_a_document() -> None:
    plain, cutting = tokenizer(bos=True), tokenizer(bos=True)
    cutting.backend_tokenizer.enable_truncation(3)
    cutting.backend_tokenizer.enable_padding(length=8)
    assert read(TEXTS, cutting).ids.tolist() == read(TEXTS, plain).ids.tolist()
    assert read(TEXTS, cutting).bytes.tolist() == read(TEXTS, plain).bytes.tolist()


@pytest.mark.parametrize("count", [3, 1200])
def test_many_texts_are_read_as_each_alone(count: int) -> None:
    texts = [f"{TEXTS[i % 4]} {i}" for i in range(count)]
    reader = tokenizer(bos=True)
    found, last = read(iter(texts), reader), read(texts[-1:], reader)
    assert (len(found), found.ids[found.starts[-1] :].tolist()) == (count, last.ids.tolist())
