"""Training of one run: ``saccade.train``, which the command ``saccade train`` calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade import catalog, defaults
from saccade.errors import explain_missing_packages
from saccade.events import Notify, RunPlanned
from saccade.imagefiles import describe_left_out
from saccade.recipe import Recipe
from saccade.trust import Trust, add_trust

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TrainedRun", "train"]


@dataclass(frozen=True)
class TrainedRun:
    """Result of one training run.

    Attributes:
        folder: folder of its files; see ``saccade.training.folder``.
        result: contents of ``done.json``.
        trust: names that the saved network may import.
    """

    folder: Path
    result: Mapping[str, Any]
    trust: Trust = False

    @property
    def scores(self) -> dict[str, float | None]:
        """Maps metric to score on the test images."""
        return dict(self.result["scores"])

    @property
    def diverged(self) -> bool:
        """True if the run stopped early because the loss or an output was not finite."""
        return self.result["diverged"] is not None

    def sentence(self) -> str:
        """Return the outcome of the run in a sentence."""
        result = self.result
        if self.diverged:
            return (
                f"{result['diverged']['message']}. Kept: the network after epoch {result['epochs']}, "
                f"{result['metric']} {result['score']}, in {self.folder}. A lower training.lr or a longer "
                "training.warmup_epochs often helps."
            )
        note = describe_left_out(result.get("left_out", {}))
        return (
            f"{result['metric']} {result['score']} on the test images after {_epochs_text(result['epochs'])} in "
            f"{result['seconds']:.0f} s; {result['parameters']:,} parameters; in {self.folder}"
            f"{f'; {note}' if note else ''}"
        )

    def load(self) -> nn.Module:
        """Return the trained network on the CPU, in eval mode.

        Raises:
            UserError: a file is damaged, or the host cannot be built; see ``saccade.load``.
        """
        from saccade.saving import load

        return load(self.folder, trust=self.trust)


def train(
    recipe: Recipe | str | Path | None = None,
    *,
    data: str | Path | None = None,
    model: defaults.Host | None = None,
    attention: str | None = None,
    seed: int | None = None,
    task: str | None = None,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    settings: defaults.Settings = (),
    skip_bad: bool = False,
    out: str | Path | None = None,
    device: str = "auto",
    trust: Trust = False,
    notify: Notify | None = None,
) -> TrainedRun:
    """Train one network in this process, and return its scores and folder.

    Calling it again resumes an interrupted run, or returns the result of a finished one.

    Args:
        recipe: recipe, its file, or name of a built-in one. Default: the one that suits data and host.
        data: folder of images, or ``digits`` for the built-in ones. Default: the recipe's, else ``digits``.
        model: host, as for ``compare``; see ``docs/your-network.md``.
        attention: mechanism to plug: ``none``, ``das``, ``das:alpha=0.1``, ``my.module:Class``.
        seed: seed of the run.
        task: name of the task. Default: the one that fits the labels.
        pretrained: start from the host's pretrained weights.
        checkpoint: safetensors file of weights to start from.
        settings: changes of the recipe, ``{"training.epochs": 5}``. They override all other arguments.
        skip_bad: leave out and count image files that cannot be read.
        out: folder of the run. Default: ``runs/NAME-ATTENTION-seedN``; NAME: recipe or images.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        trust: names, such as ``my.module:Class``, that a recipe file or a teacher's folder may import; see
            ``saccade.load``.
        notify: as for ``compare``.

    Raises:
        UserError: an argument is invalid; then nothing is written.
    """
    with explain_missing_packages(), ExitStack() as stack:
        if notify is None:
            from saccade.screen import RunScreen

            notify = stack.enter_context(RunScreen(err=True))
        overrides = defaults.overrides_from(
            model=model, task=task, pretrained=pretrained, checkpoint=checkpoint, skip_bad=skip_bad, settings=()
        )
        if attention is not None:
            overrides["attention.mechanism"] = attention
        if seed is not None:
            overrides["training.seed"] = seed
        overrides |= defaults.overrides_from(settings=settings)
        chosen = defaults.choose_recipe(recipe, data, overrides, trust=trust)
        if chosen.attention.mechanism != "none":
            name = catalog.canonical_text(chosen.attention.mechanism)
            chosen = chosen.with_overrides({"attention.mechanism": name})
        folder = Path("runs") / _folder_name(_prefix(recipe, chosen), chosen) if out is None else Path(out)
        epochs = _epochs_text(chosen.training.epochs)
        notify(RunPlanned(folder, f"{folder}: {chosen.model.name}, attention {_attention_label(chosen)}, {epochs}"))

        from saccade import training

        trusted = add_trust(trust, catalog.mechanism_name(chosen.attention.mechanism), chosen.model.name)
        result = training.train(chosen, folder, device=device, notify=notify, trust=trusted)
        return TrainedRun(folder, result, trusted)


def _attention_label(recipe: Recipe) -> str:
    attention = recipe.attention
    return f"{attention.control} for {attention.mechanism}" if attention.control else attention.mechanism


def _epochs_text(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _prefix(recipe: Recipe | str | Path | None, chosen: Recipe) -> str:
    """Return the first part of the folder name: the name of the recipe file, else of the image folder."""
    return Path(recipe).stem if isinstance(recipe, str | Path) else Path(chosen.data.source).name


def _folder_name(prefix: str, recipe: Recipe) -> str:
    """Return a folder name of recipe, attention and seed, in characters that every file system accepts."""
    words = (prefix, _attention_label(recipe), f"seed{recipe.training.seed}")
    return "-".join(re.sub(r"[^\w.=]+", "-", word).strip("-") for word in words)
