"""What to do with a model: one frozen, validated object shared by API, row, engine and report. Torch-free.

The order of the stages is fixed by the method (quantize → prune → distill), so a recipe has keys and not a list; `null`
skips a stage. Unknown keys are refused by name. `version` lets old recipes stay readable.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Task = Literal[
    "text-classification", "text-pair-classification", "text-regression", "token-classification", "question-answering"
]
Split = Literal["train", "validation", "test"]
DataFormat = Literal["jsonl", "csv", "parquet"]
Axis = Literal["hidden", "heads", "ffn"]
Precision = Literal["auto", "float32", "bfloat16"]

Rate = Annotated[float, Field(gt=0, le=1, description="Peak learning rate of AdamW.")]
Epochs = Annotated[int, Field(ge=0, le=200, description="Passes over the train split.")]
Patience = Annotated[
    int | None, Field(ge=1, le=200, description="Training ends after so many epochs without a better validation; null: never.")
]
Weight = Annotated[float, Field(ge=0, le=1000, description="Weight of this term in the loss; 0 leaves it out.")]


class Config(BaseModel):
    """Frozen data that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Prepare(Config):
    """Give a bare encoder a head and tune it on the train split: that model is the baseline and the teacher.

    A model that comes with a head for exactly the data's labels is tuned further ("teacher correction") for the same
    number of epochs; `epochs: 0` takes it as it is.
    """

    epochs: Epochs = 3
    rate: Rate = 5e-5
    patience: Patience = None


class Qat(Config):
    """Quantization-aware training on the progressive schedule: full precision, a growing share of layers, all layers."""

    full: Epochs = 5
    ramp: Epochs = 10
    quantized: Epochs = 5
    rate: Rate = 2e-5

    @property
    def epochs(self) -> int:
        """All three phases together."""
        return self.full + self.ramp + self.quantized


class Quantize(Config):
    """Simulate the integers of the shipped artifact from here on; docs/numerics.md defines each scheme."""

    scheme: Annotated[
        Literal["dynamic-int8"],
        Field(description="int8 weights per output channel, 8-bit activations per token, int8 embeddings per row."),
    ] = "dynamic-int8"
    qat: Annotated[Qat | None, Field(description="Train with the simulated integers before pruning.")] = None


class Recovery(Config):
    """Training right after the cut, in steps: shallow layers first, then all; L2 adapted to the validation score."""

    epochs: Epochs = 20
    rate: Rate = 1e-5
    shallow_first: Annotated[bool, Field(description="Train the lower half of the layers alone for the first half.")] = True
    adapt_l2: Annotated[bool, Field(description="Double weight decay when validation falls, halve it when it rises.")] = True
    patience: Annotated[Patience, Field(description="As elsewhere; epochs of the shallow layers alone are not counted.")] = None


class Prune(Config):
    """Remove whole channels, heads and feed-forward units, so that shapes really shrink."""

    ratio: Annotated[float, Field(gt=0, lt=1, description="Share of units removed on each of the axes.")] = 0.3
    axes: Annotated[tuple[Axis, ...], Field(min_length=1, description="What is made narrower.")] = ("hidden", "heads", "ffn")
    importance: Annotated[
        Literal["l1", "l1_weight"],
        Field(description="l1: L1 norm of a unit's activations on calibration rows. l1_weight: L1 norm of its weights."),
    ] = "l1"
    multiple: Annotated[int, Field(ge=1, le=256, description="The feed-forward width is rounded to this multiple.")] = 64
    calibration_rows: Annotated[int, Field(ge=8, le=8192, description="Rows of train that the activations come from.")] = 512
    recovery: Recovery | None = None

    @model_validator(mode="after")
    def _axes_are_distinct(self) -> "Prune":
        if len(set(self.axes)) != len(self.axes):
            raise ValueError("axes names the same axis twice")
        return self


AUGMENTED_TASKS = frozenset({"text-classification", "text-pair-classification", "text-regression"})
"""Tasks whose rows have one answer for the whole text. Words of others cannot move: their answers are places in the text."""

HelperName = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="A folder of the worker's helper models (LATHE_HELPER_MODELS): stock files, safetensors.",
    ),
]


class Synonyms(Config):
    """Put other words in the place of some: TinyBERT's augmentation (Jiao et al. 2020, algorithm 1)."""

    source: Annotated[
        Literal["auto", "wordnet", "masked-lm", "embeddings"],
        Field(
            description="Where other words come from. wordnet: synonyms of the worker's WordNet folder (LATHE_WORDNET). "
            "masked-lm: a masked language model's predictions; of words of several pieces, its embedding neighbours. "
            "embeddings: whole words nearest in the teacher's own input table. auto: wordnet where the worker has it, else "
            "embeddings."
        ),
    ] = "auto"
    share: Annotated[float, Field(gt=0, le=1, description="Chance of each word to be replaced; one of a row always is.")] = 0.4
    candidates: Annotated[int, Field(ge=1, le=1000, description="Words of which one is drawn, the best so many.")] = 15
    model: Annotated[
        HelperName | None,
        Field(description="The masked language model of masked-lm, a helper model's name; null: the base model's own head."),
    ] = None

    @model_validator(mode="after")
    def _a_model_is_of_use(self) -> "Synonyms":
        if self.model is not None and self.source != "masked-lm":
            raise ValueError("model is for the source masked-lm alone")
        return self


class BackTranslation(Config):
    """Say a text in another language and then in its own again (Sennrich et al. 2016; Edunov et al. 2018)."""

    models: Annotated[
        tuple[HelperName, HelperName] | None,
        Field(description="Two translation models (MarianMT and alike), there and back, by their helper models' names."),
    ] = None
    apertium: Annotated[
        str | None,
        Field(
            pattern=r"^[a-z]{2,3}(_[A-Za-z]+)?-[a-z]{2,3}(_[A-Za-z]+)?$",
            description="An Apertium pair that the worker has, there; it must have the way back too. For example eng-spa.",
        ),
    ] = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "BackTranslation":
        if (self.models is None) == (self.apertium is None):
            raise ValueError("name either models or apertium")
        return self


class Augment(Config):
    """More rows for distillation, made of train's and answered by the teacher alone; made once, before it begins."""

    copies: Annotated[
        int,
        Field(
            ge=1, le=50, description="Rows made of each row: the first by back-translation, if asked for; others by synonyms."
        ),
    ] = 1
    synonyms: Synonyms | None = None
    back_translation: BackTranslation | None = None

    @model_validator(mode="after")
    def _each_copy_has_its_maker(self) -> "Augment":
        if self.synonyms is None and self.back_translation is None:
            raise ValueError("name synonyms, back_translation or both")
        if self.synonyms is None and self.copies > 1:
            raise ValueError("back-translation makes one copy of a row: copies is 1, or synonyms make the others")
        if self.synonyms is not None and self.back_translation is not None and self.copies == 1:
            raise ValueError("back-translation makes the first copy: synonyms need copies of at least 2")
        return self


class Distill(Config):
    """Train the pruned, fake-quantized student on the prepared teacher (Hinton et al. 2015; TinyBERT, Jiao et al. 2020)."""

    epochs: Annotated[int, Field(ge=1, le=200, description="Passes over the train split.")] = 8
    rate: Rate = 2e-4
    temperature: Annotated[float, Field(gt=0, le=100, description="τ of the soft targets.")] = 3.0
    soft: Weight = 1.0
    hard: Weight = 0.3
    hidden: Annotated[Weight, Field(description="Of the hidden states' error, relative to the teacher's mean square.")] = 5.0
    attention: Weight = 0.0
    patience: Patience = None
    augment: Annotated[
        Augment | None, Field(description="More rows that the teacher labels; hard labels do not count on them.")
    ] = None

    @model_validator(mode="after")
    def _some_term_is_left(self) -> "Distill":
        if not (self.soft or self.hard or self.hidden or self.attention):
            raise ValueError("all four weights are 0: nothing to learn from")
        return self


class Train(Config):
    """What all training in the job has in common, and how much of it there may be."""

    batch: Annotated[int, Field(ge=1, le=4096, description="Rows that go through the model together.")] = 32
    accumulate: Annotated[
        int, Field(ge=1, le=1024, description="Batches whose gradients are added up before each step of the optimizer.")
    ] = 1
    max_length: Annotated[int, Field(ge=8, le=8192, description="Longer texts are cut to this many tokens.")] = 128
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    warmup: Annotated[
        float,
        Field(ge=0, le=1, description="Share of a training's steps over which the rate rises to its peak; then it falls to 0."),
    ] = 0.1
    decay: Annotated[
        float, Field(ge=0, le=1, description="AdamW's L2 on weight matrices; recovery adapts it from here if adapt_l2.")
    ] = 0.01
    precision: Annotated[
        Precision,
        Field(
            description="What training multiplies in beside the simulated integers, which stay exact in all three. "
            "auto: bfloat16 where the device has it, else float32. float32: nothing else. bfloat16: as auto, and refused "
            "where the device lacks it."
        ),
    ] = "auto"
    max_steps: Annotated[
        int | None,
        Field(
            ge=1,
            description="Optimizer steps of all training in the job. Training that reaches it ends and keeps its best epoch.",
        ),
    ] = None
    max_minutes: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e6,
            description="Minutes of all training in the job, validation included, export and measuring not; work that a dead "
            "attempt had not saved is not counted. Results then depend on the machine's speed.",
        ),
    ] = None


class Recipe(Config):
    """The stages in their fixed order."""

    version: Literal[1] = 1
    prepare: Prepare = Prepare()
    quantize: Quantize | None = Quantize()
    prune: Prune | None = Prune()
    distill: Distill | None = Distill()
    train: Train = Train()
    remedy: Annotated[
        Literal["report", "apply"],
        Field(
            description="apply: a distillation that misses the retention target on validation is trained once more, for half "
            "as many epochs again at half the rate; the better on validation is kept. report: it is only said what to try."
        ),
    ] = "report"


class Targets(Config):
    """What the result is held against; the defaults are what the published account of the method reports."""

    parameter_reduction: Annotated[float, Field(ge=0, lt=1)] = 0.305
    size_reduction: Annotated[float, Field(ge=0, lt=1)] = 0.729
    speed_up: Annotated[float, Field(gt=0, le=1000)] = 1.445
    retention: Annotated[float, Field(gt=0, le=1000)] = 0.992


class Evaluate(Config):
    """What the score is, and the shape at which latency is measured: baseline and candidate interleaved in one process."""

    metric: Annotated[
        Literal["auto", "accuracy", "f1", "matthews"],
        Field(
            description="The headline metric of classification, which epochs are chosen by too; auto is accuracy. The other "
            "tasks have one each: the mean of Pearson's and Spearman's correlation, F1 of entities, F1 of SQuAD."
        ),
    ] = "auto"
    positive: Annotated[
        str | None,
        Field(description="The label whose F1 counts; null: the last of two, and of more the mean over all labels (macro)."),
    ] = None
    batch: Annotated[int, Field(ge=1, le=256)] = 1
    length: Annotated[int, Field(ge=8, le=8192, description="Tokens in each row.")] = 128
    threads: Annotated[int, Field(ge=1, le=256)] = 1


Column = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class Columns(Config):
    """Which columns of the data files hold what; a task reads its own alone."""

    text: Column = "text"
    text_pair: Annotated[
        Column | None,
        Field(description="The second text. Pair classification reads text_pair where this is null; regression then has none."),
    ] = None
    label: Annotated[Column, Field(description="The class, or for regression the number.")] = "label"
    tokens: Annotated[Column, Field(description="Token classification: a list of words.")] = "tokens"
    tags: Annotated[Column, Field(description="Token classification: a list of as many tags, entities in IOB2.")] = "tags"
    question: Column = "question"
    context: Column = "context"
    answers: Annotated[
        Column,
        Field(description="Of the question: {text: [...], answer_start: [...]}, characters from 0; empty lists: no answer."),
    ] = "answers"


class Data(Config):
    """Files of one format and the splits that they make up. `train` is needed; what else is missing is carved from it."""

    format: DataFormat
    columns: Columns = Columns()
    splits: Annotated[dict[Split, Annotated[tuple[str, ...], Field(min_length=1)]], Field(description="Files of each split.")]

    @model_validator(mode="after")
    def _there_is_something_to_train_on(self) -> "Data":
        if "train" not in self.splits:
            raise ValueError("splits has no train")
        return self


class Spec(Config):
    """What `python -m compression run` reads: one job, with local paths. Relative paths are taken from the spec's folder."""

    version: Literal[1] = 1
    task: Task = "text-classification"
    model: Annotated[str, Field(description="Folder with config.json, *.safetensors and the tokenizer.")]
    data: Data
    recipe: Recipe = Recipe()
    targets: Targets = Targets()
    evaluate: Evaluate = Evaluate()
    output: Annotated[str, Field(description="Folder for checkpoints/, artifacts/ and report.json; made if missing.")]
    resume: Annotated[
        str | None, Field(description="Folder of an earlier attempt's checkpoints: one a stage, and training/.")
    ] = None
    threads: Annotated[int | None, Field(ge=1, le=1024, description="Training threads; all cores where null.")] = None
    save_seconds: Annotated[
        float | None, Field(ge=0, description="Training is saved this often, for a new attempt to go on from; null: never.")
    ] = None
    split_batches: Annotated[
        int, Field(ge=1, le=64, description="Parts in which each batch goes through the model, where memory did not suffice.")
    ] = 1
    wordnet: Annotated[str | None, Field(description="Folder with WordNet's database files (wndb), for augmentation.")] = None
    helper_models: Annotated[str | None, Field(description="Folder of the model folders that augmentation may name.")] = None


class ModelCheck(Config):
    """What `python -m compression validate` reads for a model: is it safe, whole and of a known family?"""

    kind: Literal["model"] = "model"
    path: str


class DataCheck(Config):
    """What `python -m compression validate` reads for a dataset: do its files hold what its manifest says?"""

    kind: Literal["dataset"] = "dataset"
    task: Task = "text-classification"
    data: Data


STANDARD = Recipe(distill=Distill(epochs=16))
ARTICLE = Recipe(
    quantize=Quantize(qat=Qat()),
    prune=Prune(recovery=Recovery()),
    distill=Distill(epochs=10, rate=5e-5, hidden=1.0, attention=1.0, augment=Augment(synonyms=Synonyms(source="embeddings"))),
)
QUICK = Recipe(distill=Distill(epochs=8))

PRESETS: dict[str, tuple[Recipe, str]] = {
    "standard": (STANDARD, "The default: our best for a small encoder."),
    "article": (ARTICLE, "The published method to the letter, as far as this version builds it (docs/method.md)."),
    "quick": (QUICK, "Minutes on a CPU."),
}
"""Name → (recipe, one line on when to choose it)."""


def preset(name: str, task: str) -> Recipe:
    """Return a preset as it can be had for a task: without augmentation where answers point into the text. Raises KeyError."""
    recipe = PRESETS[name][0]
    if recipe.distill is None or recipe.distill.augment is None or task in AUGMENTED_TASKS:
        return recipe
    return recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"augment": None})})
