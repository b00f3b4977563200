"""One run of one recipe: ``saccade.train``. ``saccade train`` is this function with a parser in front."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade import catalog, defaults
from saccade.errors import study_installed
from saccade.events import Notify, RunPlanned
from saccade.imagefiles import left_out
from saccade.recipe import Recipe
from saccade.trust import Trust, add_trust

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TrainedRun", "train"]


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    Attributes:
        folder: its files; see ``saccade.training.folder``.
        result: what ``done.json`` says.
        trust: what the folder may name besides the catalogue: what the caller of ``train`` named.
    """

    folder: Path
    result: Mapping[str, Any]
    trust: Trust = False

    @property
    def scores(self) -> dict[str, float | None]:
        """Metric -> score on the test images."""
        return dict(self.result["scores"])

    @property
    def diverged(self) -> bool:
        """Whether the loss or an answer was no finite number, which ended the run early."""
        return self.result["diverged"] is not None

    def sentence(self) -> str:
        """How the run ended, in a sentence."""
        result = self.result
        if self.diverged:
            return (
                f"{result['diverged']['message']}. Kept: the network after epoch {result['epochs']}, "
                f"{result['metric']} {result['score']}, in {self.folder}. A lower training.lr or a longer "
                "training.warmup_epochs often helps."
            )
        words = left_out(result.get("left_out", {}))
        return (
            f"{result['metric']} {result['score']} on the test images after {_epochs(result['epochs'])} in "
            f"{result['seconds']:.0f} s; {result['parameters']:,} parameters; in {self.folder}"
            f"{f'; {words}' if words else ''}"
        )

    def load(self) -> nn.Module:
        """Return the trained network, on the CPU, in eval mode.

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
    """Train once, in this process.

    The same call again goes on where a killed run stopped; of a finished run it returns the result.

    Args:
        recipe: a recipe, a TOML file, or the name of one that comes with the package. The default suits data and host.
        data: a folder of images, or ``digits``. The default is that of the recipe, else digits.
        model: the host: a name of timm's, a function or class that builds your network (or its name,
            ``package.module:function``), or a dictionary of the recipe's part ``model``. See ``docs/your-network.md``.
        attention: the mechanism to plug: ``none``, ``das``, ``das:alpha=0.1``, ``my.module:Class``.
        seed: of the run.
        task: what is learnt. The default is what the labels are for.
        pretrained: start from the host's pretrained weights.
        checkpoint: start from this safetensors file.
        settings: changes of the recipe, ``{"training.epochs": 5}``. They win over everything else.
        skip_bad: leave out image files that cannot be read, and count them.
        out: the run folder. The default is ``runs/RECIPE-ATTENTION-seedN``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        trust: what a recipe file, or the folder of a teacher, may name that is not Saccade's; see ``saccade.load``.
        notify: receives the events; see :mod:`saccade.events`. The default shows them on the terminal or in the
            notebook, on stderr.

    Raises:
        UserError: something that is asked for is wrong; nothing has been written then.
    """
    with study_installed(), ExitStack() as stack:
        if notify is None:
            from saccade.screen import RunScreen

            notify = stack.enter_context(RunScreen(err=True))
        given = defaults.asked(
            model=model, task=task, pretrained=pretrained, checkpoint=checkpoint, skip_bad=skip_bad, settings=()
        )
        if attention is not None:
            given["attention.mechanism"] = attention
        if seed is not None:
            given["training.seed"] = seed
        given |= defaults.asked(settings=settings)
        asked = defaults.choose(recipe, data, given, trust=trust)
        if asked.attention.mechanism != "none":
            name = catalog.canonical_text(asked.attention.mechanism)
            asked = asked.with_overrides({"attention.mechanism": name})
        folder = Path("runs") / _slug(_stem(recipe, asked), asked) if out is None else Path(out)
        length = _epochs(asked.training.epochs)
        notify(RunPlanned(folder, f"{folder}: {asked.model.name}, attention {_attention(asked)}, {length}"))

        from saccade import training

        trusted = add_trust(trust, catalog.named(asked.attention.mechanism), asked.model.name)
        result = training.train(asked, folder, device=device, notify=notify, trust=trusted)
        return TrainedRun(folder, result, trusted)


def _attention(recipe: Recipe) -> str:
    part = recipe.attention
    return f"{part.control} for {part.mechanism}" if part.control else part.mechanism


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _stem(recipe: Recipe | str | Path | None, asked: Recipe) -> str:
    """The first word of the run folder: the name of the recipe, or of the images where the recipe has none."""
    return Path(recipe).stem if isinstance(recipe, str | Path) else Path(asked.data.source).name


def _slug(stem: str, recipe: Recipe) -> str:
    """The name of the run folder: recipe, attention and seed in letters that every file system takes."""
    words = (stem, _attention(recipe), f"seed{recipe.training.seed}")
    return "-".join(re.sub(r"[^\w.=]+", "-", word).strip("-") for word in words)
