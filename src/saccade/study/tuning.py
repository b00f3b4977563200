"""Equal tuning: every arm of a study chooses its settings on validation images with the same number of runs.

The tuning runs form a second study, in ``<study>/tuning``: every arm with every value of the grid. Every arm chooses
anew for each judged seed, from the tuning runs of that seed, so the randomness of the choice is part of the variance
component of seeds. With one choice for all seeds, up to a third of studies of equal arms found an effect
(``benchmarks/simulated_tuning.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from saccade.errors import UserError
from saccade.recipe import MAX_SEED
from saccade.study.arms import Arm, duplicates
from saccade.study.plan import TUNING, Run, Study
from saccade.study.tuning_grid import Settings, label, values_of

if TYPE_CHECKING:
    from saccade.metrics.metric import Metric

__all__ = ["METHOD", "ArmTuning", "Tuning", "TuningResult", "read_tuning"]

METHOD = """\
Every arm, including the baseline and the controls, chose among the same values with the same number of training runs, \
scored on validation images. It chose anew for each seed, from the tuning runs of that seed only, so the randomness of \
the choice is part of the variation between seeds, from which intervals are computed. A judged run is trained on all \
training images and scored on the test images, which no tuning run has scored."""
"""Description of the tuning, for the report."""


@dataclass(frozen=True)
class Tuning:
    """Plan of tuning.

    Attributes:
        study: judged study, with its arms before tuning.
        grid: settings to try, all with the same keys; sorted if all values are numbers.
        repeats: number of tuning runs per arm, value and judged seed.
    """

    study: Study
    grid: tuple[Settings, ...]
    repeats: int = 1

    def __post_init__(self) -> None:
        """Validate the plan and sort the grid.

        Raises:
            UserError: the grid has fewer than two distinct values, an arm sets a tuned key, ``repeats`` is below 1, no
                seeds are left, or the study is scored on validation images.
        """
        if len(self.grid) < 2:
            raise UserError(f"tuning needs at least two values to choose from; found {len(self.grid)}")
        if self.study.base.data.score_on == "val":
            raise UserError(
                "data.score_on = 'val' would judge the arms by the images they are tuned on; leave it out with --tune"
            )
        if self.repeats < 1:
            raise UserError(f"{self.repeats} tuning runs of each value: at least 1 is needed")
        recipes = [self.study.base.with_overrides(values) for values in self.grid]
        if repeated := duplicates(recipes):
            raise UserError(f"the value {label(self.grid[recipes.index(repeated[0])])} is given twice")
        for arm in self.study.arms:
            conflicts = [key for key in arm.settings if any(f"{tuned}.".startswith(f"{key}.") for tuned in self.keys)]
            if conflicts:
                raise UserError(
                    f"the arm {arm.name!r} sets {conflicts[0]} itself, which is tuned; leave one of them out"
                )
            if arm.slug == TUNING:
                raise UserError(f"the arm {arm.name!r} would have the folder of the tuning runs; choose another name")
        if max(self.study.seeds) + len(self.study.seeds) * self.repeats > MAX_SEED:
            raise UserError(f"the seed {max(self.study.seeds)} leaves no seeds above it to tune with")
        if all(_is_number(value) for values in self.grid for value in values.values()):
            sorted_grid = sorted(self.grid, key=lambda values: tuple(values.values()))
            object.__setattr__(self, "grid", tuple(sorted_grid))

    @property
    def keys(self) -> tuple[str, ...]:
        """Dotted keys that are tuned."""
        return tuple(self.grid[0])

    @property
    def default_index(self) -> int:
        """Grid index of the recipe's own values, else 0; preferred in a tie."""
        is_default = [self.study.base.with_overrides(values) == self.study.base for values in self.grid]
        return is_default.index(True) if True in is_default else 0

    @property
    def tuning_study(self) -> Study:
        """Study of the tuning runs; arms with the default values keep their names."""
        arms = [self._tuning_arm(arm, n) for n in self._default_first for arm in self.study.arms]
        base = self.study.base.with_overrides({**self.grid[self.default_index], "data.score_on": "val"})
        seeds = [seed for judged in self.study.seeds for seed in self.seeds(judged)]
        return Study(base, tuple(arms), tuple(seeds), self.study.folder / TUNING)

    def seeds(self, judged_seed: int) -> range:
        """Return the tuning seeds that belong to ``judged_seed``."""
        first = max(self.study.seeds) + 1 + self.study.seeds.index(judged_seed) * self.repeats
        return range(first, first + self.repeats)

    def runs(self) -> list[Run]:
        """Return the tuning runs; once they have begun, the stored ones.

        Raises:
            UserError: the stored ``study.toml`` is damaged.
        """
        tuning_study = self.tuning_study
        return (
            Study.open(tuning_study.folder) if (tuning_study.folder / "study.toml").exists() else tuning_study
        ).runs()

    def check_folder(self) -> bool:
        """Return True if tuning has begun in the folder, False if the folder is free.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        folder = self.study.folder
        if (folder / "study.toml").exists():
            stored = {arm.name: arm.by_seed for arm in Study.open(folder).arms}
            if not all(stored.values()):
                raise UserError(f"{folder} holds a study that is not tuned; name another folder with --out")
            arms = tuple(replace(arm, by_seed=stored.get(arm.name, {})) for arm in self.study.arms)
            replace(self.study, arms=arms).check_folder()
        elif not (folder / TUNING / "study.toml").exists():
            self.study.check_folder()
        return self.tuning_study.check_folder()

    def tuned_study(self) -> Study:
        """Return the study with the settings that its arms chose.

        Raises:
            UserError: a tuning run is not finished.
        """
        choices = {arm.name: arm for arm in self.choices()}
        arms = []
        for arm in self.study.arms:
            index_by_seed = zip(self.study.seeds, choices[arm.name].chosen_indices, strict=True)
            arms.append(replace(arm, by_seed={seed: dict(self.grid[index]) for seed, index in index_by_seed}))
        study, decided = replace(self.study, arms=tuple(arms)), Study.open(self.tuning_study.folder).decided
        return study.decide(decided) if decided and study.undecided() else study

    def choices(self) -> tuple[ArmTuning, ...]:
        """Return the scores and the choices of each arm.

        Raises:
            UserError: a tuning run is not finished.
        """
        scores, metric = self._read_scores()
        n_seeds = len(self.study.seeds)
        return tuple(
            ArmTuning(name, arm_scores, tuple(self._choose(arm_scores, n, metric) for n in range(n_seeds)))
            for name, arm_scores in scores.items()
        )

    @property
    def _default_first(self) -> list[int]:
        """Indices of the grid, the default first."""
        return [self.default_index, *(index for index in range(len(self.grid)) if index != self.default_index)]

    def _tuning_arm(self, arm: Arm, index: int) -> Arm:
        """Return the tuning arm of ``arm`` with the settings at ``index`` of the grid."""
        settings = self.grid[index]
        name = arm.name if index == self.default_index else f"{arm.name}, {label(settings)}"
        return Arm(name, {**arm.settings, **settings})

    def _read_scores(self) -> tuple[dict[str, tuple[tuple[float | None, ...], ...]], Metric]:
        """Return the scores (values, tuning seeds) by arm, None for a diverged run, and their metric."""
        from saccade import tasks  # imported late, because it imports torch

        tuning_study = self.tuning_study
        results_by_run = {(run.arm.name, run.seed): run.done_record for run in self.runs()}
        expected = [(arm.name, seed) for seed in tuning_study.seeds for arm in tuning_study.arms]
        if missing := [key for key in expected if results_by_run.get(key) is None]:
            name, seed = missing[0]
            raise UserError(
                f"{tuning_study.folder}: {len(missing)} of {len(expected)} tuning runs are not finished, the first is "
                f"{name}, seed {seed}; give the same command again"
            )
        results = {key: result for key, result in results_by_run.items() if result is not None}
        measured_by = {(result["task"], result["metric"]) for result in results.values()}
        metrics = {(task, metric.name): metric for task, _ in measured_by for metric in tasks.get(task).metrics}
        if len(measured_by) > 1 or not measured_by <= metrics.keys():
            pairs = " and ".join(f"{task} by {metric}" for task, metric in sorted(measured_by))
            raise UserError(
                f"{tuning_study.folder}: the tuning runs were scored on {pairs}; remove that folder and tune again"
            )
        metric = metrics[measured_by.pop()]

        def score(arm: Arm, seed: int) -> float | None:
            result = results[arm.name, seed]
            return None if result["diverged"] else result["scores"].get(metric.name)

        scores = {
            arm.name: tuple(
                tuple(score(self._tuning_arm(arm, index), seed) for seed in tuning_study.seeds)
                for index in range(len(self.grid))
            )
            for arm in self.study.arms
        }
        return scores, metric

    def _choose(self, scores: Sequence[Sequence[float | None]], seed_index: int, metric: Metric) -> int:
        """Return the grid index with the best mean score over the tuning runs of the judged seed at ``seed_index``.

        Values with a diverged run are skipped; the default wins ties and replaces a missing choice.
        """
        best_mean, best_index = -math.inf, self.default_index
        for index in self._default_first:
            trial_scores = scores[index][seed_index * self.repeats : (seed_index + 1) * self.repeats]
            seed_scores = [score for score in trial_scores if score is not None]
            if len(seed_scores) < self.repeats:
                continue
            mean = sum(seed_scores) / len(seed_scores) * (1 if metric.higher_is_better else -1)
            if mean > best_mean:
                best_mean, best_index = mean, index
        return best_index


@dataclass(frozen=True)
class ArmTuning:
    """Tuning scores and choices of one arm.

    Attributes:
        name: name of the arm.
        scores: (values, tuning seeds), on validation images; None for a diverged run.
        chosen_indices: chosen grid index for each judged seed.
    """

    name: str
    scores: tuple[tuple[float | None, ...], ...]
    chosen_indices: tuple[int, ...]


@dataclass(frozen=True)
class TuningResult:
    """Result of tuning a study.

    Attributes:
        tuning: plan of the tuning.
        arms: scores and choices of each arm.
    """

    tuning: Tuning
    arms: tuple[ArmTuning, ...]

    @property
    def runs_per_arm(self) -> int:
        """Number of tuning runs of each arm, the same for all."""
        return len(self.tuning.tuning_study.seeds) * len(self.tuning.grid)

    def budget(self) -> str:
        """Return a sentence on the values and the number of tuning runs."""
        tried = ", ".join(label(values) for values in self.tuning.grid)
        return (
            f"Every arm chose among {tried} by {self.runs_per_arm} tuning runs on validation images, "
            "anew for each judged seed."
        )

    def divergence_notes(self) -> list[str]:
        """Return a note for each arm with seeds at which every value diverged."""
        seeds, repeats = self.tuning.study.seeds, self.tuning.repeats
        default_label = label(self.tuning.grid[self.tuning.default_index])
        notes = []
        for arm in self.arms:
            diverged_seeds = [
                str(seed)
                for n, seed in enumerate(seeds)
                if all(None in scores[n * repeats : (n + 1) * repeats] for scores in arm.scores)
            ]
            if diverged_seeds:
                notes.append(
                    f"{arm.name} diverged with every value tried for the seeds {', '.join(diverged_seeds)}; "
                    f"{default_label} was used."
                )
        return notes

    def grid_edge_notes(self) -> list[str]:
        """Return a note for each lowest or highest value of the grid that arms chose for most seeds."""
        notes = []
        for key in self.tuning.keys:
            tried = [values[key] for values in self.tuning.grid]
            if not all(_is_number(value) for value in tried) or min(tried) == max(tried):
                continue
            for extreme, adjective, comparative in ((min(tried), "lowest", "lower"), (max(tried), "highest", "higher")):
                if names := [
                    arm.name for arm in self.arms if 2 * self._n_chosen(arm, key, extreme) > len(arm.chosen_indices)
                ]:
                    notes.append(
                        f"{key} = {extreme:g}, the {adjective} value tried, was chosen for most seeds by "
                        f"{', '.join(names)}; a {comparative} one may be better."
                    )
        return notes

    def _n_chosen(self, arm: ArmTuning, key: str, value: Any) -> int:
        return sum(self.tuning.grid[pick][key] == value for pick in arm.chosen_indices)

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, strings, numbers and None."""
        seeds, grid = self.tuning.study.seeds, self.tuning.grid
        return {
            "keys": list(self.tuning.keys),
            # Names of earlier versions.
            "ladder": [dict(values) for values in grid],
            "runs_of_each_arm": self.runs_per_arm,
            "seeds": {str(seed): list(self.tuning.seeds(seed)) for seed in seeds},
            "arms": {
                arm.name: {
                    "scores": [list(scores) for scores in arm.scores],
                    "chosen": {str(seed): dict(grid[n]) for seed, n in zip(seeds, arm.chosen_indices, strict=True)},
                }
                for arm in self.arms
            },
            "edges": self.grid_edge_notes(),
        }


def read_tuning(study: Study) -> TuningResult | None:
    """Return the result of tuning ``study``; None if it is not tuned or its tuning runs were deleted.

    Raises:
        UserError: a tuning run is unfinished or damaged, or lacks the chosen settings.
    """
    if not all(arm.by_seed for arm in study.arms) or not (study.folder / TUNING / "study.toml").exists():
        return None
    tuning_study = Study.open(study.folder / TUNING)
    keys = list(next(iter(study.arms[0].by_seed.values())))
    recipes = [arm.recipe(tuning_study.base, 0) for arm in tuning_study.arms]
    grid: list[Settings] = []
    for recipe in recipes:
        if (values := values_of(recipe, keys)) not in grid:
            grid.append(values)
    untuned = replace(study, arms=tuple(arm.untuned for arm in study.arms))
    tuning = Tuning(untuned, tuple(grid), max(1, len(tuning_study.seeds) // len(study.seeds)))
    index_of = {label(values): n for n, values in enumerate(tuning.grid)}
    arms = []
    for arm, arm_tuning in zip(study.arms, tuning.choices(), strict=True):
        chosen_indices = [index_of.get(label(arm.by_seed.get(seed, {}))) for seed in study.seeds]
        if None in chosen_indices:
            raise UserError(f"{study.folder}: the arm {arm.name!r} has settings that its tuning runs do not have")
        arms.append(replace(arm_tuning, chosen_indices=tuple(pick for pick in chosen_indices if pick is not None)))
    return TuningResult(tuning, tuple(arms))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
