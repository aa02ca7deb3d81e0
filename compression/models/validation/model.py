"""Check that a model's folder is safe, complete, of a supported family and consistent."""

from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from compression.models.architectures.decoder_tensor_names import FAMILIES as DECODERS
from compression.models.architectures.families import ARCHITECTURE_SPECS, INSTALLED, NETWORK, architecture_of, needed_files
from compression.models.architectures.stock_networks import STOCK_NETWORKS
from compression.models.architectures.tensor_names import ExpectedTensors
from compression.models.files import safetensors_header
from compression.models.files.json_file import BadJson, read_file
from compression.models.files.safetensors_header import FLOATS
from compression.models.validation import contents, decoder, encoder, stock_network
from compression.models.validation.kinds import kind_of
from compression.schema.errors import CompressionError, ConfigMismatch, DamagedCheckpoint, MissingFile, UnsupportedArchitecture
from compression.schema.validation import ModelFacts

TOKENIZER = "tokenizer.json"
LARGEST_CONFIG = 1 << 20
LARGEST_TOKENIZER = 64 << 20
Described = encoder.EncoderDescription | decoder.DecoderDescription | stock_network.StockDescription
NO_FLOATS = ("position_ids", ".attn.bias", "relative_position_index", "num_batches_tracked")
"""Buffers that hold counts and masks, not floats; all but the last are of older versions."""


def check(folder: Path) -> ModelFacts | list[CompressionError]:
    """Return the facts of the model, or every reason to refuse it."""
    problems: list[CompressionError] = contents.check(folder)
    if kind := kind_of(folder):
        found = kind.check(folder)
        return [*problems, *found] if isinstance(found, list) else problems or found
    config, more = _config(folder)
    problems += more
    described: Described | None = None
    if config is not None:
        try:
            if architecture_of(config) == NETWORK:
                cause = f"model_type {NETWORK.model_type!r} is how the engine keeps networks of images between stages"
                raise UnsupportedArchitecture(cause, param="config.json:model_type", remedy="Send the network's ONNX file.")
        except CompressionError as problem:
            problems.append(problem)
        else:
            described, more = _kind(config["model_type"], folder).describe(config)
            problems += more
    tensors, more = safetensors_header.read_weights(folder)
    problems += more
    if tensors and not more:
        if described is not None:
            problems += _held_against(_kind(described.kind, folder).expected(described), tensors)
            if isinstance(described, decoder.DecoderDescription):
                problems += decoder.head_apart(described, folder, tensors)
        problems += safetensors_header.not_finite(folder, tensors)
    if config is None or TOKENIZER in needed_files(str(config.get("model_type"))):
        problems += _tokenizer(folder, described)
    if problems or described is None:
        return problems
    kinds = Counter(FLOATS[tensor.dtype] for tensor in tensors if tensor.dtype in FLOATS)
    return ModelFacts(
        family=ARCHITECTURE_SPECS[described.kind].name,
        architecture=described.architecture,
        shape=described.shape,
        max_positions=described.max_positions,
        parameters=_kind(described.kind, folder).parameters(described),
        labels=described.labels,
        dtype=kinds.most_common(1)[0][0],
        bytes=sum((folder / file).stat().st_size for file in {tensor.file for tensor in tensors}),
        biases=described.biases,
        network=getattr(described, "network", None),
        speaks=not isinstance(described, decoder.DecoderDescription)
        or decoder.speaks(described, [tensor.name for tensor in tensors]),
    )


def _kind(model_type: str, folder: Path) -> Any:
    """Return what describes models of this model_type: a module, or an object with the functions of one."""
    if model_type in INSTALLED:
        return INSTALLED[model_type]
    if model_type in STOCK_NETWORKS:
        return stock_network.StockFolder(folder)
    return decoder if model_type in DECODERS else encoder


def _config(folder: Path) -> tuple[dict[str, Any] | None, list[CompressionError]]:
    if not (folder / "config.json").is_file():
        return None, [MissingFile("the model has no config.json", param="config.json")]
    try:
        return read_file(folder / "config.json", LARGEST_CONFIG), []
    except BadJson as problem:
        return None, [ConfigMismatch(f"config.json: {problem}", param="config.json")]


def _held_against(expected: ExpectedTensors, tensors: list[safetensors_header.Tensor]) -> list[CompressionError]:
    """Compare names, shapes and types of the checkpoint's tensors with what config.json implies."""
    prefix = expected.prefix if any(tensor.name.startswith(expected.prefix) for tensor in tensors) else ""
    needed = {prefix + name: shape for name, shape in expected.needed.items()} | expected.head
    allowed = {prefix + name: shape for name, shape in expected.beside.items()} | expected.head_beside | needed
    found = {_modern(expected.called(tensor.name)): tensor for tensor in tensors}
    for mark, group in expected.behind.items():
        if prefix + mark in found:
            allowed |= {prefix + name: shape for name, shape in group.items()}
    problems: list[CompressionError] = []

    def disagree(names: list[str], cause: str) -> None:
        if names:
            param = f"{found[names[0]].file if names[0] in found else safetensors_header.SINGLE}:{names[0][:200]}"
            problems.append(ConfigMismatch(cause.format(safetensors_header.listed(names)), param=param))

    disagree(sorted(needed.keys() - found.keys()), "the weights lack {}")
    disagree(sorted(found.keys() - allowed.keys()), "config.json does not account for {}")
    for name in sorted(found.keys() & allowed.keys()):
        tensor = found[name]
        if tensor.shape != allowed[name]:
            disagree([name], f"{{}} has the shape {list(tensor.shape)}, config.json implies {list(allowed[name])}")
        elif tensor.dtype not in FLOATS and not name.endswith(NO_FLOATS):
            disagree([name], f"{{}} is of type {tensor.dtype} and not floating-point")
    return problems


def _modern(name: str) -> str:
    """Return a tensor's name in today's stock code, which renames those of the first checkpoints."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _tokenizer(folder: Path, described: Described | None) -> list[CompressionError]:
    path = folder / TOKENIZER
    problems: list[CompressionError] = []
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        try:
            read_file(settings, LARGEST_CONFIG)
        except BadJson as problem:
            problems.append(ConfigMismatch(f"tokenizer_config.json: {problem}", param="tokenizer_config.json"))
    if not path.is_file():
        return [*problems, MissingFile("the model has no tokenizer.json", param="tokenizer.json")]
    if path.stat().st_size > LARGEST_TOKENIZER:
        return [*problems, DamagedCheckpoint(f"tokenizer.json is larger than {LARGEST_TOKENIZER:,} bytes", param=path.name)]
    try:
        tokenizer = Tokenizer.from_file(str(path))
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        tokens = tokenizer.encode("A first sentence, to see whether it works.").ids
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:
        cause = f"tokenizer.json cannot be opened: {str(problem)[:300]}"
        return [*problems, ConfigMismatch(cause, param="tokenizer.json")]
    if not tokens:
        problems.append(ConfigMismatch("tokenizer.json turns a sentence into no tokens", param="tokenizer.json"))
    if described is not None and highest >= described.shape.vocabulary:
        cause = f"tokenizer.json has the id {highest}, config.json a vocabulary of {described.shape.vocabulary}"
        problems.append(ConfigMismatch(cause, param="tokenizer.json"))
    return problems
