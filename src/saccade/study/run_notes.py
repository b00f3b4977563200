"""One run as it stands on disk, and what a reader of the verdicts must know of the runs behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from saccade.data import find_layout
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.imagefiles import describe_left_out
from saccade.runfiles import Environment, read
from saccade.study.arms import BASELINE
from saccade.study.plan import Study

__all__ = ["Note", "RunResult", "on_study"]

_SAME = ("device", "accelerator", "cpu", "python", "packages")
"""What of its surroundings should be one for all runs of a study."""
_SITES = 6
"""At most so many sites are named in a note."""
_NEAR = 0.1
"""Part of a mechanism's parameters by which those of its control ``extra`` may differ without a word."""

Status = Literal["done", "diverged", "failed", "missing"]


@dataclass(frozen=True)
class RunResult:
    """One run as it stands on disk.

    Attributes:
        arm: its name.
        seed: its seed.
        status: ``missing`` where it has not ended yet.
        folder: relative to that of the study.
        scores: metric -> score; empty unless the run is done.
        by_class: metric -> score of each class.
        seconds: of the training.
        parameters: of the network.
        reason: why it diverged or failed.
        constant: plugs whose gate or context is the same for every test image: site -> ``gate`` or ``context``.
        chosen: whether its network chose the scored epoch on validation images.
    """

    arm: str
    seed: int
    status: Status
    folder: str
    scores: Mapping[str, float | None] = field(default_factory=dict)
    by_class: Mapping[str, list[float | None]] = field(default_factory=dict)
    seconds: float | None = None
    parameters: int | None = None
    reason: str | None = None
    constant: Mapping[str, str] = field(default_factory=dict)
    chosen: bool = False


@dataclass(frozen=True)
class Note:
    """A sentence beside the verdicts.

    Attributes:
        kind: ``caveat``, ``hosts``, ``settings``, ``parameters``, ``unscored``, ``constant``, ``images``,
            ``surroundings``, ``analysis`` or ``tuning``.
        text: the sentence.
    """

    kind: str
    text: str


def on_study(
    study: Study,
    parameters: Mapping[str, int | None],
    runs: Sequence[RunResult],
    finished: Mapping[tuple[str, int], Mapping[str, Any]],
) -> list[Note]:
    """Notes on the data, the arms and the runs.

    Args:
        study: the plan.
        parameters: arm -> parameters of its network.
        runs: all of them.
        finished: (arm, seed) -> what done.json says.
    """
    notes = [Note("caveat", text) for text in _caveat(study)]
    notes += [Note("hosts", text) for text in _hosts(study)]
    notes += [Note("hosts", text) for text in _of_hosts(finished)]
    notes += [Note("settings", text) for text in _settings(study)]
    notes += [Note("parameters", text) for text in _mismatched(study, parameters)]
    for arm in study.arms:
        own = [run for run in runs if run.arm == arm.name]
        for status, words in (("diverged", "diverged"), ("failed", "failed"), ("missing", "not run yet")):
            if seeds := [run.seed for run in own if run.status == status]:
                said = f"{arm.name}: {len(seeds)} of {len(study.seeds)} runs {words} ({_seeds(seeds)})."
                if status == "diverged" and len(seeds) < len(study.seeds):
                    said += " They have no score and are left out, which flatters this arm."
                notes.append(Note("unscored", said))
        notes += [Note("constant", text) for text in _constant(arm.name, own)]
    if study.base.data.score_on == "val":
        notes.append(Note("images", "All runs were scored on validation images, not on the test images."))
    done = list(finished.values())  # all of the same images: the first run that knows speaks for them
    if words := describe_left_out(next((values["left_out"] for values in done if "left_out" in values), {})):
        notes.append(Note("images", f"The images of all runs: {words}."))
    notes += [Note("images", text) for text in next((v["cautions"] for v in done if "cautions" in v), [])]
    return notes + [Note("surroundings", text) for text in _surroundings(study)]


def _caveat(study: Study) -> list[str]:
    """What the layout says of verdicts on its data."""
    try:
        caveat = find_layout(study.base.data).caveat
    except UserError:  # the folder is gone
        return []
    return [caveat] if caveat else []


def _hosts(study: Study) -> list[str]:
    """The arms that start from other host weights than ``none``."""
    other = [arm.name for arm in study.arms if not arm.shares_host(study.base)]
    if not other:
        return []
    return [
        f"{_listed(other)}: another host than {BASELINE}. Runs of one seed share the order of the data and the "
        "augmentation, not the first weights of the host."
    ]


def _of_hosts(finished: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[str]:
    """What runs say of their hosts: how images are shown to them, what of them is frozen."""
    every: dict[str, list[int]] = {}
    said: dict[str, dict[str, list[int]]] = {}
    for (arm, seed), done in finished.items():
        every.setdefault(arm, []).append(seed)
        for text in done.get("notes", []):
            said.setdefault(text, {}).setdefault(arm, []).append(seed)
    notes = []
    for text, of in said.items():
        names = [arm if seeds == every[arm] else f"{arm}, {_seeds(seeds)} alone" for arm, seeds in of.items()]
        other = " Their other runs, of an earlier version, cannot be compared with these." * (names != list(of))
        notes.append(text if of == every else f"{_listed(names)}: {text}{other}")
    return notes


def _settings(study: Study) -> list[str]:
    """The arms that differ from ``none`` in data or training."""
    base = study.base.model_dump(mode="json")

    def differs(key: str, value: Any) -> bool:
        part, _, name = key.partition(".")
        return part in ("data", "training") and base[part].get(name) != value

    return [
        f"{arm.name} differs from {BASELINE} in {_listed(keys)} too."
        for arm in study.arms
        if (keys := [key for key, value in arm.settings.items() if differs(key, value)])
    ]


def _mismatched(study: Study, parameters: Mapping[str, int | None]) -> list[str]:
    """The controls ``extra`` that could not be made as large, or as small, as their mechanism."""
    notes = []
    for arm in study.arms:
        mechanism = arm.name.removeprefix("extra for ")
        if arm.control != "extra" or mechanism not in parameters:
            continue
        plain, whole, instead = (parameters[other] for other in (BASELINE, mechanism, arm.name))
        if plain is None or whole is None or instead is None:
            continue
        own, extra = whole - plain, instead - plain
        if abs(extra - own) > _NEAR * own:
            notes.append(
                f"{arm.name}: it adds {extra:,} parameters where {arm.mechanism} adds {own:,}; a plain bottleneck of "
                "at least one unit a site can have no nearer number."
            )
    return notes


def _constant(name: str, runs: Sequence[RunResult]) -> list[str]:
    """A sentence on the gates, and one on the contexts, of arm ``name`` that are the same for every test image."""
    notes = []
    for kind, what in (("gate", "the gate is"), ("context", "what is added is")):
        seeds: dict[str, list[int]] = {}
        for run in runs:
            for site, found in run.constant.items():
                if found == kind:
                    seeds.setdefault(site, []).append(run.seed)
        if seeds:
            where = [f"{brief(site)} ({_seeds(of)})" for site, of in list(seeds.items())[:_SITES]]
            if more := len(seeds) - len(where):
                where.append(f"{more} more site{'s' * (more > 1)}")
            notes.append(
                f"{name}: {what} the same for every test image at {_listed(where)}; the plug ignores the image there."
            )
    return notes


def _surroundings(study: Study) -> list[str]:
    found = [each for run in study.runs() if (each := read(run.folder / "environment.json", Environment))]
    notes = []
    for key in _SAME:
        values = {str(each.get(key)) if key != "device" else each[key].partition(":")[0] for each in found}
        if len(values) > 1:
            shown = "" if key == "packages" else f": {', '.join(sorted(values))}"
            notes.append(f"The runs were not all made with the same {key}{shown}.")
    return notes


def _listed(words: Sequence[str]) -> str:
    *before, last = words
    return f"{', '.join(before)} and {last}" if before else last


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
