"""Does attention help this network on these images? ``saccade.compare``, and what it will cost: ``saccade.forecast``.

``saccade compare`` is these functions with a parser in front.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade import catalog, defaults
from saccade.data import layout_of
from saccade.errors import UserError, study_installed
from saccade.events import Notify, Reporting, StudyPlanned, ignore
from saccade.recipe import Recipe
from saccade.study.arms import BASELINE
from saccade.study.arms import arms as arms_of
from saccade.study.engine import execute, slots_for
from saccade.study.ladder import Settings, ladder
from saccade.study.plan import TUNING, Study
from saccade.study.plan import seeds as seeds_of
from saccade.study.tuning import Tuning
from saccade.trust import Trust, add_trust

if TYPE_CHECKING:
    from saccade.study.forecast import Forecast
    from saccade.study.results import StudyResults

__all__ = ["compare", "forecast"]

_MECHANISMS = "none,se,cbam,das"
"""What is compared where nothing is named."""
_UNNAMED = Path()
"""Of a study whose folder is not found yet."""
_MAX_SLOTS = 1024
"""Each is a process, here or on a node of the cluster."""


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
    """Train mechanisms and the plain network with several seeds; say for each whether it helps.

    Writes ``report.html``, ``table.md``, ``table.tex`` and ``results.json`` beside the run folders. The same call goes
    on where it stopped, and skips what is finished. The runs are done by other processes; a script needs no
    ``if __name__ == "__main__"`` for them.

    Args:
        data: a folder of images, or ``digits``, the default.
        model: the host: a name of timm's, a function or class that builds your network (or its name,
            ``package.module:function``), or a dictionary of the recipe's part ``model``. See ``docs/your-network.md``.
        attention: mechanisms, ``["se", "das:alpha=0.1", "cbam:where=block"]``, or a text with commas between them.
            ``none`` is always compared. The default is that of the recipe, else none, se, cbam, das.
        seeds: how many, or which. The default is 3 on digits, 5 on other images.
        controls: ``extra``, ``noise``, ``shuffled``: of each mechanism; ``noise:das``: of that one.
        arms: further arms, any difference of recipe: ``{"wide": {"model": "resnet50", "attention": "se"}}``, or the
            texts of ``--arm``.
        recipe: a recipe, its file, or the name of one that comes with the package. The default suits data and host.
        task: what is learnt. The default is what the labels are for.
        pretrained: start from the host's pretrained weights.
        checkpoint: start from this safetensors file.
        settings: changes of the recipe, ``{"training.epochs": 5}``. They win over everything else.
        skip_bad: leave out image files that cannot be read, and count them.
        margin: what counts as equal, in the metric's unit. The default is the metric's own.
        tune: what every arm chooses on validation images before it is judged, with the same budget:
            ``{"training.lr": [0.01, 0.03, 0.1]}``, or the texts of ``--tune``; ``"lr"`` alone tries a third, one and
            three times the value of the recipe.
        tune_seeds: tuning runs of each arm and value for each judged seed.
        out: the study's folder. The default is ``runs/<data>``, with a number after it where others stand there.
        slots: runs at a time. The default is what cores or accelerators allow.
        engine: ``local``, processes of this machine, or ``ray``.
        address: of the Ray cluster, or ``auto``. The default is RAY_ADDRESS, or one is started.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        trust: what a recipe file, or the folder of a teacher, may name that is not Saccade's; see ``saccade.load``.
        notify: receives the events; see :mod:`saccade.events`. The default shows them on the terminal or in the
            notebook, on stderr.

    Returns:
        The results, which also show themselves in a notebook. A run that failed is in ``runs`` with its reason; the
        same call tries it again.

    Raises:
        UserError: something that is asked for is wrong; nothing has been written then. Or a tuning run failed.
    """
    with study_installed(), ExitStack() as stack:
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
        for planned in design.planned:
            notify(planned)
        how: dict[str, Any] = {"engine": engine, "address": address, "trust": design.trust}
        if design.tuning is not None:
            study = _tuned(design.tuning, slots, device, notify, **how)
            notify(StudyPlanned(study.folder, f"tuned; now {design.planned[0].description}"))
        outcomes = execute(study, slots, device, notify, **how)
        # These import torch: not before the runs.
        if all(outcome.status == "failed" for outcome in outcomes):
            from saccade.study.collecting import collect

            return collect(study.folder)
        notify(Reporting())
        from saccade.study.report import write_report

        return write_report(study.folder, trust=design.trust)


def _tuned(tuning: Tuning, slots: int | None, device: str, notify: Notify, **how: Any) -> Study:
    """Do the tuning runs that are not finished, and return the study with what its arms chose.

    Raises:
        UserError: as ``execute``, or a tuning run failed.
    """
    outcomes = execute(tuning.trials, slots, device, notify, **how)
    if failed := [outcome for outcome in outcomes if outcome.status == "failed"]:
        run = failed[0].run
        raise UserError(
            f"{len(failed)} of {len(outcomes)} tuning runs failed, so no arm can choose; the first is {run.arm.name}, "
            f"seed {run.seed}: {failed[0].reason}. The same command tries them again."
        )
    return tuning.judged()


def forecast(
    data: str | Path | None = None,
    model: defaults.Host | None = None,
    attention: str | Iterable[str] | None = None,
    *,
    notify: Notify = ignore,
    **asked: Any,
) -> Forecast:
    """Say what ``compare`` of the same arguments would take and could see; write nothing.

    Times a training step and a test step of every arm, in this process.

    Args:
        data: as for ``compare``.
        model: as for ``compare``.
        attention: as for ``compare``.
        notify: receives ``StudyPlanned``.
        asked: the keywords of ``compare``.

    Returns:
        Runs, minutes, disk, and the smallest difference that the study could find; ``text()`` says it in a few lines.

    Raises:
        UserError: as for ``compare``; or a Ray cluster, whose size is not asked, without ``slots``.
    """
    with study_installed():
        if asked.get("engine") == "ray" and not asked.get("slots"):
            raise UserError("a plan does not ask the cluster for its size; say how many runs at a time: --slots")
        design = _design(data, model, attention, **asked)
        for planned in design.planned:
            notify(planned)
        from saccade.study.forecast import forecast as ahead_of  # imports torch: after the first lines

        device, tuning = asked.get("device", "auto"), design.tuning
        if tuning is None:
            return ahead_of(design.study, design.at_a_time, device, design.trust)
        runs = sum(run.finished is None for run in tuning.runs())
        ahead = ahead_of(design.study if runs else tuning.judged(), design.at_a_time, device, design.trust)
        return replace(ahead, tuning_runs=runs, tuning_minutes=runs * ahead.minutes / max(ahead.runs, 1))


@dataclass(frozen=True)
class _Design:
    """What is asked for, checked as far as no image and no torch are needed.

    Attributes:
        study: in its folder; its arms as they are before tuning.
        tuning: of its arms; None where they are not tuned.
        at_a_time: runs; None is one for each accelerator.
        planned: the events that say it.
        trust: what its saved networks may name besides the catalogue.
    """

    study: Study
    tuning: Tuning | None
    at_a_time: int | None
    planned: tuple[StudyPlanned, ...]
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
    given = defaults.asked(
        model=model, task=task, pretrained=pretrained, checkpoint=checkpoint, skip_bad=skip_bad, settings=settings
    )
    base = defaults.choose(recipe, data, given, mechanism_given=attention is not None, trust=trust)
    base = defaults.located(base)
    if base.attention.control is not None:
        raise UserError(
            f"the recipe asks for attention.control = {base.attention.control!r}; in a study a control is an arm "
            f"beside its mechanism: leave it out, and say --controls {base.attention.control}"
        )
    if attention is None:
        own = base.attention.mechanism
        attention = own if own != BASELINE else "" if arms else _MECHANISMS
    compared = arms_of(_listed(attention), _listed(controls), arms)
    numbers = _seeds(layout_of(base.data).seeds if seeds is None else seeds)
    if slots is not None and not 1 <= slots <= _MAX_SLOTS:
        raise UserError(f"slots = {slots}: 1 to {_MAX_SLOTS} runs can go at a time")
    if address is not None and engine != "ray":
        raise UserError(f"address {address!r}: only a Ray cluster has one; it takes --engine ray")
    steps = ladder(_to_tune(tune), base)
    study, tuning = _study(Study(base, compared, numbers, _UNNAMED, margin), steps, tune_seeds, out)
    at_a_time = slots or slots_for(base.training.threads, device)

    def line(what: str, runs: int, folder: Path) -> str:
        pace = "one per device" if at_a_time is None else f"{min(at_a_time, runs)} at a time"
        if engine == "ray" and not slots:
            pace = "as many at a time as the cluster has room for"
        return f"{what} = {runs} runs, {pace} -> {folder}"

    def many(seeds: Sequence[int]) -> str:
        return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"

    names = ", ".join(arm.name for arm in compared)
    planned = [StudyPlanned(study.folder, line(f"{names} × {many(numbers)}", len(study.runs()), study.folder))]
    if tuning is not None:
        what = f"tuning first: {len(compared)} arms × {len(steps)} values × {many(tuning.trials.seeds)}"
        trials = line(what, len(tuning.trials.runs()), tuning.trials.folder)
        planned.append(StudyPlanned(study.folder, trials))
    # What the caller named is trusted; what a file named has been checked.
    models = (arm.recipe(base, 0).model.name for arm in compared)
    trusted = add_trust(trust, *(catalog.named(arm.mechanism) for arm in compared), *models)
    return _Design(study, tuning, at_a_time, tuple(planned), trusted)


def _to_tune(tune: str | Iterable[str] | Mapping[str, Iterable[Any]]) -> list[str]:
    """The texts of ``--tune``."""
    if isinstance(tune, Mapping):
        return [f"{key}={','.join(map(repr, values))}" for key, values in tune.items()]
    return [tune] if isinstance(tune, str) else list(tune)


def _listed(names: str | Iterable[str]) -> list[str]:
    """The names of a list or of a text with commas between them."""
    return catalog.split(names) if isinstance(names, str) else list(names)


def _seeds(seeds: int | str | Iterable[int]) -> tuple[int, ...]:
    """The seeds of a number, a list or a text.

    Raises:
        UserError: as :func:`saccade.study.plan.seeds`.
    """
    if isinstance(seeds, int | str | Integral):
        return seeds_of(str(seeds))
    return seeds_of("".join(f"{seed}," for seed in seeds))


def _study(
    asked: Study, steps: Sequence[Settings], tune_seeds: int, out: str | Path | None
) -> tuple[Study, Tuning | None]:
    """The study in its folder, and its tuning: ``out``, or ``runs/<data>`` with a number where others stand there.

    Raises:
        UserError: ``out`` holds another study or cannot be written, or the arms cannot be tuned so.
    """

    def at(folder: Path) -> tuple[Study, Tuning | None]:
        study = replace(asked, folder=folder)
        tuning = Tuning(study, tuple(steps), tune_seeds) if steps else None
        if tuning is not None:
            tuning.claim()
        elif study.claim():
            study = Study.open(folder)
        return study, tuning

    if out is not None:
        return at(Path(out))
    home = Path("runs") / Path(asked.base.data.source).name
    for number in count(1):
        folder = home if number == 1 else home.with_name(f"{home.name}-{number}")
        try:
            return at(folder)
        except UserError:
            if (folder / "study.toml").exists() or (folder / TUNING / "study.toml").exists():
                continue
            raise
    raise AssertionError("count(1) has no end")
