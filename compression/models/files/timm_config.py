"""Read the config.json of a timm model as hubs have it: its architecture, what makes it, and the names of its outputs.

timm's factories take almost any setting, some of which open files or fetch weights, so only the plain ones are passed on.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression.models.files.json_file import BadJson, read_file
from compression.schema.errors import ConfigMismatch, UnsupportedArchitecture
from compression.schema.job_spec import LONGEST_LABEL

FILE = "config.json"
LARGEST = 16 << 20
"""Bytes: it may name tens of thousands of labels."""
MOST_LABELS = 22_000
SETTINGS = ("global_pool", "img_size", "drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate")
"""Keys of `model_args` that are passed on: how maps are pooled, the images' size, and rates that only timm's training reads."""
IGNORED = ("num_classes", "in_chans")
"""Keys of `model_args` that say again what is said elsewhere, or what has one value."""


@dataclass(frozen=True)
class TimmModel:
    """A timm model as its config.json describes it."""

    architecture: str
    classes: int
    settings: Mapping[str, Any]  #: of its factory
    labels: tuple[str, ...] | None
    config: Mapping[str, Any]  #: the whole file


def is_timm(folder: Path) -> bool:
    """Return whether a folder has a timm model."""
    try:
        config = read_file(folder / FILE, LARGEST)
    except (BadJson, OSError):
        return False
    return isinstance(config.get("architecture"), str) and "model_type" not in config


def read_timm(folder: Path) -> TimmModel:
    """Read a folder's config.json. Raises ConfigMismatch and UnsupportedArchitecture."""
    try:
        config = read_file(folder / FILE, LARGEST)
    except BadJson as problem:
        raise ConfigMismatch(f"{FILE}: {problem}", param=FILE) from problem
    return timm_model(config)


def timm_model(config: Mapping[str, Any]) -> TimmModel:
    """Read the contents of a config.json. Raises ConfigMismatch and UnsupportedArchitecture."""
    architecture, given = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(architecture, str) or not re.fullmatch(r"[a-z0-9_]{1,100}", architecture):
        # Other names of timm's are addresses, which it fetches.
        raise UnsupportedArchitecture(f"architecture {architecture!r:.120} is no name of timm's", param=f"{FILE}:architecture")
    classes = config.get("num_classes", pretrained(config).get("num_classes"))
    if type(classes) is not int or not 2 <= classes <= MOST_LABELS:
        cause = f"num_classes is {classes!r:.60} and not 2 to {MOST_LABELS:,}"
        raise ConfigMismatch(cause, param=f"{FILE}:num_classes")
    if not isinstance(given, dict) or given.get("in_chans", 3) != 3:
        cause = "model_args is no JSON object, or in_chans is not 3: images are read with red, green and blue"
        raise UnsupportedArchitecture(cause, param=f"{FILE}:model_args")
    for key, value in given.items():
        if key not in (*SETTINGS, *IGNORED) or not _is_plain(value):
            cause = f"model_args sets {key!r:.60}, which is not one of: {', '.join((*SETTINGS, *IGNORED))}"
            remedy = "Export the model as ONNX (torch.onnx.export), and send that file."
            raise UnsupportedArchitecture(cause, param=f"{FILE}:model_args", remedy=remedy)
    settings = {key: value for key, value in given.items() if key in SETTINGS}
    return TimmModel(architecture, classes, settings, _labels(config, classes), config)


def pretrained(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a config.json says of the weights and of images; empty if it is no JSON object."""
    found = config.get("pretrained_cfg")
    return found if isinstance(found, dict) else {}


def _is_plain(value: object) -> bool:
    each = value if isinstance(value, list) and len(value) <= 2 else [value]
    return all(type(one) in (int, float, str) for one in each)


def _labels(config: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """Return the names of the outputs, if each has its own."""
    names: Any = config.get("label_names") or pretrained(config).get("label_names")
    if not isinstance(names, Sequence) or len(names) != classes or not all(isinstance(name, str) for name in names):
        return None
    proper = all(name and len(name) <= LONGEST_LABEL and name.isprintable() for name in names)
    return tuple(names) if proper and len(set(names)) == classes else None
