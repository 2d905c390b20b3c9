"""The settings of a training run, from which the command line is made, and the grammar of its stages. The strings below
the fields are the command line's help. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from captioner.config import ModelConfig, RecurrentConfig
from captioner.data.augment import AugmentConfig
from captioner.decoding import Decoding

# Each is a file in training/objectives/.
OBJECTIVES = ("cross-entropy", "scheduled-sampling", "self-critical", "professor-forcing", "distillation")
TERMS = ("attention-supervision", "coverage")  # what can be added to an objective


@dataclass(frozen=True)
class Stage:
    """Some epochs of training: what learns, and what is minimised."""

    part: str  # "decoder", or the block from which the CNN learns, too
    epochs: int
    objective: str = "cross-entropy"
    terms: tuple[str, ...] = ()

    @property
    def block(self) -> str | None:
        """The first block of the CNN that learns; None if the CNN is frozen."""
        return None if self.part == "decoder" else self.part

    @property
    def name(self) -> str:
        """What the log and the curves call it: the stage as it is written, without its epochs."""
        objective = "+".join((self.objective, *self.terms))
        return self.part if objective == "cross-entropy" else f"{objective}@{self.part}"


@dataclass(frozen=True)
class ScheduledSamplingConfig:
    """Scheduled sampling: stages that begin with scheduled-sampling@."""

    rate: float = 0.25
    """Probability that an input word is the model's own, at the end of the stage."""
    schedule: Literal["linear", "inverse-sigmoid"] = "linear"
    """How the rate rises from 0."""


@dataclass(frozen=True)
class SelfCriticalConfig:
    """Self-critical training: stages that begin with self-critical@."""

    samples: int = 5
    """Captions sampled per photo in each step."""
    baseline: Literal["others", "greedy"] = "others"
    """Baseline of the reward: the mean reward of the photo's other samples, or the reward of its greedy caption."""
    temperature: float = 0.6
    """Sampling temperature. The log-probabilities in the loss use the same temperature."""
    bleu: float = 0.0
    """Weight of BLEU-4 in the reward, added to CIDEr-D."""
    wrong_object: float = 0.0
    """Reward penalty for each kind of object (of the 80 COCO categories) that a sampled caption names but no training
    caption of the photo does."""
    cross_entropy: float = 0.1
    """Weight of the cross-entropy of the training captions, added to the self-critical loss."""
    learning_rate_scale: float = 0.4
    """Factor on the learning rates in these stages."""


@dataclass(frozen=True)
class ProfessorForcingConfig:
    """Professor Forcing: stages that begin with professor-forcing@."""

    weight: float = 1.0
    """Weight of the adversarial loss, added to the cross-entropy."""


@dataclass(frozen=True)
class DistillationConfig:
    """Distillation: stages that begin with distillation@."""

    teacher: tuple[str, ...] = ()
    """Teachers: checkpoints, or names of shipped models. The word probabilities of several teachers are averaged."""
    share: float = 0.7
    """Weight of the teacher's word probabilities in the target. The rest is the caption's word, without label
    smoothing."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a model: CNN and RNN, in stages, on Flickr8k, Flickr30k, COCO or your own photos."""

    data: tuple[Path, ...]
    """One or more data set folders. The formats are detected from the files."""
    output: Path
    """Folder of the run: best/, last/, log.jsonl, curves.png, TensorBoard."""
    model: ModelConfig = field(default_factory=ModelConfig)
    images: tuple[Path, ...] = ()
    """Folders of the photos, one per data set, if they are not below the data sets' folders."""
    shares: tuple[float, ...] = ()
    """With several data sets: the fraction of each one's training photos per epoch, such as 1 0.5, drawn anew each
    epoch; 0 to only validate on it. All photos by default."""
    select: str = "mean"
    """With several data sets: the name of the one whose validation CIDEr-D selects best/, or mean for the mean over
    all."""
    weights: str = "DEFAULT"
    """Initial weights of the CNN: a torchvision name, a .safetensors or .pth file, a captioner checkpoint, or none."""
    init: Path | None = None
    """A checkpoint to start from: a captioner or a language model. On the command line, its architecture becomes the
    default. Words in both vocabularies keep their vectors; new words start near the mean of these."""
    stages: tuple[str, ...] = ("decoder:10", "features.14:3", "features.7:7")
    """What to train, in order: decoder:EPOCHS trains the decoder over the frozen CNN, BLOCK:EPOCHS also the CNN from
    that block up. In full: [OBJECTIVE[+TERM...]@]PART:EPOCHS. The objective is cross-entropy by default."""
    batch_size: int = 16
    """Photos per batch, each with all its captions. With torchrun, the batch is split across the processes."""
    accumulate: int = 1
    """Gradient accumulation, in batches per step: N batches of size B train as one of size N·B."""
    learning_rate: float = 1e-3
    """Peak learning rate of the decoder while the CNN is frozen."""
    joint_learning_rate: float = 4e-4
    """Peak learning rate of the decoder while the CNN learns, too."""
    encoder_learning_rate: float = 1e-4
    """Peak learning rate of the CNN."""
    warmup: float = 0.05
    """Fraction of a stage's steps with linear warmup of the learning rates. Cosine decay follows."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, for matrices only (no biases, norms or embeddings)."""
    label_smoothing: float = 0.1
    """Fraction of the target probability that is spread evenly over all words."""
    clip: float = 5.0
    """Maximum norm of the gradient; a larger gradient is scaled down."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, such as 0.999; 0 for none. The average is validated and
    saved in best/."""
    keep_best: int = 0
    """Number of best epochs whose checkpoints are kept in kept/, for captioner average."""
    embeddings: Path | None = None
    """Initial word vectors: a GloVe or word2vec text file, plain or gzip. One factor scales them to the size of random
    ones."""
    freeze_embeddings: bool = False
    """Do not train the word vectors."""
    attention_supervision: float = 1.0
    """Weight of the term +attention-supervision, which pulls the attention of a content word to where a word classifier
    sees it."""
    coverage: float = 1.0
    """Weight of the term +coverage, which makes a caption attend to each region once in total."""
    scheduled_sampling: ScheduledSamplingConfig = field(default_factory=ScheduledSamplingConfig)
    self_critical: SelfCriticalConfig = field(default_factory=SelfCriticalConfig)
    professor_forcing: ProfessorForcingConfig = field(default_factory=ProfessorForcingConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    train_batch_norm: bool = False
    """Train batch norm, too (only for a CNN with random initial weights)."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    image_size: int = 0
    """Side of the CNN's input in pixels; 0 for the size that its weights were trained with."""
    min_count: int = 5
    """Words that occur less often in the training captions become unknown words."""
    max_length: int = 40
    """Longer training captions are cut to this number of words."""
    decoding: Decoding = field(default_factory=Decoding)
    patience: int = 4
    """A stage ends after this number of epochs without a better CIDEr-D; 0 to run all epochs."""
    save_every: int = 200
    """Steps between saves of last/, which is also saved after each epoch; 0 to save it only then."""
    workers: int = 1
    """Processes that read photos; 0 to read them in the main process."""
    seed: int = 0
    """The same seed gives the same run, bit for bit on a CPU."""
    deterministic: bool = False
    """Make runs on CUDA repeat and resume bit for bit, too, which is slower. Runs on a CPU always do."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""
    cache: Path | None = None
    """Folder for the features of the frozen CNN (default: features/ in the run's folder)."""
    resume: bool = False
    """Continue the run in --output from its last save, exactly, with its settings. --stages may add stages at the
    end."""
    limit: int = 0
    """Use only this number of photos per split, the first ones, to try things out; 0 for all."""


@dataclass(frozen=True)
class FindConfig(TrainConfig):
    """The range test of learning rates: the settings of train, of which the first stage counts, and these."""

    output: Path = Path()
    """Not used: nothing is written but the picture."""
    picture: Path = Path("learning-rate.png")
    """Plot of the loss against the learning rate: a .png, .svg or .pdf file."""
    lowest: float = 1e-6
    """Learning rate of the first step."""
    highest: float = 1.0
    """Learning rate of the last step, unless the loss diverges first."""
    steps: int = 200
    """Steps of the test."""


@dataclass(frozen=True)
class PretrainConfig:
    """Train a language model: the decoder alone, on text."""

    text: tuple[Path, ...]
    """UTF-8 text files, or folders of data sets, whose training captions are used."""
    output: Path
    """Folder of the run: best/, last/, log.jsonl, curves.png, TensorBoard."""
    validation: tuple[Path, ...] = ()
    """Text files to validate on, or folders of data sets, whose validation captions are used. By default, the last
    tenth of the text, which is then not trained on."""
    level: Literal["word", "character"] = "word"
    """What the model reads and predicts: words (tokenized like captions: lower case, no punctuation) or characters."""
    document: Literal["file", "line"] = "file"
    """What counts as a document: a file (in a WikiText file, an article) or a line, such as a caption. The state is
    reset at the start of a document. Files are read in streams, lines whole."""
    model: RecurrentConfig = field(default_factory=RecurrentConfig)
    init: Path | None = None
    """A checkpoint to start from: a captioner or a language model. On the command line, its architecture becomes the
    default. Words in both vocabularies keep their vectors; new words start near the mean of these."""
    epochs: int = 10
    """Passes over the text."""
    batch_size: int = 32
    """Parallel streams; with --document line, documents per batch."""
    bptt: int = 70
    """Length of truncated back-propagation through time, in tokens. The state is carried on."""
    vary_bptt: bool = False
    """Vary --bptt at random, as AWD-LSTM does (Merity, Keskar and Socher 2018)."""
    accumulate: int = 1
    """Gradient accumulation, in batches per step."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup: float = 0.05
    """Fraction of the steps with linear warmup of the learning rate. Cosine decay follows."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, for matrices only (no biases, no embeddings)."""
    clip: float = 5.0
    """Maximum norm of the gradient; a larger gradient is scaled down."""
    min_count: int = 5
    """Words or characters that occur less often in the text become unknown tokens."""
    patience: int = 4
    """Training ends after this number of epochs without a better validation score; 0 to run all epochs."""
    save_every: int = 200
    """Steps between saves of last/, which is also saved after each epoch; 0 to save it only then."""
    seed: int = 0
    """The same seed gives the same run, bit for bit on a CPU."""
    deterministic: bool = False
    """Make runs on CUDA repeat and resume bit for bit, too, which is slower. Runs on a CPU always do."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""
    resume: bool = False
    """Continue the run in --output from its last save, exactly, with its settings."""


Config = TypeVar("Config", bound=TrainConfig | PretrainConfig)


def read_settings(kind: type[Config], values: Mapping[str, Any], source: Path) -> Config:
    """The config that a run's train.json holds; settings that it lacks have their defaults. Raises ValueError."""
    try:
        return _from_json(kind, values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{source} does not hold the settings of this kind of run ({error}). Start a new run."
        ) from None


def _from_json(kind: Any, value: Any) -> Any:
    """A value of the type `kind` from JSON, in which paths are strings and tuples are lists."""
    if isinstance(kind, type) and is_dataclass(kind):
        kinds = get_type_hints(kind)
        if unknown := value.keys() - kinds.keys():
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        return kind(**{name: _from_json(kinds[name], each) for name, each in value.items()})
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{value!r} instead of a list")
        return tuple(_from_json(get_args(kind)[0], each) for each in value)
    if value is not None and Path in (kind, *get_args(kind)):
        return Path(value)
    return value


def check_settings(config: TrainConfig | PretrainConfig) -> None:
    """Raise ValueError for a number that no training can use. Names are checked where they are looked up."""

    def check(good: Callable[[Any], bool], expected: str, *names: str) -> None:
        for name in names:
            if not hasattr(config, name.split(".")[0]):
                continue  # a setting of the other recipe
            value = attrgetter(name)(config)
            if not good(value):
                found = "missing" if value == () else repr(value)
                raise ValueError(f"--{name.replace('_', '-')} is {found}; expected {expected}.")

    check(lambda x: len(x) >= 1, "at least one stage, such as decoder:10", "stages")
    check(lambda x: len(x) >= 1, "at least one file", "text")
    check(lambda x: len(x) >= 1, "at least one folder", "data")
    if isinstance(config, TrainConfig) and config.shares:
        count = len(config.data)
        check(lambda x: len(x) == count, f"one share per data set ({count} of them)", "shares")
        check(lambda x: all(0 <= share <= 1 for share in x) and any(x), "shares from 0 to 1, not all 0", "shares")
    check(lambda x: x >= 1, "1 or more", "batch_size", "accumulate", "min_count", "max_length", "epochs", "bptt")
    check(lambda x: x >= 1, "1 or more", "model.embedding_size", "model.hidden_size")
    check(lambda x: x >= 0, "0 or more", "image_size", "weight_decay", "patience", "save_every")
    check(lambda x: x >= 0, "0 or more", "workers", "seed", "limit", "keep_best")
    check(lambda x: x >= 10, "10 or more", "steps")
    check(lambda x: x > 0, "above 0", "lowest")
    if isinstance(config, FindConfig):
        check(lambda x: x > config.lowest, "more than --lowest", "highest")
    check(lambda x: x > 0, "above 0", "learning_rate", "joint_learning_rate", "encoder_learning_rate")
    check(lambda x: x > 0, "above 0 (inf for no clipping)", "clip")
    check(lambda x: 0 <= x <= 1, "0 to 1", "warmup", "augment.colour")
    check(lambda x: 0 <= x < 1, "0 or more and below 1", "label_smoothing", "model.dropout")
    if isinstance(config, TrainConfig):
        check(lambda x: 0 <= x < 1, "0 or more and below 1", "model.feature_dropout")
    check(lambda x: 0 < x <= 1, "above 0 and at most 1 (no crop)", "augment.smallest_crop")
    check(lambda x: 0 <= x < 1, "0 or more and below 1, such as 0.999", "ema")
    check(lambda x: 0 <= x <= 1, "0 to 1", "scheduled_sampling.rate", "distillation.share")
    if isinstance(config, TrainConfig) and any(parse_stage(text).objective == "distillation" for text in config.stages):
        check(lambda x: len(x) >= 1, "one or more teacher checkpoints", "distillation.teacher")
    check(
        lambda x: x >= 0,
        "0 or more",
        "attention_supervision",
        "coverage",
        "self_critical.bleu",
        "self_critical.wrong_object",
        "self_critical.cross_entropy",
        "professor_forcing.weight",
    )
    check(lambda x: x > 0, "above 0", "self_critical.learning_rate_scale", "self_critical.temperature")
    least = 2 if isinstance(config, TrainConfig) and config.self_critical.baseline == "others" else 1
    check(lambda x: x >= least, f"{least} or more for this baseline", "self_critical.samples")


STAGE = re.compile(r"(?:(?P<objective>[^@+:]+)(?P<terms>(?:\+[^@+:]+)*)@)?(?P<part>[^@+:]+):(?P<epochs>0*[1-9][0-9]*)")


def parse_stage(text: str) -> Stage:
    """Read a stage: [OBJECTIVE[+TERM...]@]PART:EPOCHS, such as `decoder:10`, `features.14:5` or
    `cross-entropy+coverage@features.7:3`. PART is `decoder` or a block of the CNN; the model checks its name."""
    match = STAGE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"stage {text!r} is not [OBJECTIVE[+TERM...]@]PART:EPOCHS, such as decoder:10 (over the frozen CNN) or "
            "features.14:5 (the CNN learns from that block up)."
        )
    objective, terms = (
        match["objective"] or "cross-entropy",
        tuple(match["terms"].split("+")[1:] if match["terms"] else ()),
    )
    for name, kind, known in ((objective, "objective", OBJECTIVES), *((term, "term", TERMS) for term in terms)):
        if name not in known:
            raise ValueError(f"stage {text!r}: unknown {kind} {name!r}; expected one of: {', '.join(known)}.")
    if len(set(terms)) < len(terms):
        raise ValueError(f"stage {text!r} adds a term twice; expected each once.")
    return Stage(match["part"], int(match["epochs"]), objective, terms)
