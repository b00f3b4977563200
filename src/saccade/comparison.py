"""Comparison of attention mechanisms: ``compare``, and ``forecast``, which estimates its cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade import catalog, defaults
from saccade.data import find_layout
from saccade.errors import UserError, explain_missing_packages
from saccade.events import Notify, ReportBegan, StudyPlanned, ignore
from saccade.recipe import Recipe
from saccade.study.arms import BASELINE
from saccade.study.arms import arms as parse_arms
from saccade.study.engine import cpu_slots, execute
from saccade.study.plan import TUNING, Study, parse_seeds
from saccade.study.tuning import Tuning
from saccade.study.tuning_grid import Settings as TunedSettings
from saccade.study.tuning_grid import tuning_grid
from saccade.trust import Trust, add_trust

if TYPE_CHECKING:
    from saccade.study.forecast import Forecast
    from saccade.study.results import StudyResults

__all__ = ["compare", "forecast"]

_DEFAULT_MECHANISMS = "none,se,cbam,das"
_NO_FOLDER = Path()
"""Placeholder until the folder of a study is chosen."""
_MAX_SLOTS = 1024
"""Upper limit of ``slots``, the number of parallel runs; each run is a process."""


def compare(
    data: str | Path | None = None,
    model: defaults.Host | None = None,
    attention: str | Iterable[str] | None = None,
    *,
    seeds: int | str | Iterable[int] | None = None,
    controls: str | Iterable[str] = (),
    arms: Iterable[str] | Mapping[str, Mapping[str, Any]] = (),
    recipe: Recipe | str | Path | None = None,
    task: str | None = None,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    settings: defaults.Settings = (),
    skip_bad: bool = False,
    margin: float | None = None,
    tune: str | Iterable[str] | Mapping[str, Iterable[Any]] = (),
    tune_seeds: int = 1,
    out: str | Path | None = None,
    slots: int | None = None,
    engine: str = "local",
    address: str | None = None,
    device: str = "auto",
    trust: Trust = False,
    notify: Notify | None = None,
) -> StudyResults:
    """Train a network with and without attention, with several seeds, and judge whether each mechanism helps.

    Writes ``report.html``, ``table.md``, ``table.tex`` and ``results.json`` next to the run folders. Calling it again
    resumes the study: it skips finished runs and repeats failed ones. The runs are separate processes; the calling
    script needs no ``if __name__ == "__main__"`` guard.

    Args:
        data: folder of images, or ``digits`` for the built-in ones. Default: the recipe's, else ``digits``.
        model: host: a timm model's name, a function or class that builds a network (or its name,
            ``package.module:function``), or a dictionary of the recipe's section ``model``; see
            ``docs/your-network.md``.
        attention: mechanisms, as a list ``["se", "das:alpha=0.1", "cbam:where=block"]`` or text with commas. ``none``
            is always included. Default: the recipe's mechanism, else none, se, cbam and das.
        seeds: number of seeds, or the seeds themselves. Default: 3 for digits, 5 for other images.
        controls: ``extra``, ``noise`` and ``shuffled`` for every mechanism, ``noise:das`` for das only.
        arms: additional arms, which may change any key of the recipe: ``{"wide": {"model": "resnet50", "attention":
            "se"}}``, or the text of ``--arm``.
        recipe: recipe, its file, or name of a built-in one. Default: the one that suits data and host.
        task: name of the task. Default: the one that fits the labels.
        pretrained: start from the host's pretrained weights.
        checkpoint: safetensors file of weights to start from.
        settings: changes of the recipe, ``{"training.epochs": 5}``. They override all other arguments.
        skip_bad: leave out and count image files that cannot be read.
        margin: largest difference that counts as equal, in the metric's unit. Default: the metric's own.
        tune: settings that every arm tunes on validation images first, with the same budget: ``{"training.lr": [0.01,
            0.03, 0.1]}``, or the text of ``--tune``; ``"lr"`` tries 1/3, 1 and 3 times the recipe's value.
        tune_seeds: number of tuning seeds per seed of the study; every arm tries every value with each.
        out: folder of the study. Default: ``runs/<data>``, with a number if that folder holds another study.
        slots: number of parallel runs. Default: what cores or accelerators allow.
        engine: ``local`` for processes on this machine, or ``ray``.
        address: address of the Ray cluster, or ``auto``. Default: RAY_ADDRESS, else a new cluster.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        trust: names, such as ``my.module:Class``, that a recipe file or a teacher's folder may import; see
            ``saccade.load``.
        notify: callback that receives progress events; see :mod:`saccade.events`. Default: a display on stderr, in the
            terminal or the notebook.

    Returns:
        the results, displayed by notebooks. Their attribute ``runs`` includes failed runs with reasons.

    Raises:
        UserError: an argument is invalid (then nothing is written), or a tuning run failed.
    """
    with explain_missing_packages(), ExitStack() as stack:
        if notify is None:
            from saccade.screen import Screen

            notify = stack.enter_context(Screen(err=True))
        design = _design(
            data, model, attention, seeds=seeds, controls=controls, arms=arms, recipe=recipe, task=task,
            pretrained=pretrained, checkpoint=checkpoint, settings=settings, skip_bad=skip_bad, margin=margin,
            tune=tune, tune_seeds=tune_seeds, out=out, slots=slots, engine=engine, address=address, device=device,
            trust=trust,
        )  # fmt: skip
        study = design.study
        for event in design.events:
            notify(event)
        execution: dict[str, Any] = {"engine": engine, "address": address, "trust": design.trust}
        if design.tuning is not None:
            study = _tune(design.tuning, slots, device, notify, **execution)
            notify(StudyPlanned(study.folder, f"tuning finished; starting {design.events[0].description}"))
        outcomes = execute(study, slots, device, notify, **execution)
        # collecting and report import torch; import them after the runs.
        if all(outcome.status == "failed" for outcome in outcomes):
            from saccade.study.collecting import collect

            return collect(study.folder)
        notify(ReportBegan())
        from saccade.study.report import write_report

        return write_report(study.folder, trust=design.trust)


def _tune(tuning: Tuning, slots: int | None, device: str, notify: Notify, **execution: Any) -> Study:
    """Do the unfinished tuning runs, and return the study with the values chosen; raise UserError if a run failed."""
    outcomes = execute(tuning.tuning_study, slots, device, notify, **execution)
    if failed := [outcome for outcome in outcomes if outcome.status == "failed"]:
        run = failed[0].run
        raise UserError(
            f"{len(failed)} of {len(outcomes)} tuning runs failed, so no value can be chosen; the first is "
            f"{run.arm.name}, seed {run.seed}: {failed[0].reason}. Repeat the command to try them again."
        )
    return tuning.tuned_study()


def forecast(
    data: str | Path | None = None,
    model: defaults.Host | None = None,
    attention: str | Iterable[str] | None = None,
    *,
    notify: Notify = ignore,
    **options: Any,
) -> Forecast:
    """Estimate the runs, time, disk space and detectable difference of ``compare`` with the same arguments.

    Times a training step and a test step of every arm in this process, and writes nothing.

    Args:
        data: as for ``compare``.
        model: as for ``compare``.
        attention: as for ``compare``.
        notify: callback that receives ``StudyPlanned``.
        options: keyword arguments of ``compare``.

    Returns:
        number of runs, minutes, disk space and smallest detectable difference; ``text()`` formats them.

    Raises:
        UserError: ``compare`` would raise, or ``engine="ray"`` is given without ``slots``.
    """
    with explain_missing_packages():
        if options.get("engine") == "ray" and not options.get("slots"):
            raise UserError(
                "the size of the Ray cluster is unknown here; give the number of parallel runs with --slots"
            )
        design = _design(data, model, attention, **options)
        for event in design.events:
            notify(event)
        from saccade.study.forecast import forecast_study  # imported late, because it imports torch

        device, tuning = options.get("device", "auto"), design.tuning
        if tuning is None:
            return forecast_study(design.study, design.slots, device, design.trust)
        runs = sum(run.done_record is None for run in tuning.runs())
        result = forecast_study(design.study if runs else tuning.tuned_study(), design.slots, device, design.trust)
        return replace(result, tuning_runs=runs, tuning_minutes=runs * result.minutes / max(result.runs, 1))


@dataclass(frozen=True)
class _Design:
    """Validated arguments of ``compare``, checked without opening images or importing torch.

    ``study`` is as before ``tuning``; without ``slots``, each accelerator has one run.
    """

    study: Study
    tuning: Tuning | None
    slots: int | None
    events: tuple[StudyPlanned, ...]
    trust: Trust


def _design(
    data: str | Path | None = None,
    model: defaults.Host | None = None,
    attention: str | Iterable[str] | None = None,
    *,
    seeds: int | str | Iterable[int] | None = None,
    controls: str | Iterable[str] = (),
    arms: Iterable[str] | Mapping[str, Mapping[str, Any]] = (),
    recipe: Recipe | str | Path | None = None,
    task: str | None = None,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    settings: defaults.Settings = (),
    skip_bad: bool = False,
    margin: float | None = None,
    tune: str | Iterable[str] | Mapping[str, Iterable[Any]] = (),
    tune_seeds: int = 1,
    out: str | Path | None = None,
    slots: int | None = None,
    engine: str = "local",
    address: str | None = None,
    device: str = "auto",
    trust: Trust = False,
) -> _Design:
    overrides = defaults.overrides_from(
        model=model, task=task, pretrained=pretrained, checkpoint=checkpoint, skip_bad=skip_bad, settings=settings
    )
    base = defaults.choose_recipe(recipe, data, overrides, mechanism_given=attention is not None, trust=trust)
    base = defaults.make_paths_absolute(base)
    if base.attention.control is not None:
        raise UserError(
            f"the recipe sets attention.control = {base.attention.control!r}; in a study a control is an arm of its "
            f"own: remove the key, and add --controls {base.attention.control}"
        )
    if attention is None:
        mechanism = base.attention.mechanism
        attention = mechanism if mechanism != BASELINE else "" if arms else _DEFAULT_MECHANISMS
    study_arms = parse_arms(_as_list(attention), _as_list(controls), arms)
    seed_values = _parse_seeds(find_layout(base.data).n_seeds if seeds is None else seeds)
    if slots is not None and not 1 <= slots <= _MAX_SLOTS:
        raise UserError(f"slots = {slots}: from 1 to {_MAX_SLOTS} parallel runs are allowed")
    if address is not None and engine != "ray":
        raise UserError(f"address {address!r}: only a Ray cluster has an address; add --engine ray")
    grid = tuning_grid(_tune_arguments(tune), base)
    study, tuning = _find_folder(Study(base, study_arms, seed_values, _NO_FOLDER, margin), grid, tune_seeds, out)
    n_slots = slots or cpu_slots(base.training.threads, device)

    def describe(label: str, runs: int, folder: Path) -> str:
        parallelism = "one per device" if n_slots is None else f"{min(n_slots, runs)} at a time"
        if engine == "ray" and not slots:
            parallelism = "as many at a time as the cluster allows"
        return f"{label} = {runs} runs, {parallelism} -> {folder}"

    def format_count(seeds: Sequence[int]) -> str:
        return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"

    arm_names = ", ".join(arm.name for arm in study_arms)
    description = describe(f"{arm_names} × {format_count(seed_values)}", len(study.runs()), study.folder)
    events = [StudyPlanned(study.folder, description)]
    if tuning is not None:
        label = f"tuning first: {len(study_arms)} arms × {len(grid)} values × {format_count(tuning.tuning_study.seeds)}"
        trials_description = describe(label, len(tuning.tuning_study.runs()), tuning.tuning_study.folder)
        events.append(StudyPlanned(study.folder, trials_description))
    # Names given by the caller are trusted; those from files have been checked.
    model_names = (arm.recipe(base, 0).model.name for arm in study_arms)
    trusted = add_trust(trust, *(catalog.mechanism_name(arm.mechanism) for arm in study_arms), *model_names)
    return _Design(study, tuning, n_slots, tuple(events), trusted)


def _tune_arguments(tune: str | Iterable[str] | Mapping[str, Iterable[Any]]) -> list[str]:
    """Return ``tune`` as arguments of ``--tune``."""
    if isinstance(tune, Mapping):
        return [f"{key}={','.join(map(repr, values))}" for key, values in tune.items()]
    return [tune] if isinstance(tune, str) else list(tune)


def _as_list(names: str | Iterable[str]) -> list[str]:
    """Return ``names`` as a list; text is split at commas."""
    return catalog.split_list(names) if isinstance(names, str) else list(names)


def _parse_seeds(seeds: int | str | Iterable[int]) -> tuple[int, ...]:
    """Parse seeds from a count, a list or text, as :func:`saccade.study.plan.parse_seeds`."""
    if isinstance(seeds, int | str | Integral):
        return parse_seeds(str(seeds))
    return parse_seeds("".join(f"{seed}," for seed in seeds))


def _find_folder(
    study: Study, grid: Sequence[TunedSettings], tune_seeds: int, out: str | Path | None
) -> tuple[Study, Tuning | None]:
    """Return the study and its tuning in ``out``, else in the first ``runs/<data>-N`` that is free or holds this study.

    Raises:
        UserError: ``out`` holds another study or cannot be written, or the tuned values do not suit the arms.
    """

    def place(folder: Path) -> tuple[Study, Tuning | None]:
        placed_study = replace(study, folder=folder)
        tuning = Tuning(placed_study, tuple(grid), tune_seeds) if grid else None
        if tuning is not None:
            tuning.check_folder()
        else:
            is_resumed = placed_study.check_folder()
            if is_resumed:
                placed_study = Study.open(folder)
        return placed_study, tuning

    if out is not None:
        return place(Path(out))
    default_folder = Path("runs") / Path(study.base.data.source).name
    for number in count(1):
        folder = default_folder if number == 1 else default_folder.with_name(f"{default_folder.name}-{number}")
        try:
            return place(folder)
        except UserError:
            if (folder / "study.toml").exists() or (folder / TUNING / "study.toml").exists():
                continue
            raise
    raise AssertionError("unreachable: count(1) never ends")
