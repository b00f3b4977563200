"""Everything that decides a run, in one frozen value: read from TOML, changed by ``key=value``, written back.

Recipe + seed gives the same network to the last bit on the same kind of CPU.
"""

from __future__ import annotations

import ast
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from saccade.controls import ControlName
from saccade.errors import UserError, did_you_mean

__all__ = [
    "MAX_EPOCHS", "MAX_SEED", "Attention", "Data", "Model", "Recipe", "Task", "Training", "builtin_recipe", "described",
    "setting",
]  # fmt: skip

MAX_SEED = 2**63 - 1
"""The largest seed that PyTorch and TOML both take."""
MAX_EPOCHS = 100_000
"""Over a hundred times the longest trainings from scratch that are published, of about 800 epochs."""
_SIDES = (8, 2048)
"""Pixels of the smallest and the largest side of an image."""
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
_MAX_DEPTH = 16
_SHOWN = 80
"""Characters of a wrong value that a message repeats."""


def described(value: object) -> str:
    """``repr(value)`` on one line, cut where it is long.

    >>> described([0] * 1000)[-20:]
    ', 0, 0, 0, 0, 0, 0 …'
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python prints no integer of over 4300 digits
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def _text(value: str) -> str:
    """``value``, found to be text that every file and every path can hold."""
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        found = {"found": described(value)}
        raise PydanticCustomError("text", "{found} holds NUL or bytes that are not UTF-8; plain text is needed", found)
    return value


def _texts(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    for text in (value,) if isinstance(value, str) else value:
        _text(text)
    return value


Text = Annotated[str, AfterValidator(_text)]


def _plain(value: Any, key: str = "", depth: int = 0) -> Any:
    """``value`` in the types TOML has, tuples as lists, so that a recipe read back equals the one written."""
    if depth > _MAX_DEPTH:
        raise PydanticCustomError(
            "deep", "values nested in at most {depth} tables and lists are needed", {"depth": _MAX_DEPTH}
        )
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {
            _text(name): _plain(inner, f"{key}.{name}" if key else name, depth + 1) for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{key}[{i}]", depth + 1) for i, inner in enumerate(value)]
    limit = 2**63 if isinstance(value, int) else math.inf
    if isinstance(value, int | float) and not abs(value) < limit:  # NaN is not, either
        wrong = {"key": key or "it", "found": described(value)}
        raise PydanticCustomError("number", "{key} is {found}; a finite number of 64 bits is needed", wrong)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool | int | float):
        return value
    found = {"key": key or "it", "kind": type(value).__name__}
    if value is None:
        raise PydanticCustomError("none", "{key} is None, which TOML has no word for; leave it out", found)
    raise PydanticCustomError("plain", "{key} is a {kind}; numbers, texts, lists and tables with names can be", found)


def _size(value: Any) -> Any:
    """``value``, found to be one side or two; both kinds in one message, where a union would give three."""
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    if value is None or all(isinstance(side, int) and _SIDES[0] <= side <= _SIDES[1] for side in sides):
        return value
    needed = "one number of {} to {} or two of them, [height, width], are needed".format(*_SIDES)
    raise PydanticCustomError("size", "{needed}", {"needed": needed})


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
    size: Annotated[int | tuple[int, int] | None, BeforeValidator(_size)] = None
    """What a network sees in pixels: the side of a square, or (height, width); None takes the source's own."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """``crop``: the short side fits, the middle is cut out; ``pad``: the long side fits, the mean colour fills the
    rest; ``stretch``: both sides fit."""
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
    """Any of ``flip`` (left to right), ``crop`` (shift by up to an eighth), ``color``, ``erase``; done in the order
    given, by torchvision.transforms.v2."""
    options: Annotated[dict[str, int | float | bool | str], BeforeValidator(_plain)] = Field(default_factory=dict)
    """What the source itself understands, for digits ``clutter`` and ``distractors``."""

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
    options: Annotated[dict[str, Any], BeforeValidator(_plain)] = Field(default_factory=dict)
    """Passed to ``timm.create_model``, or to the function."""


class Attention(_Part):
    """What is plugged, and where."""

    mechanism: Text = "none"
    """``none`` or ``name:option=value``."""
    control: ControlName | None = None
    """What is plugged at the mechanism's sites instead: ``extra``, a bottleneck of about as many parameters; ``noise``,
    a random constant gate; ``shuffled``, the mechanism with the gate or context of the next image of its batch."""
    where: Annotated[str | tuple[str, ...], AfterValidator(_texts)] = "paper"
    start: Literal["auto", "neutral", "paper"] = "auto"
    """``auto``: neutral for a pretrained host, the paper's initialisation for a random one."""
    lr_factor: float = Field(1.0, gt=0, le=_MAX_RATE)
    """The learning rate of the plugs over that of the host."""


class Training(_Part):
    """How it is learnt."""

    epochs: int = Field(10, ge=1, le=MAX_EPOCHS)
    batch_size: int = Field(64, ge=1, le=_MAX_BATCH)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.05, gt=0, le=_MAX_RATE)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, le=_MAX_RATE)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0, le=MAX_EPOCHS)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    precision: Literal["32", "bf16"] = "32"
    threads: int = Field(1, ge=1, le=_MAX_THREADS)
    """CPU threads of the run; part of the recipe because sums depend on it."""
    workers: int = Field(0, ge=0, le=_MAX_WORKERS)
    """Processes that prepare images; the result does not depend on it."""
    seed: int = Field(0, ge=0, le=MAX_SEED)


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
    if error["type"] == "extra_forbidden":
        model: Any = Recipe
        for part in error["loc"][:-1]:
            model = model.model_fields[part].annotation
        return f"there is no key {where!r}.{did_you_mean(str(error['loc'][-1]), model.model_fields)}"
    sentence = f"{where} = {described(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"
    if error["type"] == "literal_error":
        near = did_you_mean(str(error["input"]), re.findall(r"'([^']*)'", error["ctx"]["expected"]))
        sentence += f".{near}" if near else ""
    return sentence
