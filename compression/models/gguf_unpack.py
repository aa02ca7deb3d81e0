"""Unpack a single-file GGUF model into a stock folder: float32 weights, config.json, tokenizer.json.

Stock transformers knows what the file's names and layouts mean, but its reader needs the packages gguf and accelerate, and
unpacks all tensors before it frees one; here they pass one by one. The file must have passed `files.gguf_model`, because the
stock reader trusts its input.
"""

import json
from collections.abc import Mapping
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
"""transformers' names of special tokens → their names in GGUF files."""
CONTROL, USER_DEFINED = 3, 4
"""Token types that llama.cpp finds in a text before it splits the text."""


def unpack(folder: Path, place: Path) -> None:
    """Write the folder's only GGUF file as the complete folder `place`, one tensor at a time. Raises what `read_model` does."""
    path, content = gguf_model.read_model(folder)
    scaled = gguf_rope.scaling(path, content, gguf_model.describe(content, path.name).head)
    transformers.utils.logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, gguf_file=path.name, local_files_only=True, trust_remote_code=False)
        if scaled:  # the stock reader ignores these keys
            config.rope_parameters = {**config.rope_parameters, **scaled}
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        tensors = _Tensors(path, content, model)
    except Exception as problem:  # transformers raises exceptions of any type
        cause = f"{path.name} cannot be opened: {str(problem)[:300]}"
        raise typed(problem) or ConfigMismatch(cause, param=path.name) from problem
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
        _as_declared(tokenizer, content.metadata).save_pretrained(shards.folder)


def _as_declared(found: PreTrainedTokenizerFast, metadata: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Reduce a tokenizer to what the file declares, and make it read texts as llama.cpp does.

    Stock classes add their families' usual special tokens, which would get ids that the model has no row for. Three of
    llama.cpp's rules the stock reader does not check: whether a text begins with a beginning token, whether it begins with a
    space, and whether a word that is a token is merged.
    """
    tokens = metadata["tokenizer.ggml.tokens"]
    if gguf_model.begins(metadata) and not found.add_bos_token:
        found.add_bos_token = True  # this rebuilds the post-processor
    state = json.loads(found.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < len(tokens)]
    is_bytes = metadata["tokenizer.ggml.model"] == "gpt2"
    if is_bytes:
        _name_as_filed(state, metadata)
        split = metadata.get("tokenizer.ggml.pre")
        if split in OWN_SPLITS:
            state["pre_tokenizer"] = pre_tokenizer(split)
        if split in WHOLE_WORDS:
            state["model"]["ignore_merges"] = True
    elif not metadata.get("tokenizer.ggml.add_space_prefix", True):
        _add_no_space(state)
    ids = {f"{role}_token": metadata.get(f"tokenizer.ggml.{name}_token_id") for role, name in SPECIAL.items()}
    named = {role: tokens[number] for role, number in ids.items() if number is not None}
    backend = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=found.chat_template, **named)


def _name_as_filed(state: dict[str, Any], metadata: Mapping[str, Any]) -> None:
    """Name special tokens in tokenizer.json as the file does, and make texts match them.

    Some contain a character that stands for no byte, such as DeepSeek's <｜begin▁of▁sentence｜>. The stock reader spells them
    in bytes, so that no text becomes them, and adds tokens that the model has no row for. Raises UnsupportedTokenizer if two
    tokens have the same spelling.
    """
    tokens, letters = metadata["tokenizer.ggml.tokens"], set(bytes_to_unicode().values())
    kinds: dict[Any, int] = dict(enumerate(metadata.get("tokenizer.ggml.token_type") or ()))
    kinds |= {metadata.get(f"tokenizer.ggml.{name}_token_id"): CONTROL for name in SPECIAL.values()}
    spelled = {number: word for word, number in state["model"]["vocab"].items()}
    for number, token in enumerate(tokens):
        kind = kinds.get(number)
        if kind not in (CONTROL, USER_DEFINED) or letters.issuperset(token):
            continue
        if number not in spelled:
            cause = f"token {number} is spelled in bytes as another is"
            raise UnsupportedTokenizer(cause, param="tokenizer.ggml.tokens", remedy=gguf_model.REMEDY)
        del state["model"]["vocab"][spelled[number]]
        state["model"]["vocab"][token] = number
        as_it_is = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        state["added_tokens"].append({"id": number, "content": token, "special": kind == CONTROL, **as_it_is})
    state["added_tokens"].sort(key=lambda added: int(added["id"]))
    for name, template in (state["post_processor"] or {}).get("special_tokens", {}).items():
        template["ids"] = [state["model"]["vocab"].get(name, *template["ids"])]


def _add_no_space(state: dict[str, Any]) -> None:
    """Make a SentencePiece tokenizer.json neither add nor strip a space, or raise UnsupportedTokenizer."""
    before, after = state["pre_tokenizer"] or {}, state["decoder"] or {}
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
        known = (tensor for tensor in content.tensors if tensor.name in self._names)
        self.places: dict[str, Tensor] = {self._names[tensor.name]: tensor for tensor in known}

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Unpack one tensor into the layout of the stock model. -> float32"""
        tensor = self.places[name]
        data = np.fromfile(self._path, np.uint8, tensor.end - tensor.start, offset=tensor.start)
        if len(data) != tensor.end - tensor.start:
            raise DamagedCheckpoint(f"{self._path.name} became shorter while it was read", param=self._path.name)
        values = dequantize(data.reshape(*tensor.shape[:-1], -1), GGMLQuantizationType[tensor.dtype])
        found = self._processor.process(
            weights=values, name=tensor.name, tensor_key_mapping=self._names, parsed_parameters={"tensors": {}}
        )
        return np.ascontiguousarray(found.weights, np.float32)
