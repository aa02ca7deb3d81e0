"""A model that is one GGUF file becomes a stock folder: float32 weights, config.json, tokenizer.json.

What the file's names and layouts stand for is stock transformers' own knowledge (its reader, which needs the packages gguf and
accelerate, unpacks all tensors before it lets go of one; here they pass one by one). Whoever opens the folder afterwards need
not know what it was. The file must have passed `checks.gguf_model`: the stock reader trusts what it reads.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType, dequantize
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from compression.models.files import gguf_model, gguf_rope
from compression.models.files.gguf_header import Gguf
from compression.models.files.gguf_names import WHOLE_WORDS
from compression.models.files.gguf_splits import OWN_SPLITS, pre_tokenizer
from compression.models.files.safetensors_header import Tensor
from compression.models.sharded_checkpoint import LARGEST_SHARD, PlannedTensor, writing
from compression.schema.errors import ConfigMismatch, DamagedCheckpoint, UnsupportedTokenizer
from compression.system.failures import typed

SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""What transformers calls special tokens, and what GGUF files do."""
CONTROL, USER_DEFINED = 3, 4
"""Kinds of tokens that llama.cpp looks for in a text before it is cut."""


def unpack(folder: Path, place: Path) -> None:
    """Write the folder's only GGUF file as the folder `place`, which appears whole. Memory: a tensor in float32, and its copy.

    Raises what `checks.gguf_model.read_model` does, and ConfigMismatch where the stock reader finds something amiss.
    """
    path, content = gguf_model.read_model(folder)
    scaled = gguf_rope.scaling(path, content, gguf_model.describe(content, path.name).head)
    transformers.utils.logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, gguf_file=path.name, local_files_only=True, trust_remote_code=False)
        if scaled:  # which the stock reader does not look at
            config.rope_parameters = {**config.rope_parameters, **scaled}
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        tensors = _Tensors(path, content, model)
    except Exception as problem:  # transformers raises whatever it meets
        raise typed(problem) or ConfigMismatch(
            f"{path.name} cannot be opened: {str(problem)[:300]}", param=path.name
        ) from problem
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    lost = sorted(wanted.keys() - tensors.places.keys())
    if lost:
        raise ConfigMismatch(f"{path.name} lacks {lost[0]!r}", param=path.name)
    plan = [[PlannedTensor(name, torch.float32, shape)] for name, shape in wanted.items()]
    with writing(place, plan, largest=LARGEST_SHARD) as shards:
        for name, shape in wanted.items():
            values = tensors.read(name)
            if values.shape != shape:
                raise ConfigMismatch(f"{name!r} has the shape {values.shape}, and not {shape}", param=path.name)
            shards.put(name, torch.from_numpy(values))
        model.config.architectures, model.config.dtype = [type(model).__name__], "float32"
        model.config.save_pretrained(shards.folder)
        model.generation_config.save_pretrained(shards.folder)
        _of_the_file(tokenizer, content.metadata).save_pretrained(shards.folder)


def _of_the_file(found: PreTrainedTokenizerFast, metadata: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Leave of a tokenizer what the file says: stock classes add the special tokens that their families usually have.

    Where the vocabulary lacks such a one, it would get an id that the model has no row for. And let it read as llama.cpp does,
    for which the file was made, where the stock reader does not ask: whether a text begins with a token for that and with a
    space, and whether a word that is a token is merged.
    """
    tokens = metadata["tokenizer.ggml.tokens"]
    if gguf_model.begins(metadata) and not found.add_bos_token:
        found.add_bos_token = True  # which makes the post-processor anew
    said = json.loads(found.backend_tokenizer.to_str())
    said["added_tokens"] = [token for token in said["added_tokens"] if token["id"] < len(tokens)]
    is_bytes = metadata["tokenizer.ggml.model"] == "gpt2"
    if is_bytes:
        _name_as_filed(said, metadata)
    if is_bytes and metadata.get("tokenizer.ggml.pre") in OWN_SPLITS:
        said["pre_tokenizer"] = pre_tokenizer(metadata["tokenizer.ggml.pre"])
    if is_bytes and metadata.get("tokenizer.ggml.pre") in WHOLE_WORDS:
        said["model"]["ignore_merges"] = True
    if not is_bytes and not metadata.get("tokenizer.ggml.add_space_prefix", True):
        _add_no_space(said)
    ids = {f"{role}_token": metadata.get(f"tokenizer.ggml.{name}_token_id") for role, name in SPECIAL.items()}
    named = {role: tokens[number] for role, number in ids.items() if number is not None}
    backend = Tokenizer.from_str(json.dumps(said))
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=found.chat_template, **named)


def _name_as_filed(said: dict[str, Any], metadata: Mapping[str, Any]) -> None:
    """Let special tokens be called in a tokenizer.json what the file calls them, and be found in texts.

    The stock reader takes a sign that stands for no byte, as in DeepSeek's <｜begin▁of▁sentence｜>, for text to be spelled in
    bytes: a token that no text becomes, beside which it makes a new one that the model has no row for. Raises
    UnsupportedTokenizer where two tokens are spelled alike.
    """
    tokens, letters = metadata["tokenizer.ggml.tokens"], set(bytes_to_unicode().values())
    kinds: dict[Any, int] = dict(enumerate(metadata.get("tokenizer.ggml.token_type") or ()))
    kinds |= {metadata.get(f"tokenizer.ggml.{name}_token_id"): CONTROL for name in SPECIAL.values()}
    spelled = {number: word for word, number in said["model"]["vocab"].items()}
    for number, token in enumerate(tokens):
        kind = kinds.get(number)
        if kind not in (CONTROL, USER_DEFINED) or letters.issuperset(token):
            continue
        if number not in spelled:
            cause = f"token {number} is spelled in bytes as another is"
            raise UnsupportedTokenizer(cause, param="tokenizer.ggml.tokens", remedy=gguf_model.REMEDY)
        del said["model"]["vocab"][spelled[number]]
        said["model"]["vocab"][token] = number
        as_it_is = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        said["added_tokens"].append({"id": number, "content": token, "special": kind == CONTROL, **as_it_is})
    said["added_tokens"].sort(key=lambda added: int(added["id"]))
    for name, template in (said["post_processor"] or {}).get("special_tokens", {}).items():
        template["ids"] = [said["model"]["vocab"].get(name, *template["ids"])]


def _add_no_space(said: dict[str, Any]) -> None:
    """Let a tokenizer.json of SentencePiece's kind put no space before a text, and take none away from what it writes.

    Raises UnsupportedTokenizer where it is not of the form that the stock reader makes.
    """
    before, after = said["pre_tokenizer"] or {}, said["decoder"] or {}
    if before.get("type") != "Metaspace" or after.get("type") != "Sequence":
        cause = "tokenizer.ggml.add_space_prefix is false, and stock code puts a space before texts of this vocabulary"
        raise UnsupportedTokenizer(cause, param="tokenizer.ggml.add_space_prefix", remedy=gguf_model.REMEDY)
    before["prepend_scheme"] = "never"
    after["decoders"] = [step for step in after["decoders"] if step["type"] != "Strip"]


class _Tensors:
    """A file's tensors by their names in the stock model."""

    def __init__(self, path: Path, content: Gguf, model: PreTrainedModel) -> None:
        self._path = path
        self._processor: Any = TENSOR_PROCESSORS.get(content.metadata["general.architecture"], TensorProcessor)(
            config=model.config.to_dict()
        )
        self._names = get_gguf_hf_weights_map(model, self._processor)
        self.places: dict[str, Tensor] = {self._names[tensor.name]: tensor for tensor in self._known(content)}

    def _known(self, content: Gguf) -> Iterator[Tensor]:
        return (tensor for tensor in content.tensors if tensor.name in self._names)

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Unpack one tensor, its values in the places where the stock model has them. -> float32"""
        tensor = self.places[name]
        data = np.fromfile(self._path, np.uint8, tensor.end - tensor.start, offset=tensor.start)
        if len(data) != tensor.end - tensor.start:
            raise DamagedCheckpoint(f"{self._path.name} became shorter while it was read", param=self._path.name)
        values = dequantize(data.reshape(*tensor.shape[:-1], -1), GGMLQuantizationType[tensor.dtype])
        found = self._processor.process(
            weights=values, name=tensor.name, tensor_key_mapping=self._names, parsed_parameters={"tensors": {}}
        )
        return np.ascontiguousarray(found.weights, np.float32)
