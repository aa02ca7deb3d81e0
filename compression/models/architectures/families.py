"""The model families that Lathe supports: text's, networks of images, and those that installed packages add.

A package names an `Architecture` under the entry point group `lathe.architectures`. Torch-free.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from compression.models.architectures import heads
from compression.models.architectures.decoder_configs import DIVIDED
from compression.models.architectures.decoder_tensor_names import FAMILIES
from compression.models.architectures.stock_networks import STOCK_NETWORKS
from compression.models.architectures.tensor_names import NAMES, ExpectedTensors
from compression.schema.config import Config
from compression.schema.errors import CompressionError, UnsupportedArchitecture, UnsupportedTask
from compression.schema.plugins import add_plugins
from compression.schema.recipe.base import Axis, Task
from compression.schema.recipe.prune import USUAL_AXES, Prune
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.specs import IMAGE_CLASSIFIER
from compression.schema.tasks import TASKS as ALL_TASKS, TEXT


class ArchitectureSpec(Config):
    """One model family: what its stock config can express, and which architectures belong to it."""

    name: str
    model_type: str
    architectures: tuple[str, ...]
    axes: tuple[Axis, ...]
    tasks: tuple[str, ...]
    limits: str
    distance_buckets: Annotated[int, Field(description="Rows of a bias by distance, one column a head; 0 without.")] = 0
    decodes: Annotated[bool, Field(description="Whether each token sees only those before it: a language model.")] = False
    coupled: Annotated[
        bool, Field(description="Whether hidden is heads times their size: heads shrink with hidden only, a decoder's as much.")
    ] = True
    network: Annotated[
        bool,
        Field(description="Whether Lathe makes a graph of operators of it: each of its layers then has widths of its own."),
    ] = False
    recomputes: Annotated[
        bool, Field(description="Whether training can compute its layers again in the backward pass, and compile them.")
    ] = True
    free_axes: tuple[Axis, ...] = ()
    """Axes of which each layer may have a width of its own (`prune.free_widths`), though a stock config states one."""
    usual_axes: tuple[Axis, ...] = USUAL_AXES
    """Axes that are cut if a recipe names none; of a network those that it has."""

    @property
    def divided(self) -> bool:
        """Return whether hidden must be a multiple of the number of heads, so that its widths depend on how many stay."""
        return self.model_type in DIVIDED


EVERYWHERE: tuple[Axis, ...] = ("hidden", "heads", "ffn", "layers", "vocabulary")
OF_EXPERTS: tuple[Axis, ...] = (*EVERYWHERE[:-1], "experts", "expert_ffn", "query_rank", "kv_rank", "vocabulary")
TASKS: tuple[Task, ...] = tuple(task.name for task in TEXT.tasks if task.head in heads.HEADS)
"""Tasks of the encoder families."""
OF_DECODERS = (heads.CLASSIFIER, heads.LANGUAGE)
"""The two heads that all stock decoders have; some have a reader's too."""
OF_NETWORKS: tuple[Axis, ...] = ("channels", "heads", "ffn", "hidden", "layers")
TASKS_OF_NETWORKS: tuple[Task, ...] = tuple(name for name, task in ALL_TASKS.items() if task.head == IMAGE_CLASSIFIER)
SAME_WIDTHS = "every layer has the same widths."
COUPLED = (
    f"hidden = heads × head size, so heads shrink only with hidden; {SAME_WIDTHS} "
    "With prune.free_widths each layer has its own feed-forward width."
)
COUPLED_DECODER = f"hidden = heads × head size, so both shrink together, at one ratio; {SAME_WIDTHS}"
GROUPED = f"heads go in whole groups, a KV head with the query heads that read it, and keep their size; {SAME_WIDTHS}"
MULTIPLE = "hidden size is a multiple of the number of heads"
EXPERTS = (
    "hidden and an expert's units are multiples of 8; as many experts stay of each of the router's groups; shared experts "
    "shrink with the units of the others."
)
EACH_ITS_OWN = (
    "each layer has its own widths; hidden is the residual stream, cut only if it is named; layers are residual blocks."
)


def _spec(kind: str, architectures: Iterable[str], limits: str, **settings: Any) -> ArchitectureSpec:
    return ArchitectureSpec(name=kind, model_type=kind, architectures=tuple(architectures), limits=limits, **settings)


def _encoder(
    kind: str, pretraining: tuple[str, ...] = ("ForMaskedLM",), limits: str = COUPLED, *, recomputes: bool = True
) -> ArchitectureSpec:
    names, suffixes = NAMES[kind], ("Model", *(head.suffix for head in heads.HEADS), *pretraining)
    architectures, buckets = [names.stem + suffix for suffix in suffixes], names.fixed.get("relative_attention_num_buckets", 0)
    own = {"axes": EVERYWHERE, "tasks": TASKS, "distance_buckets": buckets, "recomputes": recomputes, "free_axes": ("ffn",)}
    return _spec(kind, architectures, limits, **own)


def _decoder(kind: str, limits: str, axes: tuple[Axis, ...] = EVERYWHERE, *, coupled: bool = False) -> ArchitectureSpec:
    known = FAMILIES[kind]
    served = (*OF_DECODERS, *(() if known.reader is None else (heads.READER,)))
    tasks = tuple(task.name for task in TEXT.tasks if task.head in served)
    return _spec(kind, known.heads(), limits, axes=axes, tasks=tasks, decodes=True, coupled=coupled)


def network_spec(kind: str, architectures: Iterable[str], limits: str) -> ArchitectureSpec:
    """Return a family of networks, by its model_type."""
    settings: dict[str, Any] = {"axes": OF_NETWORKS, "tasks": TASKS_OF_NETWORKS, "coupled": False, "network": True}
    return _spec(kind, architectures, limits, usual_axes=OF_NETWORKS[:3], recomputes=False, **settings)


BERT = _encoder("bert", ("ForMaskedLM", "ForPreTraining"))
XLM_ROBERTA = _encoder("xlm-roberta")
ELECTRA = _encoder(
    "electra",
    ("ForPreTraining", "ForMaskedLM"),
    f"{COUPLED} Tables narrower than hidden stay as they are, and hidden cannot become as narrow as they are.",
)
LLAMA = _decoder("llama", f"{GROUPED} The {MULTIPLE}.")
DEEPSEEK_V3 = _decoder("deepseek_v3", f"{GROUPED} {EXPERTS}", OF_EXPERTS)
NETWORK = network_spec("network", ("NetworkForImageClassification", "NetworkModel"), EACH_ITS_OWN)
ARCHITECTURE_SPECS: dict[str, ArchitectureSpec] = {
    family.model_type: family
    for family in (
        BERT,
        _encoder("distilbert"),
        _encoder("roberta"),
        XLM_ROBERTA,
        ELECTRA,
        _encoder(
            "mpnet",
            limits=f"{COUPLED} All layers keep the same heads: they share a bias by distance.",
            recomputes=False,  # transformers has no checkpointing for its layers
        ),
        LLAMA,
        _decoder("mistral", GROUPED),
        _decoder("qwen2", GROUPED),
        _decoder("qwen3", GROUPED),
        _decoder("gpt2", COUPLED_DECODER, coupled=True),
        _decoder("deepseek_v2", f"{GROUPED} The {MULTIPLE}, the KV rank is even; {EXPERTS}", OF_EXPERTS),
        DEEPSEEK_V3,
        NETWORK,
        *(network_spec(kind, stock.architectures, f"{EACH_ITS_OWN} {stock.limits}") for kind, stock in STOCK_NETWORKS.items()),
    )
}


class Architecture(ABC):
    """A family of an installed package: its torch-free half, which checks, forecasts and pruning plans ask."""

    spec: ClassVar[ArchitectureSpec]
    engine: ClassVar[str]
    """`module:name` of its `models.adapters.adapter.ArchitectureAdapter`, which only the engine imports. The module makes the
    family known to the Auto classes of transformers."""
    files: ClassVar[tuple[str, ...]] = ()
    """Files that a model's folder must have beside config.json and weights."""

    @abstractmethod
    def describe(self, config: Mapping[str, Any]) -> tuple[Any, list[CompressionError]]:
        """Describe a config.json, or return None and the reasons to refuse it.

        A description has what `models.validation.encoder.EncoderDescription` has of kind, architecture, shape, labels,
        biases and max_positions (0 if rows have no positions).
        """

    @abstractmethod
    def expected(self, described: Any) -> ExpectedTensors:
        """Return the tensors that the checkpoint of a description must and may hold."""

    @abstractmethod
    def shape_at(self, shape: Shape, prune: Prune, ratios: Mapping[Axis, float]) -> Shape:
        """Return the shape nearest to these ratios, on the recipe's axes. Raises UnsupportedShape."""

    @abstractmethod
    def parameters_at(self, shape: Shape, outputs: int) -> Parameters:
        """Count the parameters of a model of a shape. outputs: of its head."""

    def parameters(self, described: Any) -> Parameters:
        """Count the parameters of a description's model."""
        return self.parameters_at(described.shape, len(described.labels or ()))


INSTALLED: dict[str, Architecture] = {}
"""Families of installed packages by model_type."""


def _add(found: Architecture) -> None:
    """Add a family. Raises ValueError if its model_type is taken."""
    kind = found.spec.model_type
    if kind in ARCHITECTURE_SPECS or kind != found.spec.name:
        raise ValueError(f"there is already a family {kind}, or its name is not its model_type")
    INSTALLED[kind], ARCHITECTURE_SPECS[kind] = found, found.spec


add_plugins("lathe.architectures", Architecture, _add)  # type: ignore[type-abstract]


def needed_files(model_type: str) -> tuple[str, ...]:
    """Return the files that a family's folder must have beside config.json and weights."""
    if model_type in INSTALLED:
        return INSTALLED[model_type].files
    spec = ARCHITECTURE_SPECS.get(model_type)
    return ("preprocessor_config.json",) if spec is not None and spec.network else ("tokenizer.json",)


NO_CODE = (
    "Code that config.json names (auto_map) is not run, so a model that needs it cannot be opened: "
    "send one of a supported family; GET /v1/families lists them."
)


def architecture_of(config: Mapping[str, Any]) -> ArchitectureSpec:
    """Find the family of a config.json. Raises UnsupportedArchitecture."""
    remedy = NO_CODE if "auto_map" in config else None

    def unsupported(cause: str, key: str) -> UnsupportedArchitecture:
        return UnsupportedArchitecture(cause, param=f"config.json:{key}", remedy=remedy)

    kind = config.get("model_type")
    family = ARCHITECTURE_SPECS.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise unsupported(f"model_type {kind!r} is not one of: {', '.join(ARCHITECTURE_SPECS)}", "model_type")
    names = config.get("architectures") or ()
    if not isinstance(names, list | tuple):
        raise unsupported("architectures is not a list of names", "architectures")
    for name in names:
        if name not in family.architectures:
            cause = f"architecture {name!r} is not one of: {', '.join(family.architectures)}"
            raise unsupported(cause, "architectures")
    return family


def check_served(family: ArchitectureSpec, task: Task, param: str = "models.base") -> None:
    """Refuse a task that Lathe does not support for the family. Raises UnsupportedTask."""
    if task not in family.tasks:
        raise UnsupportedTask(
            f"models of the family {family.name} are made for {', '.join(family.tasks)}, not {task}", param=param
        )
