"""Everything that decides a run, in one frozen value: read from TOML, changed by ``key=value``, written back.

Recipe + seed gives the same network to the last bit on the same kind of CPU.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from saccade.controls import ControlName
from saccade.errors import UserError, did_you_mean
from saccade.recipe_values import Channels, Frozen, PlainTable, Size, Spreads, Text, Texts, described
from saccade.training_rules import problem

__all__ = [
    "MAX_EPOCHS", "MAX_SEED", "Attention", "Data", "Model", "Phase", "Recipe", "Task", "Training", "builtin_recipe",
    "described", "setting",
]  # fmt: skip

MAX_SEED = 2**63 - 1
"""The largest seed that PyTorch and TOML both take."""
MAX_EPOCHS = 100_000
"""Over a hundred times the longest trainings from scratch that are published, of about 800 epochs."""
_MAX_IMAGES = 1_000_000_000
"""Three times JFT-300M, the largest set of labelled images that is published."""
_MAX_BATCH = 131_072
"""Four times the largest batches that ImageNet is trained with, of 32,768."""
_MAX_THREADS = 1024
"""More than the threads of the largest machines of two sockets; far above it the process is killed."""
_MAX_WORKERS = 256
"""Each is a process of a few hundred megabytes."""
_MAX_RATE = 1e38
"""What float32 holds."""


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


class Data(_Part):
    """The images: what they are, how many, what is done to them."""

    source: Text = "digits"
    """``digits`` (drawn, nothing to download) or a folder of images."""
    layout: Text = "auto"
    """How images and targets lie in ``source``, a name of ``saccade.data.layouts``; ``auto`` recognises it."""
    size: Size = None
    """What a network sees in pixels: the side of a square, or (height, width); None takes the source's own."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """``crop``: the short side fits, the middle is cut out; ``pad``: the long side fits, the mean colour fills the
    rest; ``stretch``: both sides fit."""
    mean: Channels = None
    """Subtracted from pixels in [0, 1], by channel; None takes that of the host's weights, else of the training
    images."""
    std: Spreads = None
    """What the difference is divided by; None as for ``mean``."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = None
    """Of resizing; None takes that of the host's weights, else bilinear."""
    crop_pct: float | None = Field(None, gt=0, le=1)
    """With ``crop``: the short side is resized to ``size`` / ``crop_pct`` before the middle is cut out, as timm does;
    None takes that of the host's weights, else 1."""
    train_images: int | None = Field(None, ge=2, le=_MAX_IMAGES)
    """At most so many training images, the same number for each class as far as possible; None takes all."""
    test_images: int | None = Field(None, ge=2, le=_MAX_IMAGES)
    test_part: float = Field(0.2, gt=0, lt=1)
    """What is held back for testing where the folder does not say."""
    score_on: Literal["test", "val"] = "test"
    """``val``: the validation part is scored in place of the test part, as tuning needs it; where the source has none,
    ``val_part`` of the training images is held back."""
    val_part: float = Field(0.2, gt=0, le=0.5)
    """What ``score_on = "val"`` holds back from training where the source has no validation part."""
    skip_bad: bool = False
    """Files that cannot be read are left out and counted; otherwise they are refused."""
    split_seed: int = Field(0, ge=0, le=MAX_SEED)
    """Draws the held-back part and the subset: one value for all runs of a study."""
    augment: tuple[Text, ...] = ()
    """Any of ``flip`` (left to right), ``crop`` (shift by up to an eighth), ``color``, ``erase``, and, for images with
    a label, the policies ``randaugment``, ``trivialaugment``, ``autoaugment`` (found on ImageNet),
    ``autoaugment_cifar10``, ``autoaugment_svhn``; done in the order given, by torchvision.transforms.v2."""
    options: PlainTable[int | float | bool | str] = Field(default_factory=dict)
    """What the layout understands: ``clutter`` and ``distractors`` of digits, ``group`` and ``labels`` of tables, …"""

    @property
    def height_width(self) -> tuple[int, int] | None:
        """``size`` as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class Task(_Part):
    """What is learnt and how it is scored."""

    name: Text = "auto"
    """``auto``: the task that the targets of the data are for."""
    metric: Text | None = None
    """The metric that verdicts are given by; None is the task's first."""


class Model(_Part):
    """The host."""

    name: Text = "resnet10_small"
    """Any name of timm's, ours among them, or ``package.module:function`` for one that builds a network."""
    code: Text | None = None
    """Digest of the code of that function, so that a study does not go on with another one of the same name."""
    pretrained: bool = False
    checkpoint: Text | None = None
    """A safetensors file to start from; a head of another size is left out and said so."""
    init_from: Text | None = None
    """The folder of a finished run to start from: its host, and its plugs where the same are plugged."""
    options: PlainTable[Any] = Field(default_factory=dict)
    """Passed to ``timm.create_model``, or to the function."""


class Attention(_Part):
    """What is plugged, and where."""

    mechanism: Text = "none"
    """``none`` or ``name:option=value``."""
    control: ControlName | None = None
    """What is plugged at the mechanism's sites instead: ``extra``, a bottleneck of about as many parameters; ``noise``,
    a random constant gate; ``shuffled``, the mechanism with the gate or context of the next image of its batch."""
    where: Texts = "paper"
    start: Literal["auto", "neutral", "paper"] = "auto"
    """``auto``: neutral for a pretrained host, the paper's initialisation for a random one."""
    lr_factor: float = Field(1.0, gt=0, le=_MAX_RATE)
    """The learning rate of the plugs over that of the host."""


@dataclass(frozen=True)
class Phase:
    """A part of a training: which parameters learn, for how long, and which epoch is kept.

    Attributes:
        name: for the record.
        epochs: how many.
        trainable: globs of parameter names, ``!glob`` leaves out; a module all of whose parameters are frozen stays in
            eval mode, and so does what lies in it. A module without parameters beside trained ones, such as a dropout,
            is in train mode.
        choose: go on from the epoch with the best score on ``val``, not from the last.
        lr: instead of the recipe's.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: Text
    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)]
    trainable: tuple[Text, ...] = ("*",)
    choose: bool = False
    lr: Annotated[float | None, Field(gt=0, le=_MAX_RATE)] = None


class Training(_Part):
    """How it is learnt."""

    epochs: int = Field(10, ge=1, le=MAX_EPOCHS)
    """With phases: the sum of their epochs; it may be left out."""
    phases: tuple[Phase, ...] = ()
    """Trained in this order, each with its own optimiser, schedule and average; () trains everything in one phase."""
    batch_size: int = Field(64, ge=1, le=_MAX_BATCH)
    optimizer: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    lr: float = Field(0.05, gt=0, le=_MAX_RATE)
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of ``sgd`` and ``rmsprop``."""
    nesterov: bool = False
    """Nesterov's momentum, of ``sgd``."""
    rmsprop_alpha: float | None = Field(None, ge=0, lt=1)
    """Decay of the mean of squared gradients, of ``rmsprop``; None takes PyTorch's 0.99."""
    eps: float | None = Field(None, gt=0, le=_MAX_RATE)
    """Added to the denominator of ``adamw`` and ``rmsprop``; None takes PyTorch's 1e-8."""
    weight_decay: float = Field(5e-4, ge=0, le=_MAX_RATE)
    schedule: Literal["cosine", "constant", "step", "multistep", "exponential"] = "cosine"
    """``step``: times ``gamma`` after every ``step_epochs``; ``multistep``: at each of ``milestones``; ``exponential``:
    after every epoch. Epochs are counted from the start of the phase, warm-up included."""
    step_epochs: int | None = Field(None, ge=1, le=MAX_EPOCHS)
    milestones: tuple[Annotated[int, Field(ge=1, le=MAX_EPOCHS)], ...] = ()
    """Epochs after which the rate falls, ascending."""
    gamma: float | None = Field(None, gt=0, lt=1)
    """None takes 0.1 for ``step`` and ``multistep``; ``exponential`` needs a number."""
    warmup_epochs: float = Field(0.0, ge=0, le=MAX_EPOCHS)
    clip_norm: float | None = Field(None, gt=0, le=_MAX_RATE)
    """Scale the gradients down to this 2-norm, taken over all parameters, where it is larger."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    freeze: Frozen = "auto"
    """What of the host does not learn: ``norm``, the running statistics of its normalisation layers; ``host``, all but
    the head; globs of parameter names. ``auto``: the statistics of folded layers, those of a checkpoint that are the
    identity. Plugs always learn."""
    mixup_alpha: float = Field(0.0, ge=0, le=_MAX_RATE)
    """Blend each image with the one before it in the batch, in a proportion drawn from Beta(alpha, alpha); 0 is off."""
    cutmix_alpha: float = Field(0.0, ge=0, le=_MAX_RATE)
    """Paste a rectangle of the image before it instead; with both keys set each batch draws one of the two."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Score and save the exponential moving average of the weights; at step n it keeps the share
    min(ema_decay, 1 - n^(-2/3)) of itself."""
    teacher: Text | None = None
    """Learn from this network too: a run folder, or a name of timm's with ``teacher_checkpoint``."""
    teacher_checkpoint: Text | None = None
    """A safetensors file: the weights of a teacher of timm's."""
    distill_alpha: float | None = Field(None, gt=0, le=1)
    """The loss is (1 - alpha) of the task's and alpha of the teacher's; None takes 0.5."""
    distill_temperature: float | None = Field(None, gt=0, le=_MAX_RATE)
    """Divides the logits of both networks; None takes 4."""
    sync_bn: bool = False
    """True is refused: a run has one device, and its batch norms see the whole batch."""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Log losses, rates and scores there as well; the result does not depend on it. ``tensorboard`` writes into the run
    folder; ``wandb`` reads its environment variables, such as WANDB_PROJECT, WANDB_NAME and WANDB_MODE."""
    precision: Literal["32", "bf16", "auto"] = "32"
    """``bf16``: autocast to bfloat16; ``auto``: the faster of the two, see ``saccade.decisions``."""
    memory_format: Literal["contiguous", "channels_last", "auto"] = "contiguous"
    """How the host's weights and maps lie in memory; ``auto``: the faster of the two. Results differ by rounding."""
    threads: int = Field(1, ge=1, le=_MAX_THREADS)
    """CPU threads of the run; part of the recipe because sums depend on it."""
    workers: int = Field(0, ge=0, le=_MAX_WORKERS)
    """Processes that prepare images; the result does not depend on it."""
    seed: int = Field(0, ge=0, le=MAX_SEED)

    @model_validator(mode="before")
    @classmethod
    def _epochs_of_the_phases(cls, values: Any) -> Any:
        """Fill in ``epochs`` where there are phases alone."""
        if not isinstance(values, Mapping) or "epochs" in values or not values.get("phases"):
            return values
        try:
            counts = [phase.epochs if isinstance(phase, Phase) else phase["epochs"] for phase in values["phases"]]
            return {**values, "epochs": sum(counts)}
        except (TypeError, KeyError):  # the phases themselves are refused
            return values


class Recipe(_Part):
    """One run, whole."""

    data: Data = Data()
    task: Task = Task()
    model: Model = Model()
    attention: Attention = Attention()
    training: Training = Training()

    @model_validator(mode="after")
    def _has_what_its_control_needs(self) -> Self:
        """A control without a mechanism would be nothing, and ``shuffled`` in batches of one the mechanism itself."""
        part, size = self.attention, self.training.batch_size
        if part.control is not None and part.mechanism == "none":
            needs = "a control stands in a mechanism's place; attention.mechanism is 'none', name one"
        elif part.control == "shuffled" and size < 2:
            needs = (
                f"an image gets the gate of another of its batch; training.batch_size is {size}, at least 2 is needed"
            )
        else:
            return self
        raise PydanticCustomError("control", "{text}", {"text": f"attention.control = {part.control!r}: {needs}"})

    @model_validator(mode="after")
    def _crops_what_it_cuts(self) -> Self:
        """``crop_pct`` is a number of one way to resize."""
        if self.data.crop_pct is not None and self.data.resize != "crop":
            needs = f"data.crop_pct = {self.data.crop_pct} needs data.resize = 'crop'; found {self.data.resize!r}"
            raise PydanticCustomError("crop_pct", "{needs}", {"needs": needs})
        return self

    @model_validator(mode="after")
    def _trains_by_keys_that_fit_together(self) -> Self:
        if wrong := problem(self.training):
            raise PydanticCustomError("training", "{text}", {"text": wrong})
        return self

    @classmethod
    def read(cls, values: Mapping[str, Any], owner: str = "recipe") -> Recipe:
        """The checked recipe out of nested mappings; ``owner`` names them in messages.

        Raises:
            UserError: an unknown key (with its neighbours) or a value of the wrong kind or range, each one named.

        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{owner}: " + "; ".join(_sentence(e) for e in error.errors())) from None

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """The recipe in a TOML file.

        Raises:
            UserError: the file is missing, is no TOML or holds a wrong recipe.

        """
        path = Path(path)
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise UserError(f"cannot read the recipe {path}: it is no regular file")  # a pipe has no end
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the recipe {path}: {error.strerror}") from None
        except RecursionError:
            raise UserError(f"{path} is not valid TOML: its values are nested too deeply") from None
        except UserError:
            raise
        except ValueError as error:  # of TOML, of UTF-8, or a number too long for Python
            raise UserError(f"{path} is not valid TOML: {error}") from None
        return cls.read(values, str(path))

    def with_overrides(self, settings: Iterable[str] | Mapping[str, Any]) -> Recipe:
        """A copy with ``settings`` put in: ``["training.epochs=3"]`` or ``{"training.epochs": 3}``.

        ``training.phases`` alone sets ``training.epochs`` to their sum.

        Raises:
            UserError: a setting has no ``=``, names an unknown key, or gives a wrong value.

        """
        if not isinstance(settings, Mapping):
            settings = dict(setting(text) for text in settings)
        values = self.model_dump(mode="json")
        for key, value in settings.items():
            *parents, last = key.split(".")
            place = values
            for parent in parents:
                if not isinstance(place.get(parent), dict):
                    raise UserError(f"a recipe has no part {parent!r} (in {key!r}).{did_you_mean(parent, place)}")
                place = place[parent]
            place[last] = value
        if settings.get("training.phases") and "training.epochs" not in settings:
            values["training"].pop("epochs", None)
        return type(self).read(values, "settings")

    def to_toml(self) -> str:
        """The whole recipe as TOML; keys that hold None are left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def setting(text: str) -> tuple[str, Any]:
    """Key and value of ``part.key=value``; a value that is no Python literal is text.

    Raises:
        UserError: there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{text!r} is no setting; write part.key=value, for example training.epochs=3")
    try:
        return key.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return key.strip(), {"true": True, "false": False}.get(value.strip(), value.strip())


def builtin_recipe(name: str) -> Recipe:
    """A recipe that comes with the package: ``digits``, ``cifar10``, …

    An installed package holds the folder ``recipes`` itself; in a checkout it stands beside ``src``.

    Raises:
        UserError: there is no such recipe.
    """
    package = Path(__file__).parent
    home = next(place for place in (package / "recipes", package.parents[1] / "recipes") if place.is_dir())
    known = sorted(path.stem for path in home.glob("*.toml"))
    if name not in known:
        raise UserError(f"no recipe is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return Recipe.load(home / f"{name}.toml")


def _sentence(error: Any) -> str:
    """One pydantic error as words: where, what was found, what is needed."""
    where = ".".join(str(part) for part in error["loc"])
    if not where:  # of the recipe as a whole: the message names the keys
        return str(error["msg"])
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"there is no key {where!r}.{did_you_mean(str(error['loc'][-1]), _keys(error['loc'][:-1]))}"
    sentence = f"{where} = {described(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"
    if error["type"] == "literal_error":
        near = did_you_mean(str(error["input"]), re.findall(r"'([^']*)'", error["ctx"]["expected"]))
        sentence += f".{near}" if near else ""
    return sentence


def _keys(place: tuple[int | str, ...]) -> Iterable[str]:
    """The keys of the part at ``place``."""
    if "phases" in place:
        return Phase.__dataclass_fields__
    model: Any = Recipe
    for part in place:
        model = model.model_fields[part].annotation
    return model.model_fields
