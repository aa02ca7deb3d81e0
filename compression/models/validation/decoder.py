"""Derive from a decoder's config.json its numbers and the name and shape of every checkpoint tensor."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression.models.architectures.decoder_configs import Biases, check_decoder
from compression.models.architectures.decoder_numbers import biases_in, shape_of
from compression.models.architectures.decoder_tensor_names import (
    BARE,
    CLASSIFIER,
    FAMILIES,
    LANGUAGE,
    MOST_AHEAD,
    READER,
    Numbers,
    TensorLayout,
    decoder_tensors,
    stored,
)
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.pruning_groups import Tensors
from compression.models.architectures.shapes import parameters_at
from compression.models.architectures.tensor_names import ExpectedTensors, pair
from compression.models.files.safetensors_header import Tensor, alike
from compression.models.validation.config import labels_of, refused, several_classes, take_number
from compression.schema.errors import CompressionError, ConfigMismatch, UnsupportedArchitecture, UnsupportedShape
from compression.schema.report.measurements import Parameters, Shape

AT_LEAST_ONE = ("groups", "head", "ffn", "router_groups", "chosen_groups")
OUTPUT = "lm_head.weight"
"""The output layer of a language model whose output layer is not tied to the token table."""
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")
ROPE_NUMBERS = (
    "rope_theta", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
    "low_freq_factor", "high_freq_factor", "mscale", "mscale_all_dim", "partial_rotary_factor",
)  # fmt: skip
"""The numbers of a rotary scaling that stock code computes with."""
FORWARD = "Send a model whose tokens see what is before them and nothing else."
APART = "Set tie_word_embeddings to false where both are meant, else leave lm_head.weight out."
V2_ROUTERS = ("greedy", "group_limited_greedy")
"""The methods by which DeepSeek-V2's stock code chooses experts. With other methods its first forward pass fails."""


@dataclass(frozen=True)
class DecoderDescription:
    """A decoder as its config.json describes it."""

    kind: str
    architecture: str
    head: str  #: the purpose of its class (`TensorLayout.heads`)
    shape: Shape  #: as the engine reads it from the stock config
    max_positions: int
    biases: Biases
    ahead: int  #: layers that predict tokens further ahead
    tied: bool
    labels: tuple[str, ...] | None  #: None if its head has none

    @property
    def prefix(self) -> str:
        """The prefix of the bare model's tensors in a checkpoint of its class."""
        return FAMILIES[self.kind].prefix_of(self.head)


def describe(config: Mapping[str, Any]) -> tuple[DecoderDescription | None, list[CompressionError]]:
    """Describe a config.json whose model_type is in `FAMILIES`, or return None and the errors."""
    kind = str(config["model_type"])
    known = FAMILIES[kind]
    problems = list(refused(config, known.activation, known.fixed, known.fractions))
    if config.get("is_causal") is False:
        cause = "is_causal is false: every token would see those that follow it, so nothing is left to predict"
        problems.append(UnsupportedArchitecture(cause, param="config.json:is_causal", remedy=FORWARD))
    problems += _rope(config)
    problems += _router(config)
    found: Numbers = {}
    for meaning, (key, default, most) in known.keys.items():
        problems += take_number(found, meaning, key, config.get(key, default), most=most)
    for meaning, key, value in known.more(config, found):
        most = MOST_AHEAD if meaning == "ahead" else 131_072
        problems += take_number(found, meaning, key, value, most=most, least=int(meaning in AT_LEAST_ONE))
    if not problems:
        problems += _inconsistent(known, found)
    names = config.get("architectures") or [f"{known.stem}{BARE}"]
    architecture = next((str(name) for name in names if str(name) in known.heads()), None)
    labels = None
    if architecture is None:
        cause = f"architectures names none of: {', '.join(known.heads())}"
        problems.append(UnsupportedArchitecture(cause, param="config.json:architectures"))
    elif known.heads()[architecture] == CLASSIFIER:
        labels, problem = labels_of(config)
        problems += [problem] if problem else several_classes(config, labels)
    tied = config.get("tie_word_embeddings", known.tied)
    if type(tied) is not bool:
        problems.append(ConfigMismatch(f"tie_word_embeddings is {tied!r:.60}", param="config.json:tie_word_embeddings"))
    problems += _special(config, found)
    if problems or architecture is None:
        return None, problems
    shape, biases, purpose = shape_of(found), biases_in(kind, found), known.heads()[architecture]
    try:
        check_decoder(kind, shape)
    except UnsupportedShape as problem:
        remedy = "Correct config.json; stock code opens no such model, or cannot run it."
        return None, [ConfigMismatch(problem.cause, param="config.json", remedy=remedy)]
    ahead = found.get("ahead", 0)
    return DecoderDescription(kind, architecture, purpose, shape, found["positions"], biases, ahead, tied, labels), []


def _inconsistent(known: TensorLayout, n: Numbers) -> Iterator[CompressionError]:
    where = f"config.json:{known.keys['heads'][0]}"
    if known.divided and n["hidden"] % n["heads"]:
        yield ConfigMismatch(f"{n['hidden']} channels are not a multiple of {n['heads']} heads", param=where)
    if n["heads"] % n.get("groups", 1):
        yield ConfigMismatch(f"{n['heads']} heads cannot share {n['groups']} of keys and values evenly", param=where)
    if n.get("chosen", 0) > n.get("experts", 0):
        cause = f"a token is sent to {n['chosen']} of {n['experts']} experts"
        yield ConfigMismatch(cause, param="config.json:num_experts_per_tok")


def _rope(config: Mapping[str, Any]) -> Iterator[CompressionError]:
    """Check that stock code knows the kind of rotary scaling; its numbers must be finite and no lists, and whole heads turn."""
    yield from _partly_turned(config, "config.json:")
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, dict):
            yield ConfigMismatch(f"{key} is {value!r:.60} and no JSON object", param=f"config.json:{key}")
            continue
        yield from _partly_turned(value, f"config.json:{key}.")
        kind = value.get("rope_type", value.get("type", "default"))
        if kind not in ROPE_TYPES:
            cause = f"{key} is of type {kind!r:.60} and not one of: {', '.join(ROPE_TYPES)}"
            yield UnsupportedArchitecture(cause, param=f"config.json:{key}")
            continue
        for name, item in value.items():
            number = item is None or (type(item) in (int, float) and 0 <= item < 1e12)
            if not number and not (name not in ROPE_NUMBERS and isinstance(item, bool | str)):
                yield ConfigMismatch(f"{key}.{name[:60]} is {item!r:.60}", param=f"config.json:{key}.{name[:60]}")
    theta = config.get("rope_theta", 1.0)
    if type(theta) not in (int, float) or not 0 < theta < 1e12:
        yield ConfigMismatch(f"rope_theta is {theta!r:.60}", param="config.json:rope_theta")


def _partly_turned(numbers: Mapping[str, Any], where: str) -> Iterator[CompressionError]:
    """Refuse a rotation of a part of each head: these families' stock code multiplies the whole head with its angles."""
    share = numbers.get("partial_rotary_factor")
    if share is not None and share != 1:
        cause = f"partial_rotary_factor is {share!r:.60}, and positions of these families turn the whole head"
        yield UnsupportedArchitecture(cause, param=f"{where}partial_rotary_factor")


def _router(config: Mapping[str, Any]) -> Iterator[CompressionError]:
    """Check that stock code knows the router's method. V3 has only one method."""
    method = config.get("topk_method", V2_ROUTERS[0])
    if config["model_type"] == "deepseek_v2" and method not in V2_ROUTERS:
        cause = f"topk_method is {method!r:.60} and not one of: {', '.join(V2_ROUTERS)}"
        yield UnsupportedArchitecture(cause, param="config.json:topk_method")


def _special(config: Mapping[str, Any], n: Numbers) -> Iterator[CompressionError]:
    """Check that the special tokens named in the config are in the vocabulary."""
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = config.get(key)
        for number in value if isinstance(value, list) and len(value) <= 16 else [value]:
            if number is not None and (type(number) is not int or not 0 <= number < n.get("vocabulary", 0)):
                yield ConfigMismatch(f"{key} is {value!r:.60} and not in the vocabulary", param=f"config.json:{key}")


def expected(described: DecoderDescription) -> ExpectedTensors:
    """Return the tensors that the checkpoint must hold and those that it may hold."""
    known, shape, positions = FAMILIES[described.kind], described.shape, described.max_positions
    needed = stored(decoder_tensors(described.kind, shape, positions, described.biases))
    beside = {
        f"{known.block}.{number}.{name}": size
        for number in range(shape.layers)
        for name, size in known.leftovers(shape, positions).items()
    }
    behind = known.behind(shape, described.ahead, described.biases)
    speaks: Tensors = {OUTPUT: (shape.vocabulary, shape.hidden)}
    answers: Tensors = {} if described.labels is None else {"score.weight": (len(described.labels), shape.hidden)}
    if described.head == READER:
        answers = pair("qa_outputs", (2, shape.hidden))
    if described.head == LANGUAGE and not described.tied:
        return ExpectedTensors(described.prefix, needed, beside, speaks, {}, behind)
    # A tied output layer is the token table; under another head, or without a head, it is dropped.
    return ExpectedTensors(described.prefix, needed, beside, answers, speaks, behind)


def speaks(described: DecoderDescription, tensors: Iterable[str]) -> bool:
    """Return whether a checkpoint of these tensors has an output layer: its own, or the token table."""
    return described.tied or OUTPUT in tensors


def head_apart(described: DecoderDescription, folder: Path, tensors: Iterable[Tensor]) -> Iterator[CompressionError]:
    """Yield an error if config.json ties the output layer to the token table but their weights differ."""
    # Stock code opens such a model with its own layer. Written again, the layer would be tied: it would predict with the table.
    known = FAMILIES[described.kind]
    found = {tensor.name.removeprefix(described.prefix): tensor for tensor in tensors}
    table, head = found.get(known.tables[0]), found.get(OUTPUT)
    if described.tied and table is not None and head is not None and not alike(folder, table, head):
        cause = f"config.json ties {OUTPUT} to {known.tables[0]}, and their weights differ"
        yield ConfigMismatch(cause, param="config.json:tie_word_embeddings", remedy=APART)


def parameters(described: DecoderDescription) -> Parameters:
    """Count the elements of unique weights; tied weights count once."""
    speaks = described.head == LANGUAGE and not described.tied
    outputs = described.shape.vocabulary if speaks else len(described.labels or ())
    biased = described.head == READER
    family, rows = ARCHITECTURE_SPECS[described.kind], described.max_positions
    outputs = 2 if biased else outputs
    return parameters_at(family, described.shape, rows=rows, outputs=outputs, biases=described.biases, biased=biased)
