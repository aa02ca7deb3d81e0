"""Open the user's model with the stock classes from a local folder, without running code from it."""

import inspect
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import CONFIG_MAPPING, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from compression.models.adapters.registry import adapter_named, adapter_of, is_decoder
from compression.models.architectures import heads
from compression.models.architectures.decoder_tensor_names import FAMILIES
from compression.models.architectures.families import architecture_of, check_served, needed_files
from compression.schema.errors import ConfigMismatch, DamagedCheckpoint, LabelMismatch, MissingFile, UnsafeCheckpoint, listed
from compression.schema.recipe.base import Task
from compression.system.failures import typed


def has_head(config: dict[str, Any], head: heads.Head) -> bool:
    """Return whether a config.json describes a model with this head."""
    return any(heads.of_architecture(str(name)) == head for name in config.get("architectures") or ())


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json and refuse models that cannot or must not be loaded.

    Raises MissingFile, UnsafeCheckpoint, ConfigMismatch and UnsupportedArchitecture.
    """
    _check_file(folder, "config.json")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for suffix in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{suffix}"))
        if pickles:
            raise UnsafeCheckpoint(f"{pickles[0]} is a pickle, which can run code when it is opened", param=pickles[0])
        raise MissingFile("the model has no *.safetensors", param="*.safetensors")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise ConfigMismatch(f"config.json is not JSON: {problem}", param="config.json") from problem
    if not isinstance(config, dict):
        raise ConfigMismatch("config.json is not a JSON object", param="config.json")
    kind = architecture_of(config).model_type
    for name in needed_files(kind):
        _check_file(folder, name)
    if "auto_map" in config:  # for supported families; uploads are opened through `sanitized_folder`, which drops the key
        raise UnsafeCheckpoint("config.json names code to run (auto_map)", param="config.json:auto_map")
    adapter_named(kind)  # an installed package's module makes its config known
    stock = CONFIG_MAPPING[kind]
    if shadowing := sorted(key for key in config if _is_code(stock, key)):
        cause = f"config.json sets {shadowing[0]!r}, which is a method of the stock config"
        raise ConfigMismatch(cause, param=f"config.json:{shadowing[0]}")
    return config


def _check_file(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        raise MissingFile(f"the model has no {name}", param=name)


def _is_code(stock: type, key: str) -> bool:
    # transformers turns every key into an attribute. A key with a method's name breaks the callers of that method.
    found = inspect.getattr_static(stock, key, None)
    return callable(found) or isinstance(found, classmethod | staticmethod) or (isinstance(found, property) and not found.fset)


PROBES = ("The quick brown fox, aged 12, didn't jump over 3 lazy dogs.", "word1 naïve 東京…\n\tx = y")
"""Texts that two tokenizers of one file must encode alike."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Open tokenizer.json with the stock class.

    A decoder's tokenizer may lack a padding token; then it gets one (`with_padding`). Raises ConfigMismatch if the file is no
    tokenizer, or not the tokenizer of this model.
    """
    config = read_config(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_fast=True)
        own = as_filed(tokenizer, folder)
        otherwise = [text for text in PROBES if _ids(own, text) != _ids(tokenizer.backend_tokenizer, text)]
    except Exception as problem:  # the tokenizers library raises bare Exception
        raise typed(problem) or ConfigMismatch(
            f"tokenizer.json cannot be opened: {problem}", param="tokenizer.json"
        ) from problem
    if otherwise:
        # Some stock classes (Qwen2's) build their own kind of model from the file's vocabulary, whatever kind the file has.
        raise ConfigMismatch(
            f"stock transformers ({type(tokenizer).__name__}) reads {otherwise[0]!r} otherwise than tokenizer.json says",
            param="tokenizer.json",
            remedy="Send the model with a tokenizer of the kind that stock transformers has for its family.",
        )
    highest = max(tokenizer.get_vocab().values())
    # A padding token that a stock class adds from elsewhere (Qwen2's) does not count: the exported file does not have it.
    known = tokenizer.pad_token_id is not None and own.id_to_token(tokenizer.pad_token_id) is not None
    if not known and architecture_of(config).decodes:
        with_padding(tokenizer, config)
    if tokenizer.pad_token_id is None:
        raise ConfigMismatch("the tokenizer has no padding token", param="tokenizer.json")
    # tokenizer_config.json can add tokens to those of tokenizer.json: an id without a row in the table ends the job midway.
    rows = config.get("vocab_size", CONFIG_MAPPING[config["model_type"]]().vocab_size)
    if highest >= rows:
        raise ConfigMismatch(
            f"the tokenizer has the id {highest}, config.json a vocabulary of {rows}", param="tokenizer_config.json"
        )
    return tokenizer


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


def as_filed(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Tokenizer:
    """Make a tokenizer split texts as its tokenizer.json does, and return the file's own tokenizer.

    Artifacts are exported and evaluated with that file. Some stock classes (GPT-2's, Qwen2's) replace the file's rules with
    those of their family.
    """
    own, backend = Tokenizer.from_file(str(folder / "tokenizer.json")), tokenizer.backend_tokenizer
    backend.normalizer, backend.pre_tokenizer = own.normalizer, own.pre_tokenizer
    return own


def is_as_filed(tokenizer: PreTrainedTokenizerFast, own: Tokenizer) -> bool:
    """Return whether a stock tokenizer splits texts by the rules of the file that it was opened from."""
    parts = ((getattr(one, name) for one in (tokenizer.backend_tokenizer, own)) for name in ("normalizer", "pre_tokenizer"))
    return all(one == other for one, other in (map(_rules, pair) for pair in parts))


def _rules(part: Any) -> Any:
    """Return the rules by which a component of a tokenizer transforms texts, without trim_offsets.

    trim_offsets is not a rule: nothing before the model uses it. Qwen's own tokenizer.json and the stock class for it differ in
    nothing else.
    """
    state = b"null" if part is None else part.__getstate__()
    return json.loads(state, object_hook=lambda rule: {key: value for key, value in rule.items() if key != "trim_offsets"})


def reads_as_filed(folder: Path) -> bool:
    """Return whether stock AutoTokenizer splits texts as tokenizer.json does.

    AutoTokenizer opens the class that the settings name, or else the family's own.
    """
    found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return is_as_filed(found, Tokenizer.from_file(str(folder / "tokenizer.json")))


def tokenizer_notes(folder: Path) -> list[str]:
    """Return a note if stock code splits texts differently from tokenizer.json: whatever class is named, as for a Qwen2, or by
    the settings that were uploaded.
    """
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with tempfile.TemporaryDirectory() as place:
        for name in ("config.json", "tokenizer.json"):
            (Path(place) / name).symlink_to((folder / name).resolve())
        (Path(place) / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
        found = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    if not is_as_filed(found, own):
        return [
            f"Stock AutoTokenizer opens {type(found).__name__}, which cuts texts otherwise than tokenizer.json does. This "
            "model is trained and scored by that file, and PreTrainedTokenizerFast.from_pretrained reads as it says."
        ]
    named = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if all(_pieces(named.backend_tokenizer, text) == _pieces(own, text) for text in PROBES):
        return []
    return [
        f"In stock AutoTokenizer the uploaded settings open {type(named).__name__}, which cuts texts otherwise than "
        "tokenizer.json does (do_lower_case is a setting that makes it so). This model is trained and scored by that file, so "
        "its baseline may differ from what you measured with the class."
    ]


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """Return the pieces of a text that the tokenizer's model gets: other rules may come to the same."""
    text = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    splits = tokenizer.pre_tokenizer
    return [piece for piece, _ in splits.pre_tokenize_str(text)] if splits else [text]


def with_padding(tokenizer: PreTrainedTokenizerFast, config: Mapping[str, Any]) -> None:
    """Make a decoder's tokenizer pad with a token that it has.

    The token is config.json's padding token, else the end token, the unknown token or the beginning token. The choice does not
    affect the tokens before it, because they do not attend to later ones. Code that reads the last token must know it.
    """
    number = config.get("pad_token_id")
    named = tokenizer.convert_ids_to_tokens(number) if isinstance(number, int) and 0 <= number < len(tokenizer) else None
    tokenizer.pad_token = named or tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token


def load_model(folder: Path, labels: tuple[str, ...], task: Task, *, seed: int, some: bool = False) -> PreTrainedModel:
    """Load the model in float32 for a task, and for exactly these labels if the task has labels.

    A bare encoder or decoder, or a model with another task's head, gets a new head. Its weights are initialized with `seed`;
    its outputs follow `labels`. A model with a head keeps its own order: read it with `head_labels`. some: whether `labels` may
    be some of a head's. Raises what `read_config` raises, LabelMismatch, ConfigMismatch, DamagedCheckpoint and UnsupportedTask.
    """
    config, head = read_config(folder), heads.of_task(task)
    check_served(architecture_of(config), task, param="config.json:model_type")
    if head == heads.LANGUAGE:
        return _language_model(folder)
    settings: dict[str, Any] = {}
    headed = has_head(config, head)
    if not headed:
        # Another task's head may have the same tensor names with other shapes.
        other = any(heads.of_architecture(str(name)) for name in config.get("architectures") or ())
        settings = {"num_labels": heads.outputs(task, len(labels)), "ignore_mismatched_sizes": other}
    # A stock reader may give the bare model's tensors another prefix than the other classes do.
    layout = FAMILIES.get(config["model_type"])
    if not headed and layout is not None:
        theirs = (heads.of_architecture(str(name)) for name in config.get("architectures") or ())
        given = layout.prefix_of(next((one.suffix for one in theirs if one is not None), ""))
        if (wanted := layout.prefix_of(head.suffix)) != given:
            settings["key_mapping"] = {f"^{re.escape(given)}": wanted}
    model, report = open_stock(folder, head, **settings)
    if "key_mapping" in settings:
        del model._weight_conversions  # save_pretrained would rename the tensors back, to names that this class does not know
    if headed:
        labels = own_labels(model.config, labels, task, some=some)
    outer = adapter_of(model).head(model)
    parts = {name: part for name, part in model.named_modules() if part in (outer.dense, outer.out)}
    missing = {*report["missing_keys"], *(name for name, *_ in report.get("mismatched_keys") or ())}
    drawn = () if headed else tuple(f"{name}." for name in parts)  # a bare encoder may lack these
    lost = [name for name in missing if not name.startswith(drawn)]
    if lost:
        raise ConfigMismatch(f"the weights lack {listed(tuple(sorted(lost)))}", param=f"*.safetensors:{min(lost)}")
    torch.manual_seed(seed)
    for name, part in parts.items():
        # The output layer of a bare encoder is always initialized here, even if the file holds one.
        if f"{name}.weight" in missing or (part is outer.out and not headed):
            initialise_head(part, model.config.initializer_range)
    name_labels(model.config, labels, task)
    if is_decoder(model):
        _read_rows(model.config, folder)
    return model


def _language_model(folder: Path) -> PreTrainedModel:
    """Load a model with its trained output layer. Raises ConfigMismatch if the weights lack it."""
    remedy = "Send the language model itself (...ForCausalLM): its output layer cannot be drawn anew."
    return open_whole(folder, heads.LANGUAGE, remedy=remedy)


def _read_rows(config: PretrainedConfig, folder: Path) -> None:
    """Set the padding token of a decoder that reads rows of texts, and turn its cache off.

    A stock classifier reads the last token that is not padding. The padding token comes from the tokenizer, because it pads the
    rows: if the config named another or none, a row's prediction would depend on the other rows of its batch.
    """
    config.pad_token_id = load_tokenizer(folder).pad_token_id
    config.use_cache = False


def own_labels(config: PretrainedConfig, labels: tuple[str, ...], task: Task, *, some: bool = False) -> tuple[str, ...]:
    """Return the labels of a model's own head in its order. Raises LabelMismatch if they do not match. some: whether `labels`
    may be some of them.
    """
    if not labels:
        wanted = heads.outputs(task, 0)
        if config.num_labels != wanted:
            raise LabelMismatch(
                f"the model's head has {config.num_labels} outputs, {task} needs {wanted}", param="config.json:id2label"
            )
        return labels
    own = head_labels(config)
    if some and set(labels) <= set(own):
        return own
    if set(own) != set(labels) or len(own) != len(labels):
        raise LabelMismatch(f"the model's head has {listed(own)}, the data has {listed(labels)}", param="config.json:id2label")
    return own


@torch.no_grad()
def in_order(model: PreTrainedModel, labels: tuple[str, ...]) -> PreTrainedModel:
    """Reorder the outputs of a model's head to the order of `labels`, in place, and return the model.

    The outputs of heads that predict numbers or positions have no order. Raises LabelMismatch if no layer makes the outputs.
    """
    own = head_labels(model.config) if labels else ()
    out = adapter_of(model).head(model).out
    if own == labels:
        return model
    if out is None:
        raise LabelMismatch(f"nothing can put the outputs {listed(own)} in another order", param="config.json:id2label")
    places = [own.index(label) for label in labels]
    for parameter in out.parameters():  # a decoder's head has no bias
        parameter.copy_(parameter[places])
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}
    return model


def name_labels(config: PretrainedConfig, labels: tuple[str, ...], task: Task) -> None:
    """Write the labels into a stock config, so that predictions show names instead of numbers."""
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    if heads.of_task(task) == heads.CLASSIFIER:
        config.problem_type = "single_label_classification" if labels else "regression"


def head_labels(config: PretrainedConfig) -> tuple[str, ...]:
    """Return the labels of a model's head in the order of its outputs."""
    return tuple(config.id2label[number] for number in sorted(config.id2label))


def initialise_head(head: nn.Module, deviation: float) -> None:
    """Initialize a new head as BERT's authors do: normal weights, and zeros for a bias if there is one."""
    nn.init.normal_(head.weight, std=deviation)  # type: ignore[arg-type]
    if head.bias is not None:
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]


def open_stock(folder: Path, head: heads.Head, *, sent: bool = True, **settings: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Open a folder with the stock class of a head: safetensors only, no code, no network. sent: whether its files are those
    of an upload or an artifact, and not a checkpoint of the engine's own.

    Returns the model in evaluation mode and transformers' loading report of missing and unexpected keys. Raises ConfigMismatch
    and DamagedCheckpoint.
    """
    try:
        family = adapter_named(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
        model, report = getattr(transformers, head.auto).from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation=family.attention if family is not None else None,
            output_loading_info=True,
            **settings,
        )
    except SafetensorError as problem:
        raise typed(problem) or DamagedCheckpoint(f"the weights cannot be read: {problem}", param="*.safetensors") from problem
    except Exception as problem:  # transformers and torch raise exceptions of any type, AssertionError among them
        raise typed(problem) or ConfigMismatch(
            f"the weights do not fit config.json: {problem}", param="config.json"
        ) from problem
    if sent and family is not None:
        family.as_sent(model.config)
    return model.eval(), report


def open_whole(folder: Path, head: heads.Head, *, sent: bool = True, remedy: str | None = None) -> PreTrainedModel:
    """Open a folder that has all weights of its class, as `open_stock` does. Stock code draws those that are not there.

    Raises ConfigMismatch, which names the first of them, and DamagedCheckpoint.
    """
    model, report = open_stock(folder, head, sent=sent)
    if lost := sorted(report["missing_keys"]):
        raise ConfigMismatch(f"the weights lack {listed(tuple(lost))}", param=f"*.safetensors:{lost[0]}", remedy=remedy)
    return model
