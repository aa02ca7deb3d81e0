"""A GGUF file becomes a stock folder that answers as the file's integers say, and reads texts by the file's vocabulary."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.integrations.gguf.gguf_tokenizer_mapping import phi3_tokenizer

from compression.engine.dataset_run import DatasetRun
from compression.models import gguf_unpack
from compression.models.files import gguf_rope
from compression.models.files.gguf_names import WHOLE_WORDS
from compression.models.files.uploaded import uploaded
from compression.models.loading import load_tokenizer
from compression.schema.errors import ConfigMismatch, MissingFile, UnsupportedTokenizer
from compression.schema.report.measurements import Uploaded
from tests.compression.models.validation.conftest import judged
from tests.support.decoder_models import tiny
from tests.support.engine_jobs import spec_of
from tests.support.gguf_files import CONTROL, divisors, pieces, tokens, write
from tests.support.tiny_bert import sentences, write_rows

VOCABULARY = len(tokens())


def unpacked_alike(folder: Path, model: PreTrainedModel, tokens: int = 37) -> PreTrainedModel:
    gguf_unpack.unpack(folder, folder / "stock")
    opened = AutoModelForCausalLM.from_pretrained(folder / "stock", dtype=torch.float32).eval()
    ids = torch.arange(3, 3 + tokens)[None] % VOCABULARY
    with torch.inference_mode():
        assert torch.allclose(opened(ids).logits, model(ids).logits, atol=1e-5)
    return opened


@pytest.mark.parametrize(
    ("kind", "packed", "more"),
    [
        ("llama", Kind.Q4_1, {"tie_word_embeddings": True}),
        ("llama", Kind.F16, {"tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}),
        ("qwen2", Kind.Q5_1, {"tie_word_embeddings": False}),
        ("qwen3", Kind.Q8_0, {"tie_word_embeddings": True, "head_dim": 128}),
        ("gpt2", Kind.Q4_0, {"n_positions": 1024}),
    ],
)
def test_it_answers_as_the_file_says(kind: str, packed: Kind, more: dict[str, object], tmp_path: Path) -> None:
    model = tiny(kind, vocab_size=VOCABULARY, **more)
    before = model.get_input_embeddings().weight.detach().clone()
    write(model, tmp_path / "tiny.gguf", packed)
    assert not model.get_input_embeddings().weight.equal(before)  # the file is not the model that it was made of
    opened = unpacked_alike(tmp_path, model)
    assert type(opened) is type(model)
    assert opened.config.tie_word_embeddings == model.config.tie_word_embeddings


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_positions_that_llama_3_scales_are_what_the_file_says(factor: float, tmp_path: Path) -> None:
    # Of the four frequencies of so small a head some stay, one is between, and one is divided by the whole factor.
    said = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": factor, **gguf_rope.LLAMA3}
    model = tiny("llama", vocab_size=VOCABULARY, rope_parameters=said, max_position_embeddings=131_072)
    by = divisors(model).tolist()
    assert by[:2] == pytest.approx([1, 1])
    assert 1.1 < by[2] < factor - 1
    assert by[3] == pytest.approx(factor)
    write(model, tmp_path / "tiny.gguf", Kind.F16)
    assert judged(tmp_path).parameters.total == sum(parameter.numel() for parameter in model.parameters())
    assert unpacked_alike(tmp_path, model, tokens=300).config.rope_parameters == model.config.rope_parameters
    ids, plain = torch.arange(3, 303)[None] % VOCABULARY, {"rope_type": "default", "rope_theta": 500_000.0}
    with torch.inference_mode():
        other = tiny("llama", vocab_size=VOCABULARY, rope_parameters=plain)(ids).logits
        assert not torch.allclose(other, model(ids).logits, atol=1e-4)


def test_positions_that_are_divided_by_one_number_are_what_the_file_says(tmp_path: Path) -> None:
    said = {"rope_type": "linear", "rope_theta": 100_000.0, "factor": 4.0}  # as of deepseek-coder
    model = tiny("llama", vocab_size=VOCABULARY, rope_parameters=said)
    write(model, tmp_path / "tiny.gguf", Kind.F16)
    judged(tmp_path)
    assert unpacked_alike(tmp_path, model).config.rope_parameters == model.config.rope_parameters


def test_texts_are_read_by_the_file_s_vocabulary(tmp_path: Path) -> None:
    write(tiny("llama", vocab_size=VOCABULARY), tmp_path / "tiny.gguf")
    gguf_unpack.unpack(tmp_path, tmp_path / "stock")
    assert (tmp_path / "stock" / "tokenizer.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "stock")
    ids = tokenizer(f"is the th{CONTROL}")["input_ids"]
    assert [tokens()[number] for number in ids] == ["i", "s", "Ġthe", "Ġ", "th", CONTROL]
    assert (tokenizer.eos_token, tokenizer.pad_token) == (CONTROL, CONTROL)


def read_by(folder: Path, texts: list[str], *, vocabulary: int, **more: Any) -> list[list[str]]:
    """Write a file, unpack it, and read texts with what it became, as a job does and as an artifact does."""
    folder.mkdir()
    write(tiny("llama", vocab_size=vocabulary), folder / "tiny.gguf", **more)
    judged(folder)
    gguf_unpack.unpack(folder, folder / "stock")
    tokenizer, filed = load_tokenizer(folder / "stock"), Tokenizer.from_file(str(folder / "stock" / "tokenizer.json"))
    found = [tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) for text in texts]
    assert found == [filed.encode(text).tokens for text in texts]
    return found


@pytest.mark.parametrize("split", ["smollm", "smaug-bpe", *sorted(WHOLE_WORDS)])
def test_some_vocabularies_begin_a_text_and_leave_words_whole_where_the_file_is_silent(split: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "add_tokenizer_pre": split,
        "add_token_list": [*tokens(), "is"],  # no merge makes it
        "add_token_types": [3, *[1] * len(tokens())],
        "add_bos_token_id": 0,
    }
    whole = split in WHOLE_WORDS
    word = ["is"] if whole else ["i", "s"]
    for said, begins in ((None, whole), (True, True), (False, False)):
        flag = {} if said is None else {"add_add_bos_token": said}
        [found] = read_by(tmp_path / str(said), ["is the"], vocabulary=VOCABULARY + 1, **more, **flag)
        assert found == [*([CONTROL] if begins else []), *word, "Ġthe"]


TEXTS = [
    "The sum is 12 345, or  x\n\n\tif a1b2 != c:  # so  ",
    "don't --> (stop)!! “now”  …",
    "déjà Ünder Ἀθῆναι Москва ՀայԱ ҁ ƻ ǀ ª ß",
    " 여기 있다, 中文。 テスト 3種、",
    "\r\n \u3000 \u00a0x x\u0301 ½ ٣٤ 👍🏽 ﬁ Ａｂ 𐐀𐐁 \u1fbe\u2126\u212a",
    "   ",
    "",
]
CUTS: dict[str, list[str]] = {
    # Its letters are a long list of ranges: of the scripts above, all with two cases but for small Armenian ones.
    "deepseek-llm": [
        r"[\r\n]",
        r"\s?[[\p{Lu}\p{Ll}\p{Lt}]&&[^\x{560}-\x{588}\x{10C7}\x{10CD}\x{10D0}-\x{10FF}]]+",
        r"\s?[!-/:-~！-／：-～‘-‟\u3000-\u3002]+",
        r"\s+$",
        "[一-龥\u0800-一가-\ud7ff]+",
    ],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥\u0800-一가-\ud7ff]+"],
}


def learned_of(texts: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Learn merges across everything, so that where a text is cut is seen in its tokens; but none of two digits."""
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=False)])
    learner.train_from_iterator(texts * 2, BpeTrainer(vocab_size=5000, initial_alphabet=ByteLevel.alphabet()))
    made = json.loads(learner.to_str())["model"]
    return sorted(made["vocab"], key=made["vocab"].get), [tuple(pair) for pair in made["merges"]]


@pytest.mark.parametrize("split", CUTS)
def test_texts_are_cut_as_deepseek_s_own_tokenizers_cut_them(split: str, tmp_path: Path) -> None:
    words, merges = learned_of(TEXTS)
    names = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]
    begin, end = len(words), len(words) + 1
    special = {"add_bos_token_id": begin, "add_eos_token_id": end, "add_pad_token_id": end, "add_add_bos_token": True}
    listed = {"add_token_list": [*words, *names], "add_token_types": [*[1] * len(words), 3, 3]}
    listed |= {"add_tokenizer_pre": split, "add_token_merges": [" ".join(pair) for pair in merges]}
    found = read_by(tmp_path / split, TEXTS, vocabulary=len(words) + 2, **special, **listed)
    own = Tokenizer(BPE(vocab={word: number for number, word in enumerate(words)}, merges=merges))
    cuts = [Split(Regex(expression), "isolated") for expression in CUTS[split]]
    own.pre_tokenizer = Sequence([*cuts, Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=False)])
    assert found == [[names[0], *own.encode(text).tokens] for text in TEXTS]
    own.pre_tokenizer = ByteLevel(add_prefix_space=False)  # as the stock reader would cut
    assert sum(tokens[1:] != own.encode(text).tokens for text, tokens in zip(TEXTS, found, strict=True)) > 3
    # A special token is the one that the model has a row for, also where a text says it.
    tokenizer = load_tokenizer(tmp_path / split / "stock")
    assert tokenizer(f"is{names[1]}")["input_ids"][-1] == end
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id) == (len(words) + 2, begin, end)


def test_special_tokens_with_signs_that_no_byte_has_keep_their_rows(tmp_path: Path) -> None:
    begin = "<｜begin▁of▁sentence｜>"
    more: dict[str, Any] = {
        "add_tokenizer_pre": "deepseek-r1-qwen",  # which the stock reader knows
        "add_token_list": [*tokens(), begin],
        "add_token_types": [3, *[1] * (len(tokens()) - 1), 3],
        "add_bos_token_id": len(tokens()),
        "add_add_bos_token": True,
    }
    (found,) = read_by(tmp_path / "right", [f"is{begin}"], vocabulary=VOCABULARY + 1, **more)
    assert found == [begin, "i", "s", begin]
    assert load_tokenizer(tmp_path / "right" / "stock").bos_token_id == VOCABULARY
    alike = "".join(bytes_to_unicode()[byte] for byte in begin.encode())
    more |= {"add_token_list": [*tokens(), begin, alike], "add_token_types": [3, *[1] * (len(tokens()) - 1), 3, 1]}
    with pytest.raises(UnsupportedTokenizer, match="spelled in bytes as another"):
        read_by(tmp_path / "alike", ["is"], vocabulary=VOCABULARY + 2, **more)


def test_a_vocabulary_of_sentencepiece_s_kind_is_read_as_the_file_says(tmp_path: Path) -> None:
    def found(name: str, **more: Any) -> list[list[str]]:
        return read_by(tmp_path / name, ["is the", "é"], vocabulary=len(pieces()), sentencepiece=True, **more)

    letter = ["<0xC3>", "<0xA9>"]
    begun = [["<s>", "▁", "is", "▁the"], ["<s>", "▁", *letter]]
    assert found("silent") == found("said", add_add_bos_token=True, add_add_space_prefix=True) == begun
    assert found("no start", add_add_bos_token=False) == [text[1:] for text in begun]
    assert found("no space", add_add_space_prefix=False) == [["<s>", "is", "▁the"], ["<s>", *letter]]
    tokenizer = load_tokenizer(tmp_path / "no space" / "stock")
    for text in ("is the", " is the"):  # no space is taken away from what it writes either
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_a_space_that_cannot_be_left_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_phi3(*_: object, **__: object) -> PreTrainedTokenizerFast:
        return phi3_tokenizer({"tokens": [*pieces()], "scores": [*pieces().values()]})

    write(tiny("llama", vocab_size=len(pieces())), tmp_path / "tiny.gguf", sentencepiece=True, add_add_space_prefix=False)
    monkeypatch.setattr("compression.models.gguf_unpack.AutoTokenizer.from_pretrained", as_phi3)
    with pytest.raises(UnsupportedTokenizer, match="add_space_prefix") as caught:
        gguf_unpack.unpack(tmp_path, tmp_path / "stock")
    assert "Send the checkpoint" in caught.value.remedy_text
    assert not (tmp_path / "stock").exists()


def test_a_file_that_lacks_a_tensor_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFile):
        gguf_unpack.unpack(tmp_path, tmp_path / "stock")
    model = tiny("llama", vocab_size=VOCABULARY)
    model.config.num_hidden_layers = 3  # says the file; the third layer is not there
    write(model, tmp_path / "tiny.gguf")
    with pytest.raises(ConfigMismatch, match=r"layers\.2"):
        gguf_unpack.unpack(tmp_path, tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_job_works_on_what_the_file_holds_and_says_what_was_sent(tmp_path: Path) -> None:
    model = tiny("llama", vocab_size=VOCABULARY)
    (tmp_path / "model").mkdir()
    file = write(model, tmp_path / "model" / "tiny.gguf", Kind.Q4_1)
    write_rows(tmp_path / "train.jsonl", sentences(30, seed=1))
    write_rows(tmp_path / "test.jsonl", sentences(10, seed=2))
    spec = spec_of(tmp_path / "model", tmp_path, task="causal-lm", recipe={"train": {"max_length": 32}, "prune": None})
    part = DatasetRun.open(spec, tmp_path, spec.asked[0])
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.allclose(part.state.model(ids).logits, model(ids).logits, atol=1e-5)
    assert uploaded(tmp_path / spec.model) == Uploaded(bytes=file.stat().st_size, dtype="Q4_1")
    assert (part.reader("baseline").folder / "tokenizer.json").is_file()
