"""Check a single-file GGUF model: complete, consistent, and unpacked correctly by stock transformers."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import total_of
from compression.models.architectures.tensor_names import MOST_CHANNELS
from compression.models.files import gguf_header, gguf_rope, safetensors_header
from compression.models.files.gguf_names import (
    ARCHITECTURES,
    MOST_TOKENS,
    SPLITS,
    TOKENIZERS,
    WHOLE,
    WHOLE_WORDS,
    GgufArchitecture,
    GgufDescription,
)
from compression.schema.errors import (
    CompressionError,
    ConfigMismatch,
    MissingFile,
    UnsupportedArchitecture,
    UnsupportedTokenizer,
)
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.validation import ModelFacts

SUFFIX = ".gguf"
REMEDY = "Send the checkpoint that the file was made of: config.json, *.safetensors and tokenizer.json."


def is_one(folder: Path) -> bool:
    """Return whether a folder's model is a GGUF file. Safetensors beside it take precedence."""
    return bool(files(folder)) and not any(folder.glob("*.safetensors"))


def files(folder: Path) -> list[Path]:
    """Return a folder's GGUF files."""
    return sorted(path for path in folder.iterdir() if path.suffix == SUFFIX and path.is_file()) if folder.is_dir() else []


def check(folder: Path) -> ModelFacts | list[CompressionError]:
    """Return the facts of a folder's only GGUF file, or every reason to refuse it."""
    try:
        path, content = read_model(folder)
        described = describe(content, path.name)
    except CompressionError as problem:
        return [problem]
    problems: list[CompressionError] = [
        *_compare(described, content, path.name),
        *_tokenizer(content.metadata, described, path.name),
        *gguf_header.not_finite(folder, content.tensors),
    ]
    if problems:
        return problems
    try:
        gguf_rope.scaling(path, content, described.head)
    except CompressionError as problem:
        return [problem]
    return ModelFacts(
        family=ARCHITECTURE_SPECS[described.kind].name,
        architecture=ARCHITECTURES[described.kind].model,
        shape=described.shape,
        max_positions=described.positions,
        parameters=parameters(content),
        labels=None,
        dtype=content.dtype,
        bytes=path.stat().st_size,
    )


def read_model(folder: Path) -> tuple[Path, gguf_header.Gguf]:
    """Read a folder's only GGUF file up to its data. Raises MissingFile, and what `gguf_header.read` raises."""
    found = files(folder)
    if len(found) != 1:
        cause = f"the model has {len(found)} GGUF files, not one"
        remedy = "Send one file; parts of a split one are put together by llama-gguf-split --merge."
        raise MissingFile(cause, param=f"*{SUFFIX}", remedy=remedy)
    return found[0], gguf_header.read(found[0])


def parameters(content: gguf_header.Gguf) -> Parameters:
    """Count the elements of a file's weights; a head that is the token table counts once."""
    sizes = {tensor.name: math.prod(tensor.shape) for tensor in content.tensors if tensor.name != gguf_rope.TENSOR}
    return total_of(sizes, ("token_embd.weight", "position_embd.weight"))


def describe(content: gguf_header.Gguf, file: str) -> GgufDescription:
    """Read the architecture and its numbers. Raises UnsupportedArchitecture and ConfigMismatch."""
    metadata = content.metadata
    name = metadata.get("general.architecture")
    known = ARCHITECTURES.get(name) if isinstance(name, str) and name in ARCHITECTURE_SPECS else None
    if known is None:
        cause = f"general.architecture is {name!r:.60} and not one of: {', '.join(ARCHITECTURES)}"
        raise UnsupportedArchitecture(cause, param=f"{file}:general.architecture")
    if metadata.get("split.count", 1) not in (0, 1):
        cause = f"it is one part of {metadata['split.count']!r:.20}"
        raise UnsupportedArchitecture(cause, param=file, remedy="Put the parts together: llama-gguf-split --merge.")
    if metadata.get("general.name") == "mistral":
        cause = "general.name is 'mistral', which makes stock code read it as another architecture"
        raise UnsupportedArchitecture(cause, param=file)
    numbers = {meaning: _whole(metadata, f"{name}.{key}", most, file) for meaning, (key, most) in WHOLE.items()}
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= MOST_TOKENS:
        key = "tokenizer.ggml.tokens"
        raise ConfigMismatch(f"it has no vocabulary ({key})", param=f"{file}:{key}", remedy=REMEDY)
    vocabulary = _whole(metadata, f"{name}.vocab_size", MOST_TOKENS, file) if f"{name}.vocab_size" in metadata else len(tokens)
    heads, hidden = numbers["heads"], numbers["hidden"]
    groups_key = f"{name}.attention.head_count_kv"
    groups = _whole(metadata, groups_key, heads, file) if groups_key in metadata else heads
    head = known.head or hidden // heads
    if known.head_key and f"{name}.{known.head_key}" in metadata:
        head = _whole(metadata, f"{name}.{known.head_key}", MOST_CHANNELS, file)
    if heads % groups or (hidden % heads and not known.head):
        cause = f"{heads} heads do not go with {groups} groups and {hidden} channels"
        raise ConfigMismatch(cause, param=f"{file}:{name}.attention.head_count", remedy=REMEDY)
    widths = {meaning: numbers[meaning] for meaning in ("layers", "hidden", "heads", "ffn")}
    shape = Shape(**widths, vocabulary=vocabulary, groups=groups, head_size=head)
    tied = all(tensor.name != "output.weight" for tensor in content.tensors)
    described = GgufDescription(str(name), shape, numbers["positions"], head, tied)
    _refuse_unknown(metadata, known, described, file)
    return described


def _whole(metadata: Mapping[str, Any], key: str, most: int, file: str) -> int:
    value = metadata.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise ConfigMismatch(f"{key} is {value!r:.60} and not 1 to {most:,}", param=f"{file}:{key}", remedy=REMEDY)
    return value


def _refuse_unknown(metadata: Mapping[str, Any], known: GgufArchitecture, described: GgufDescription, file: str) -> None:
    """Refuse keys of the architecture that stock code would ignore or interpret differently."""
    name = metadata["general.architecture"]
    linear = known.scales and gguf_rope.is_linear(metadata)
    allowed = {*known.keys, *(key for key, _ in WHOLE.values()), known.epsilon, *(gguf_rope.KEYS if linear else ())}
    harmless = {
        **({} if linear else {"rope.scaling.type": "none"}),
        **dict.fromkeys(("attention.key_length", "attention.value_length"), described.head),
        "attention.causal": True,
        **dict.fromkeys(("expert_count", "expert_used_count"), 0),
        **({} if known.head_key else {"rope.dimension_count": described.head}),
        **known.fixed(described),
    }
    for key, value in metadata.items():
        short = key.removeprefix(f"{name}.")
        if key == short or (short in allowed and short not in harmless):
            continue
        if short not in harmless:
            cause = f"it has the key {key}, which stock transformers does not read from a file"
            raise UnsupportedArchitecture(cause, param=f"{file}:{key[:200]}", remedy=REMEDY)
        if value != harmless[short]:
            cause = f"{key} is {value!r:.60}; stock transformers assumes {harmless[short]!r}"
            raise UnsupportedArchitecture(cause, param=f"{file}:{key}", remedy=REMEDY)
    for key in (known.epsilon, "rope.freq_base"):
        value = metadata.get(f"{name}.{key}", 1.0)
        if not isinstance(value, float) or not 0 < value < 1e12:
            raise ConfigMismatch(f"{name}.{key} is {value!r:.60}", param=f"{file}:{name}.{key}", remedy=REMEDY)


def _compare(described: GgufDescription, content: gguf_header.Gguf, file: str) -> Iterator[CompressionError]:
    """Compare names and shapes of the tensors with what the architecture implies."""
    needed = described.tensors
    found = {tensor.name: tensor for tensor in content.tensors}
    if ARCHITECTURES[described.kind].scales and gguf_rope.TENSOR in found:
        needed |= {gguf_rope.TENSOR: (described.head // 2,)}
    for names, cause in (
        (sorted(needed.keys() - found.keys()), "the file lacks {}"),
        (sorted(found.keys() - needed.keys()), "its architecture does not account for {}"),
    ):
        if names:
            yield ConfigMismatch(cause.format(safetensors_header.listed(names)), param=f"{file}:{names[0]}", remedy=REMEDY)
    for name in sorted(found.keys() & needed.keys()):
        if found[name].shape != needed[name]:
            cause = f"{name} has the shape {list(found[name].shape)}, its keys imply {list(needed[name])}"
            yield ConfigMismatch(cause, param=f"{file}:{name}", remedy=REMEDY)


def _tokenizer(metadata: Mapping[str, Any], described: GgufDescription, file: str) -> Iterator[CompressionError]:
    """Check that the stock reader can build a tokenizer of the vocabulary, and that the table fits."""
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if kind not in TOKENIZERS:
        cause = f"tokenizer.ggml.model is {kind!r:.60} and not one of: {', '.join(TOKENIZERS)}"
        yield UnsupportedTokenizer(cause, param=f"{file}:tokenizer.ggml.model", remedy=REMEDY)
    elif kind == "gpt2" and (not isinstance(split, str) or split not in SPLITS):
        cause = f"tokenizer.ggml.pre is {split!r:.60}, which stock transformers would read as GPT-2's"
        yield UnsupportedTokenizer(cause, param=f"{file}:tokenizer.ggml.pre", remedy=REMEDY)
    tokens = metadata["tokenizer.ggml.tokens"]
    if not all(isinstance(token, str) for token in tokens) or len(set(tokens)) != len(tokens):
        mismatches = iter([("tokens", "does not give each id a token of its own")])
    else:
        mismatches = _vocabulary(metadata, tokens, described.shape.vocabulary)
    for key, cause in mismatches:
        yield ConfigMismatch(f"tokenizer.ggml.{key} {cause}", param=f"{file}:tokenizer.ggml.{key}", remedy=REMEDY)


def _vocabulary(metadata: Mapping[str, Any], tokens: list[str], table: int) -> Iterator[tuple[str, str]]:
    """Yield each key of the tokenizer that does not fit its tokens, and the cause."""
    kind = metadata.get("tokenizer.ggml.model")
    if len(tokens) > table:
        yield "tokens", f"has {len(tokens)} tokens for a table of {table}"
    merges = metadata.get("tokenizer.ggml.merges")
    if kind == "gpt2" and merges is None:
        yield "merges", "is not there"
    known = set(tokens)
    if merges is not None and (not isinstance(merges, list) or not all(_merges(merge, known) for merge in merges)):
        yield "merges", "does not join pairs of tokens to tokens"
    for key, item in (("scores", float), ("token_type", int)):
        values = metadata.get(f"tokenizer.ggml.{key}")
        needed = key == "scores" and kind == "llama" and merges is None
        if values is None and not needed:
            continue
        if not isinstance(values, list) or len(values) != len(tokens) or not all(type(value) is item for value in values):
            yield key, "does not have one number a token"
    for key in ("add_bos_token", "add_eos_token", "add_space_prefix"):
        if type(metadata.get(f"tokenizer.ggml.{key}", True)) is not bool:
            yield key, "is neither true nor false"
    if begins(metadata) and metadata.get("tokenizer.ggml.bos_token_id") is None:
        yield "bos_token_id", "is not there, and texts begin with it"
    for name in ("bos", "eos", "unknown", "padding"):
        number = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and (type(number) is not int or not 0 <= number < len(tokens)):
            yield f"{name}_token_id", f"is {number!r:.60} and not in the vocabulary"


def begins(metadata: Mapping[str, Any]) -> bool:
    """Return whether a text begins with the beginning token: as the file says, else llama.cpp's default for the vocabulary."""
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    usual = kind == "llama" or (kind == "gpt2" and split in WHOLE_WORDS)
    return bool(metadata.get("tokenizer.ggml.add_bos_token", usual))


def _merges(merge: object, tokens: set[str]) -> bool:
    left, _, right = merge.partition(" ") if isinstance(merge, str) else ("", "", "")
    return bool(left and right) and " " not in right and {left, right, left + right} <= tokens
