"""Recipe: all settings of one run, read from TOML and changed by ``key=value``.

The same recipe gives bit-identical weights on the same kind of CPU.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from saccade.errors import UserError, did_you_mean
from saccade.recipe_sections import (
    MAX_EPOCHS,
    MAX_SEED,
    Attention,
    Data,
    Model,
    Phase,
    RecipeBase,
    TaskSection,
    Training,
)
from saccade.recipe_values import short_repr
from saccade.training_rules import conflict_message

__all__ = [
    "MAX_EPOCHS", "MAX_SEED", "Attention", "Data", "Model", "Phase", "Recipe", "TaskSection", "Training",
    "builtin_recipe", "parse_setting", "short_repr",
]  # fmt: skip

Task = TaskSection
"""Former name, in pickles and imports of earlier versions."""


class Recipe(RecipeBase):
    """All settings of one run."""

    data: Data = Data()
    task: TaskSection = TaskSection()
    model: Model = Model()
    attention: Attention = Attention()
    training: Training = Training()

    @model_validator(mode="after")
    def _check_control(self) -> Self:
        """Require a mechanism for a control, and a batch of at least two images for ``shuffled``."""
        attention, batch_size = self.attention, self.training.batch_size
        if attention.control is not None and attention.mechanism == "none":
            problem = "a control replaces a mechanism, and attention.mechanism is 'none'; name one"
        elif attention.control == "shuffled" and batch_size < 2:
            problem = (
                "each image gets the gate of another image of its batch; training.batch_size is "
                f"{batch_size}, at least 2 is needed"
            )
        else:
            return self
        raise PydanticCustomError(
            "control", "{text}", {"text": f"attention.control = {attention.control!r}: {problem}"}
        )

    @model_validator(mode="after")
    def _check_crop_pct(self) -> Self:
        """Require ``resize = "crop"`` if ``crop_pct`` is set."""
        if self.data.crop_pct is not None and self.data.resize != "crop":
            problem = f"data.crop_pct = {self.data.crop_pct} needs data.resize = 'crop'; found {self.data.resize!r}"
            raise PydanticCustomError("crop_pct", "{problem}", {"problem": problem})
        return self

    @model_validator(mode="after")
    def _check_training_keys(self) -> Self:
        """Raise if keys of ``training`` conflict."""
        if message := conflict_message(self.training):
            raise PydanticCustomError("training", "{text}", {"text": message})
        return self

    @classmethod
    def read(cls, values: Mapping[str, Any], owner: str = "recipe") -> Recipe:
        """Validate nested mappings and return the recipe; ``owner`` names the file in messages.

        Raises:
            UserError: a key is unknown (similar keys are suggested), or a value has a wrong type or range.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{owner}: " + "; ".join(_error_message(e) for e in error.errors())) from None

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe from a TOML file.

        Raises:
            UserError: the file is missing, is not valid TOML, or holds an invalid recipe.
        """
        path = Path(path)
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                # Reading a pipe would block.
                raise UserError(f"cannot read the recipe {path}: it is not a regular file")
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read the recipe {path}: {error.strerror}") from None
        except RecursionError:
            raise UserError(f"{path} is not valid TOML: its values are nested too deeply") from None
        except UserError:
            raise
        except ValueError as error:  # invalid TOML or UTF-8, or a number with too many digits
            raise UserError(f"{path} is not valid TOML: {error}") from None
        return cls.read(values, str(path))

    def with_overrides(self, settings: Iterable[str] | Mapping[str, Any]) -> Recipe:
        """Return a copy with ``settings`` applied: ``["training.epochs=3"]`` or ``{"training.epochs": 3}``.

        If ``training.phases`` is set without ``training.epochs``, the epochs become the sum of the phases.

        Raises:
            UserError: a setting has no ``=``, an unknown key or an invalid value.
        """
        if not isinstance(settings, Mapping):
            settings = dict(map(parse_setting, settings))
        values = self.model_dump(mode="json")
        for key, value in settings.items():
            *parents, name = key.split(".")
            table = values
            for parent in parents:
                if not isinstance(table.get(parent), dict):
                    raise UserError(f"a recipe has no section {parent!r} (in {key!r}).{did_you_mean(parent, table)}")
                table = table[parent]
            table[name] = value
        if settings.get("training.phases") and "training.epochs" not in settings:
            values["training"].pop("epochs", None)
        return type(self).read(values, "settings")

    def to_toml(self) -> str:
        """Return the recipe as TOML, without the keys that are None."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def parse_setting(text: str) -> tuple[str, Any]:
    """Split ``section.key=value`` into key and value; a value is a Python literal, true, false or text.

    Raises:
        UserError: there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{text!r} is not a setting; write section.key=value, for example training.epochs=3")
    try:
        return key.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return key.strip(), {"true": True, "false": False}.get(value.strip(), value.strip())


def builtin_recipe(name: str) -> Recipe:
    """Return a recipe of the package, such as ``digits`` or ``cifar10``.

    Raises:
        UserError: there is no recipe with this name, or the folder of recipes is missing.
    """
    package = Path(__file__).parent
    # An installed package contains the folder; in a checkout it lies beside src.
    folders = (package / "recipes", package.parents[1] / "recipes")
    folder = next((path for path in folders if path.is_dir()), None)
    if folder is None:
        raise UserError(
            f"the built-in recipes are missing: there is neither {folders[0]} nor {folders[1]}; install Saccade again, "
            "or name a recipe file"
        )
    names = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in names:
        raise UserError(f"there is no recipe {name!r}.{did_you_mean(name, names)} Recipes: {', '.join(names)}.")
    return Recipe.load(folder / f"{name}.toml")


def _error_message(error: Any) -> str:
    """Return one pydantic error as a message with the key, the value found and what is needed."""
    key = ".".join(str(name) for name in error["loc"])
    if not key:  # errors of the whole recipe name their keys themselves
        return str(error["msg"])
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"there is no key {key!r}.{did_you_mean(str(error['loc'][-1]), _keys(error['loc'][:-1]))}"
    if error["type"] == "model_type":
        return (
            f"{key} = {short_repr(error['input'])}: a table of keys is needed, such as {key}.{next(iter(_keys([key])))}"
        )
    message = f"{key} = {short_repr(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}"
    if error["type"] == "literal_error":
        suggestion = did_you_mean(str(error["input"]), re.findall(r"'([^']*)'", error["ctx"]["expected"]))
        message += f".{suggestion}" if suggestion else ""
    return message


def _keys(location: Sequence[int | str]) -> Iterable[str]:
    """Return the keys of the section at ``location``."""
    if "phases" in location:
        return Phase.__dataclass_fields__
    model: Any = Recipe
    for name in location:
        model = model.model_fields[name].annotation
    return model.model_fields
