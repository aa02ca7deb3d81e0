"""Says a tokenizer.json in GGUF's keys. llama.cpp has its own code for each way to split a text, by name.

The name is found by behaviour: the file with the vocabulary alone is opened in llama.cpp with one name after the other, and
must give probing texts the tokens that tokenizer.json gives them. The texts have what ways of splitting treat differently, and
a sample of the vocabulary itself.
"""

import itertools
import json
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer
from transformers import PretrainedConfig

from compression.evaluation.runtimes.gguf import GgufModel
from compression.models.files.gguf_names import WHOLE_WORDS
from compression.schema.errors import UnsupportedTokenizer

PROBES = (
    "Hello world, it's 12345 o'clock! I'LL say: they've DON'T — naïve cafés, don’t",
    "Two  spaces\tand\t\ttabs\n\nlines \r\n  end   ",
    "x = foo(bar[3], 'y')  // 100%; #ok __init__ a.b->c",
    "CamelCaseHTTPServer2x 3.14e-10 1/2 ½ ² 2024-01-31 007  8   90\n  1",
    "東京に行く 안녕 Привет мир שלום",
    "🦊🇫🇷 ok",
)
"""Texts of which at least one comes apart differently in any two of llama.cpp's ways. None begins with a space: some files of
SentencePiece's kind put none before such a text, and llama.cpp always does."""
SAMPLED, TOGETHER = 1024, 8  #: tokens of the vocabulary that are put into texts, and in one of them
WAYS = (
    "gpt-2", "qwen2", "llama-bpe", "smaug-bpe", "smollm", "tekken", "gpt-4o", "deepseek-llm", "deepseek-coder"
)  # fmt: skip
"""llama.cpp's names that Lathe also reads; of several names for the same way, one."""
FIRST = {"qwen2": "qwen2", "qwen3": "qwen2", "llama": "llama-bpe"}
"""Usual ways of llama.cpp's architectures, tried first. Two may be the same to a small vocabulary."""
ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unk_token_id", "pad": "pad_token_id"}
REMEDY = "Name only formats in which the tokenizer is tokenizer.json itself."


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer in llama.cpp's terms, each list by token id."""

    kind: str  #: "gpt2" for byte pairs, "llama" for SentencePiece's
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]  #: special tokens by role
    begins: bool
    ends: bool
    template: str | None
    whole_words: bool  #: whether a word that is a token is not merged

    def add_to(self, writer: GGUFWriter, way: str) -> None:
        """Write the keys. way: how texts are split; of SentencePiece's kind whether a space is put before: "" or "prefix"."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre("default" if self.kind == "llama" else way)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.kind == "gpt2":
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self._scores())
            writer.add_add_space_prefix(bool(way))
        for role, number in self.ids.items():
            getattr(writer, f"add_{role}_token_id")(number)
        writer.add_add_bos_token(self.begins)
        writer.add_add_eos_token(self.ends)
        if self.template is not None:
            writer.add_chat_template(self.template)

    def _scores(self) -> list[float]:
        """Return numbers in the order of the merges: llama.cpp merges the pair of the highest one first."""
        rank: dict[str, int] = {}
        for number, merge in enumerate(self.merges):
            rank.setdefault(merge.replace(" ", ""), number)
        return [-float(rank.get(token, len(rank))) for token in self.tokens]

    def ways(self, family: str) -> tuple[str, ...]:
        """Return the ways that are possible, the likeliest first."""
        if self.kind == "llama":
            return ("prefix", "")
        possible = [way for way in WAYS if (way in WHOLE_WORDS) == self.whole_words]
        return tuple(sorted(possible, key=lambda way: way != FIRST.get(family)))


def read_vocabulary(folder: Path, config: PretrainedConfig) -> Vocabulary:
    """Read a folder's tokenizer files, for a model with this config. Raises UnsupportedTokenizer."""
    state, own = json.loads((folder / "tokenizer.json").read_text("utf-8")), Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = _read(folder / "tokenizer_config.json")
    kind = _kind(state)
    added = {token["id"]: token for token in state["added_tokens"]}
    names = {number: token for token, number in own.get_vocab(with_added_tokens=True).items()}
    if max(names) >= config.vocab_size:
        raise _refused(f"has {max(names) + 1} tokens for a table of {config.vocab_size}")
    ids = _special(own, settings, config)
    if "eos" not in ids:
        raise _refused("names no token that ends a text, in whose place llama.cpp takes token 11")
    begins, ends = _around(own, ids)
    template = folder / "chat_template.jinja"
    types = [_type(names.get(number), added.get(number), number == ids.get("unk"), kind) for number in range(config.vocab_size)]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    return Vocabulary(
        kind=kind,
        tokens=[names.get(number, f"[PAD{number}]") for number in range(config.vocab_size)],
        types=types,
        merges=merges,
        ids=ids,
        begins=begins,
        ends=ends,
        template=template.read_text("utf-8") if template.is_file() else settings.get("chat_template"),
        whole_words=bool(state["model"].get("ignore_merges")),
    )


def way_of(vocabulary: Vocabulary, folder: Path, family: str, describe: Callable[[GGUFWriter], None]) -> str:
    """Return the way by which llama.cpp tokenizes as a folder's tokenizer.json. describe: adds the model's own keys.

    Raises UnsupportedTokenizer if there is none.
    """
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_truncation()
    wanted = [(text, own.encode(text).ids) for text in probes(own, vocabulary)]
    with tempfile.TemporaryDirectory() as name:
        for way in vocabulary.ways(family):
            path = Path(name) / "vocabulary.gguf"
            writer = GGUFWriter(path, family)
            describe(writer)
            vocabulary.add_to(writer, way)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.close()
            try:
                opened = GgufModel(path, vocabulary_only=True)
            except RuntimeError as problem:
                raise _refused(f"is none that llama.cpp opens: {problem}") from problem
            if all(opened.tokenize(text) == ids for text, ids in wanted):
                return way
    raise _refused("gives texts other tokens than llama.cpp does in any of its ways to split them")


def probes(own: Tokenizer, vocabulary: Vocabulary) -> Iterator[str]:
    """Yield texts on which ways to split differ, then such as are made of tokens of the vocabulary."""
    yield from PROBES
    usual = [number for number, kind in enumerate(vocabulary.types) if kind == TokenType.NORMAL]
    step = max(len(usual) // SAMPLED, 1)
    sample = usual[::step]
    for start in range(0, len(sample), TOGETHER):
        some = sample[start : start + TOGETHER]
        text = "".join(own.decode([number]) for number in some).replace("\ufffd", "")
        yield unicodedata.normalize("NFC", text)


def _kind(state: dict[str, Any]) -> str:
    """Return llama.cpp's name for the kind of a vocabulary. Raises UnsupportedTokenizer."""
    model, normalizer = state["model"], json.dumps(state["normalizer"])
    if model["type"] != "BPE":
        raise _refused(f"is of the kind {model['type']}, and only byte pairs are written")
    if "ByteLevel" not in json.dumps([state["pre_tokenizer"], state["decoder"]]):
        if not model.get("byte_fallback"):
            raise _refused("has neither bytes as letters nor tokens for single bytes")
        return "llama"
    if state["normalizer"] is not None and '"NFC"' not in normalizer:
        raise _refused("changes a text before it is split, which llama.cpp does not")
    return "gpt2"


def _type(token: str | None, added: dict[str, Any] | None, unknown: bool, kind: str) -> int:
    if token is None:
        return TokenType.UNUSED
    if kind == "llama" and unknown:
        return TokenType.UNKNOWN
    if added is not None:
        return TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    is_byte = kind == "llama" and len(token) == len("<0x00>") and token.startswith("<0x") and token.endswith(">")
    return TokenType.BYTE if is_byte else TokenType.NORMAL


def _special(own: Tokenizer, settings: dict[str, Any], config: PretrainedConfig) -> dict[str, int]:
    """Return the ids of special tokens by role: the tokenizer's, else the config's."""
    found: dict[str, int] = {}
    for role, key in ROLES.items():
        named = settings.get(f"{role}_token")
        content = named.get("content") if isinstance(named, dict) else named
        number = own.token_to_id(content) if isinstance(content, str) else getattr(config, key, None)
        first = number[0] if isinstance(number, list) and number else number
        if isinstance(first, int) and 0 <= first < config.vocab_size:
            found[role] = first
    return found


def _around(own: Tokenizer, ids: dict[str, int]) -> tuple[bool, bool]:
    """Return whether texts begin with the token that begins them, and end with the one that ends them."""
    whole, bare = own.encode("a").ids, own.encode("a", add_special_tokens=False).ids
    before = [ids["bos"]] if "bos" in ids else []
    for begins, ends in itertools.product((False, True), repeat=2):
        if whole == before * begins + bare + [ids["eos"]] * ends and (before or not begins):
            return begins, ends
    raise _refused("puts other tokens around a text than one that begins it and one that ends it")


def _refused(cause: str) -> UnsupportedTokenizer:
    return UnsupportedTokenizer(f"tokenizer.json {cause}", param="tokenizer.json", remedy=REMEDY)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}
