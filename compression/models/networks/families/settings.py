"""Read the settings of a stock config.json of an image classifier: each in its type and bounds, all problems at once."""

from collections.abc import Collection, Mapping
from typing import Any

from compression.models.validation.config import is_proper, refused, take_number, told_apart
from compression.schema.errors import CompressionError, ConfigMismatch, UnsupportedArchitecture
from compression.schema.job_spec import LONGEST_LABEL

MOST_LABELS = 22_000
"""ImageNet-21k has 21,841 classes."""
MOST_PIXELS = 2_048
"""Of a side of an image."""
CHANNELS = 3
MOST_CHANNELS = 16_384
MOST_BLOCKS = 256
"""Of all stages together."""
MOST_STAGES = 8
FRACTIONS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob", "drop_path_rate", "initializer_range",
)  # fmt: skip
"""Keys of numbers from 0 to 1 that only training or new weights depend on."""
ACTIVATIONS: dict[str, tuple[str, dict[str, float | str]]] = {
    "relu": ("relu", {}),
    "relu6": ("clip", {"low": 0.0, "high": 6.0}),
    "leaky_relu": ("leaky_relu", {"slope": 0.01}),
    "silu": ("silu", {}),
    "swish": ("silu", {}),
    "hardswish": ("hard_swish", {}),
    "mish": ("mish", {}),
    "sigmoid": ("sigmoid", {}),
    "tanh": ("tanh", {}),
    **dict.fromkeys(("gelu", "gelu_python"), ("gelu", {"approximate": "none"})),
    **dict.fromkeys(
        ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"), ("gelu", {"approximate": "tanh"})
    ),
}
"""Name in transformers → operator and attributes."""


class Settings:
    """A config.json that is being read. A wrong value adds to `problems`, and the default stands in for it.

    `read` has the keys that were read: what the computation depends on; `floats` those of numbers that need not be whole.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config, self.read, self.floats = config, set[str](), set(FRACTIONS)
        self.problems: list[CompressionError] = list(refused(config, "", {}, FRACTIONS))
        if config.get("per_layer_config"):
            self.unsupported("per_layer_config", "per_layer_config is set: stock code of images has no settings by layer")
        kind = config.get("problem_type")
        if kind not in (None, "single_label_classification"):
            self.unsupported("problem_type", f"problem_type is {kind!r:.60}: an image must have one class")

    def _value(self, key: str, default: object) -> Any:
        self.read.add(key)
        return self.config.get(key, default)

    def unsupported(self, key: str, cause: str) -> None:
        """Add that a setting is none that Lathe can compute with."""
        self.problems.append(UnsupportedArchitecture(cause, param=f"config.json:{key}"))

    def mismatched(self, key: str, cause: str) -> None:
        """Add that a setting fits no other, or is of no proper kind."""
        self.problems.append(ConfigMismatch(cause, param=f"config.json:{key}"))

    def whole(self, key: str, default: int, most: int, *, default_too: tuple[object, ...] = ()) -> int:
        """Return a whole number from 1. default_too: values that mean the default."""
        value, found = self._value(key, default), dict[str, int]()
        if any(value is each for each in default_too):
            return default
        self.problems += take_number(found, key, key, value, most=most)
        return found.get(key, default)

    def wholes(self, key: str, default: tuple[int, ...], most: int, *, longest: int = MOST_STAGES) -> tuple[int, ...]:
        """Return a list of whole numbers from 1."""
        value = self._value(key, default)
        proper = isinstance(value, list | tuple) and 1 <= len(value) <= longest
        if proper and all(type(number) is int and 1 <= number <= most for number in value):
            return tuple(value)
        self.mismatched(key, f"{key} is {value!r:.60} and not 1 to {longest} numbers of 1 to {most:,}")
        return default

    def sides(self, key: str, default: int, most: int) -> tuple[int, int]:
        """Return a height and a width, which may be one number for both."""
        value = self._value(key, default)
        found = tuple(value) if isinstance(value, list | tuple) else (value, value)
        if len(found) == 2 and all(type(number) is int and 1 <= number <= most for number in found):
            return found[0], found[1]
        self.mismatched(key, f"{key} is {value!r:.60} and not a side, or height and width, of 1 to {most:,}")
        return default, default

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a switch."""
        value = self._value(key, default)
        if type(value) is bool:
            return value
        self.mismatched(key, f"{key} is {value!r:.60} and not true or false")
        return default

    def number(self, key: str, default: float, most: float, least: float = 0.0) -> float:
        """Return a number."""
        self.floats.add(key)
        value = self._value(key, default)
        if type(value) in (int, float) and least <= value <= most:
            return float(value)
        self.mismatched(key, f"{key} is {value!r:.60} and not {least:g} to {most:g}")
        return default

    def choice(self, key: str, default: str, known: Collection[str]) -> str:
        """Return one of several names."""
        value = self._value(key, default)
        if isinstance(value, str) and value in known:
            return value
        self.unsupported(key, f"{key} is {value!r:.60} and not one of: {', '.join(known)}")
        return default

    def channels(self) -> int:
        """Return the channels of an image."""
        found = self.whole("num_channels", CHANNELS, 64)
        if found != CHANNELS:
            self.unsupported("num_channels", f"num_channels is {found}: images are read with red, green and blue")
        return CHANNELS

    def activation(self, key: str, default: str) -> str:
        """Return the name of an activation."""
        return self.choice(key, default, ACTIVATIONS)

    def same(self, key: str, as_key: str, value: object) -> None:
        """Check that a second name of a setting, if it is there, does not set something else."""
        found = self._value(key, value)
        if (tuple(found) if isinstance(found, list) else found) != value:
            self.mismatched(key, f"{key} is {found!r:.60}, {as_key} is {value!r:.60}, and stock code takes both for one")

    def labels(self) -> tuple[str, ...]:
        """Return the names of the outputs in their order.

        A name that several have (ImageNet's "crane") gets the output's number from the second on: "crane (517)".
        """
        names = self.config.get("id2label")
        if names is None:
            return tuple(f"LABEL_{number}" for number in range(self.whole("num_labels", 2, MOST_LABELS)))
        if not isinstance(names, dict) or not 1 <= len(names) <= MOST_LABELS:
            self.mismatched("id2label", f"id2label does not name 1 to {MOST_LABELS:,} labels")
            return ("LABEL_0", "LABEL_1")
        ordered = [names.get(str(number)) for number in range(len(names))]
        if not all(isinstance(label, str) and is_proper(label) for label in ordered):
            cause = f"id2label does not give each of 0 to {len(names) - 1} a label of at most {LONGEST_LABEL} characters"
            self.mismatched("id2label", cause)
            return ("LABEL_0", "LABEL_1")
        found = tuple(told_apart(ordered))
        if len(set(found)) != len(found):
            self.mismatched("id2label", "id2label gives several outputs one label")
        return found
