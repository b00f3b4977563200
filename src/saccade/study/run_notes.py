"""Status of each run, read from its folder, and notes on the runs of a study."""

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

__all__ = ["RunResult", "StudyNote", "study_notes"]

_SHARED_ENVIRONMENT = ("device", "accelerator", "cpu", "python", "packages")
"""Entries of ``environment.json`` that should be the same for all runs of a study."""
_MAX_SITES = 6
"""Largest number of sites named in a note."""
_PARAMETER_TOLERANCE = 0.1
"""Relative difference in added parameters of a mechanism and its control ``extra`` up to which no note is given."""

Status = Literal["done", "diverged", "failed", "missing"]


@dataclass(frozen=True)
class RunResult:
    """Status and scores of one run, read from its folder.

    Attributes:
        arm: name of the arm.
        seed: seed of the run.
        status: status; ``missing`` if the run has not ended.
        folder: path relative to the study's folder.
        scores: metric -> score; empty unless the run is done.
        by_class: metric -> one score per class.
        seconds: duration of the training in seconds.
        parameters: number of parameters.
        reason: reason for divergence or failure.
        constant: site -> ``gate`` or ``context``, for plugs whose output of that kind ignores the image.
        chosen: True if the scored epoch was chosen on validation images.
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
class StudyNote:
    """Caveat shown with the verdicts.

    Attributes:
        kind: ``caveat``, ``hosts``, ``settings``, ``parameters``, ``unscored``, ``constant``, ``images``,
            ``environment``, ``analysis``, ``scores`` or ``tuning``.
        text: one or two sentences.
    """

    kind: str
    text: str


def study_notes(
    study: Study,
    parameters: Mapping[str, int | None],
    runs: Sequence[RunResult],
    done_records: Mapping[tuple[str, int], Mapping[str, Any]],
) -> list[StudyNote]:
    """Return the notes on the data, the arms and the runs.

    Args:
        study: the study.
        parameters: arm -> number of parameters.
        runs: results of all runs.
        done_records: (arm, seed) -> content of ``done.json``.
    """
    notes = [StudyNote("caveat", text) for text in _caveat_notes(study)]
    notes += [StudyNote("hosts", text) for text in _host_notes(study)]
    notes += [StudyNote("hosts", text) for text in _recorded_host_notes(done_records)]
    notes += [StudyNote("settings", text) for text in _setting_notes(study)]
    notes += [StudyNote("parameters", text) for text in _parameter_notes(study, parameters)]
    for arm in study.arms:
        arm_runs = [run for run in runs if run.arm == arm.name]
        for status, phrase in (("diverged", "diverged"), ("failed", "failed"), ("missing", "not run yet")):
            if seeds := [run.seed for run in arm_runs if run.status == status]:
                sentence = f"{arm.name}: {len(seeds)} of {len(study.seeds)} runs {phrase} ({_format_seeds(seeds)})."
                if status == "diverged" and len(seeds) < len(study.seeds):
                    sentence += " They have no score and are left out, which flatters this arm."
                notes.append(StudyNote("unscored", sentence))
        notes += [StudyNote("constant", text) for text in _constant_notes(arm.name, arm_runs)]
    if study.base.data.score_on == "val":
        notes.append(StudyNote("images", "All runs were scored on validation images, not on the test images."))
    records = list(done_records.values())  # all runs have the same images
    if phrase := describe_left_out(next((values["left_out"] for values in records if "left_out" in values), {})):
        notes.append(StudyNote("images", f"The images of all runs: {phrase}."))
    cautions: list[str] = next((values["cautions"] for values in records if "cautions" in values), [])
    notes += [StudyNote("images", text) for text in cautions]
    return notes + [StudyNote("environment", text) for text in _environment_notes(study)]


def _caveat_notes(study: Study) -> list[str]:
    """Return the layout's caveat on verdicts, if it has one."""
    try:
        caveat = find_layout(study.base.data).caveat
    except UserError:  # the folder is gone
        return []
    return [caveat] if caveat else []


def _host_notes(study: Study) -> list[str]:
    """Return a note on arms whose host differs from the baseline's."""
    names = [arm.name for arm in study.arms if not arm.shares_host(study.base)]
    if not names:
        return []
    return [
        f"{_join_names(names)}: the host differs from that of {BASELINE!r}. Runs of one seed share the order of the "
        "data and the augmentation, not the initial weights of the host."
    ]


def _recorded_host_notes(done_records: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[str]:
    """Return the notes that runs recorded on their hosts, such as frozen layers."""
    finished_seeds: dict[str, list[int]] = {}
    seeds_by_note: dict[str, dict[str, list[int]]] = {}
    for (arm, seed), record in done_records.items():
        finished_seeds.setdefault(arm, []).append(seed)
        for text in record.get("notes", []):
            seeds_by_note.setdefault(text, {}).setdefault(arm, []).append(seed)
    notes = []
    for text, seeds_by_arm in seeds_by_note.items():
        names = [
            arm if seeds == finished_seeds[arm] else f"{arm}, {_format_seeds(seeds)} alone"
            for arm, seeds in seeds_by_arm.items()
        ]
        warning = ""
        if names != list(seeds_by_arm):
            warning = (
                " The other runs of these arms were made by an earlier version of saccade and cannot be compared "
                "with these."
            )
        notes.append(text if seeds_by_arm == finished_seeds else f"{_join_names(names)}: {text}{warning}")
    return notes


def _setting_notes(study: Study) -> list[str]:
    """Return notes on arms whose data or training settings differ from the baseline's."""
    base = study.base.model_dump(mode="json")

    def differs(key: str, value: Any) -> bool:
        section, _, name = key.partition(".")
        return section in ("data", "training") and base[section].get(name) != value

    return [
        f"{arm.name} also differs from {BASELINE!r} in {_join_names(keys)}."
        for arm in study.arms
        if (keys := [key for key, value in arm.settings.items() if differs(key, value)])
    ]


def _parameter_notes(study: Study, parameters: Mapping[str, int | None]) -> list[str]:
    """Return notes on ``extra`` controls that add far more or fewer parameters than their mechanism."""
    notes = []
    for arm in study.arms:
        mechanism = arm.name.removeprefix("extra for ")
        if arm.control != "extra" or mechanism not in parameters:
            continue
        baseline_params, mechanism_params, control_params = (
            parameters[name] for name in (BASELINE, mechanism, arm.name)
        )
        if baseline_params is None or mechanism_params is None or control_params is None:
            continue
        added_by_mechanism, added_by_control = mechanism_params - baseline_params, control_params - baseline_params
        if abs(added_by_control - added_by_mechanism) > _PARAMETER_TOLERANCE * added_by_mechanism:
            notes.append(
                f"{arm.name}: it adds {added_by_control:,} parameters where {arm.mechanism} adds "
                f"{added_by_mechanism:,}; its width, at least 1 at each site, allows no closer number."
            )
    return notes


def _constant_notes(name: str, runs: Sequence[RunResult]) -> list[str]:
    """Return notes on the gates and contexts of arm ``name`` that are the same for every test image."""
    notes = []
    for kind, phrase in (("gate", "the gate is"), ("context", "what is added is")):
        seeds: dict[str, list[int]] = {}
        for run in runs:
            for site, constant_part in run.constant.items():
                if constant_part == kind:
                    seeds.setdefault(site, []).append(run.seed)
        if seeds:
            sites = [
                f"{brief(site)} ({_format_seeds(site_seeds)})" for site, site_seeds in list(seeds.items())[:_MAX_SITES]
            ]
            if n_more := len(seeds) - len(sites):
                sites.append(f"{n_more} more site{'s' * (n_more > 1)}")
            notes.append(
                f"{name}: {phrase} the same for every test image at {_join_names(sites)}; the plug ignores the image "
                "there."
            )
    return notes


def _environment_notes(study: Study) -> list[str]:
    """Return notes on runs made with different hardware or software."""
    files = [read(run.folder / "environment.json", Environment) for run in study.runs()]
    environments = [environment for environment in files if environment]
    notes = []
    for key in _SHARED_ENVIRONMENT:
        values = {
            str(environment.get(key)) if key != "device" else environment[key].partition(":")[0]
            for environment in environments
        }
        if len(values) > 1:
            shown = "" if key == "packages" else f": {', '.join(sorted(values))}"
            notes.append(f"The runs were not all made with the same {key}{shown}.")
    return notes


def _join_names(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _format_seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
