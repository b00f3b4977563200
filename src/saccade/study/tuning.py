"""Equal tuning: every arm of a study, ``none`` too, chooses its settings on validation images with the same budget.

The tuning runs are a study of their own, in ``<study>/tuning``: every arm with every value of the ladder, scored on
validation images. Each judged seed has tuning runs of its own, of seeds that are not judged, and every arm chooses anew
for it. So what the choice leaves to chance is part of the scatter between seeds, which the verdicts already know. One
choice for all seeds is as cheap to make but not to judge: two arms that are the same and happened to choose different
values differ for good, and up to a third of such studies found an effect (``benchmarks/simulated_tuning.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from saccade.errors import UserError
from saccade.recipe import MAX_SEED
from saccade.study.arms import Arm, repeated
from saccade.study.ladder import Settings, label, values_of
from saccade.study.plan import TUNING, Run, Study

if TYPE_CHECKING:
    from saccade.metrics.metric import Metric

__all__ = ["METHOD", "ArmTuning", "Tuned", "Tuning", "tuned"]

METHOD = """\
Every arm, the plain host and the controls too, chose among the same values with the same number of training runs, \
scored on validation images. It chose anew for each seed, from tuning runs of that seed alone, so the chance of the \
choice is part of the scatter between seeds that intervals and verdicts are made from. A judged run is trained on all \
training images and scored on the test images, which no tuning run has scored."""
"""How it was done, for the reader of a report."""


@dataclass(frozen=True)
class Tuning:
    """A study, the settings that each of its arms chooses from, and the tuning runs it chooses by.

    Attributes:
        study: what is judged, its arms as they are before they choose.
        ladder: dotted keys to values, the same keys in each; in rising order where all are numbers.
        repeats: tuning runs of each arm and value for each judged seed.
    """

    study: Study
    ladder: tuple[Settings, ...]
    repeats: int = 1

    def __post_init__(self) -> None:
        """Refuses what cannot be tuned equally.

        Raises:
            UserError: fewer than two values, one twice, an arm that sets a tuned key itself, repeats below 1, no seeds
                left above the judged ones, or verdicts on validation images.
        """
        if len(self.ladder) < 2:
            raise UserError(f"tuning needs at least two values to choose from; found {len(self.ladder)}")
        if self.study.base.data.score_on == "val":
            raise UserError(
                "data.score_on = 'val' would judge the arms by the images they are tuned on; leave it out with --tune"
            )
        if self.repeats < 1:
            raise UserError(f"{self.repeats} tuning runs of each value: at least 1 is needed")
        recipes = [self.study.base.with_overrides(values) for values in self.ladder]
        if twice := repeated(recipes):
            raise UserError(f"the value {label(self.ladder[recipes.index(twice[0])])} is to be tried twice")
        for arm in self.study.arms:
            if own := [key for key in arm.settings if any(f"{each}.".startswith(f"{key}.") for each in self.keys)]:
                raise UserError(f"the arm {arm.name!r} sets {own[0]} itself, which is tuned; leave one of them out")
            if arm.slug == TUNING:
                raise UserError(f"the arm {arm.name!r} would have the folder of the tuning runs; call it otherwise")
        if max(self.study.seeds) + len(self.study.seeds) * self.repeats > MAX_SEED:
            raise UserError(f"the seed {max(self.study.seeds)} leaves no seeds above it to tune with")
        if all(_is_number(value) for values in self.ladder for value in values.values()):
            rising = sorted(self.ladder, key=lambda values: tuple(values.values()))
            object.__setattr__(self, "ladder", tuple(rising))

    @property
    def keys(self) -> tuple[str, ...]:
        """What is tuned, dotted."""
        return tuple(self.ladder[0])

    @property
    def reference(self) -> int:
        """The place in the ladder that wins a tie: that of the recipe's own values, else the first."""
        own = [self.study.base.with_overrides(values) == self.study.base for values in self.ladder]
        return own.index(True) if True in own else 0

    @property
    def trials(self) -> Study:
        """The study of the tuning runs; the arms with the reference keep their names."""
        arms = [self._trial(arm, n) for n in self._order for arm in self.study.arms]
        base = self.study.base.with_overrides({**self.ladder[self.reference], "data.score_on": "val"})
        seeds = [seed for judged in self.study.seeds for seed in self.seeds(judged)]
        return Study(base, tuple(arms), tuple(seeds), self.study.folder / TUNING)

    def seeds(self, judged: int) -> range:
        """The seeds of the tuning runs that belong to the seed ``judged``."""
        first = max(self.study.seeds) + 1 + self.study.seeds.index(judged) * self.repeats
        return range(first, first + self.repeats)

    def runs(self) -> list[Run]:
        """The tuning runs; where they have begun, with the recipes that their folder says.

        Raises:
            UserError: the ``study.toml`` there is damaged.
        """
        trials = self.trials
        return (Study.open(trials.folder) if (trials.folder / "study.toml").exists() else trials).runs()

    def claim(self) -> bool:
        """Whether the tuning has begun in its folder; False if the folder is free.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        folder = self.study.folder
        if (folder / "study.toml").exists():
            there = {arm.name: arm.by_seed for arm in Study.open(folder).arms}
            if not all(there.values()):
                raise UserError(f"{folder} holds a study that is not tuned; name another folder with --out")
            arms = tuple(replace(arm, by_seed=there.get(arm.name, {})) for arm in self.study.arms)
            replace(self.study, arms=arms).claim()
        elif not (folder / TUNING / "study.toml").exists():
            self.study.claim()
        return self.trials.claim()

    def judged(self) -> Study:
        """The study whose arms have what they chose, and what timed steps decided for the tuning runs.

        Raises:
            UserError: a tuning run is not finished.
        """
        found = {arm.name: arm for arm in self.found()}
        arms = []
        for arm in self.study.arms:
            picks = zip(self.study.seeds, found[arm.name].picks, strict=True)
            arms.append(replace(arm, by_seed={seed: dict(self.ladder[pick]) for seed, pick in picks}))
        study, decided = replace(self.study, arms=tuple(arms)), Study.open(self.trials.folder).decided
        return study.decide(decided) if decided and study.undecided() else study

    def found(self) -> tuple[ArmTuning, ...]:
        """What each arm scored and chose.

        Raises:
            UserError: a tuning run is not finished.
        """
        scores, metric = self._scores()
        return tuple(
            ArmTuning(name, own, tuple(self._pick(own, place, metric) for place in range(len(self.study.seeds))))
            for name, own in scores.items()
        )

    @property
    def _order(self) -> list[int]:
        """Places in the ladder, the reference first."""
        return [self.reference, *(n for n in range(len(self.ladder)) if n != self.reference)]

    def _trial(self, arm: Arm, n: int) -> Arm:
        values = self.ladder[n]
        name = arm.name if n == self.reference else f"{arm.name}, {label(values)}"
        return Arm(name, {**arm.settings, **values})

    def _scores(self) -> tuple[dict[str, tuple[tuple[float | None, ...], ...]], Metric]:
        """Arm -> scores (values, tuning seeds), None where a run diverged; and the metric they are of."""
        from saccade import tasks  # brings torch: not before the runs

        trials = self.trials
        done = {(run.arm.name, run.seed): run.finished for run in self.runs()}
        wanted = [(arm.name, seed) for seed in trials.seeds for arm in trials.arms]
        if missing := [key for key in wanted if done.get(key) is None]:
            name, seed = missing[0]
            raise UserError(
                f"{trials.folder}: {len(missing)} of {len(wanted)} tuning runs are not finished, the first is {name}, "
                f"seed {seed}; give the same command again"
            )
        results = {key: result for key, result in done.items() if result is not None}
        kinds = {(result["task"], result["metric"]) for result in results.values()}
        known = {(task, metric.name): metric for task, _ in kinds for metric in tasks.get(task).metrics}
        if len(kinds) > 1 or not kinds <= known.keys():
            said = " and ".join(f"{task} by {metric}" for task, metric in sorted(kinds))
            raise UserError(f"{trials.folder}: the tuning runs are of {said}; remove that folder, and tune again")
        metric = known[kinds.pop()]

        def score(arm: Arm, seed: int) -> float | None:
            result = results[arm.name, seed]
            return None if result["diverged"] else result["scores"].get(metric.name)

        scores = {
            arm.name: tuple(
                tuple(score(self._trial(arm, n), seed) for seed in trials.seeds) for n in range(len(self.ladder))
            )
            for arm in self.study.arms
        }
        return scores, metric

    def _pick(self, scores: Sequence[Sequence[float | None]], place: int, metric: Metric) -> int:
        """The place in the ladder with the best mean over the tuning runs of judged seed number ``place``.

        A value one of whose runs diverged is not chosen; where that leaves none, and in a tie, the reference is.
        """
        best, chosen = -math.inf, self.reference
        for n in self._order:
            own = [score for score in scores[n][place * self.repeats : (place + 1) * self.repeats] if score is not None]
            if len(own) < self.repeats:
                continue
            mean = sum(own) / len(own) * (1 if metric.higher_is_better else -1)
            if mean > best:
                best, chosen = mean, n
        return chosen


@dataclass(frozen=True)
class ArmTuning:
    """The tuning of one arm.

    Attributes:
        name: the arm.
        scores: (values, tuning seeds), on validation images; None where a run diverged.
        picks: for each judged seed the place in the ladder that was chosen.
    """

    name: str
    scores: tuple[tuple[float | None, ...], ...]
    picks: tuple[int, ...]


@dataclass(frozen=True)
class Tuned:
    """What tuning did for a study.

    Attributes:
        tuning: the plan.
        arms: in the order of the study.
    """

    tuning: Tuning
    arms: tuple[ArmTuning, ...]

    @property
    def runs(self) -> int:
        """Tuning runs of each arm, the same for all."""
        return len(self.tuning.trials.seeds) * len(self.tuning.ladder)

    def budget(self) -> str:
        """The sentence on what each arm chose among, and at what expense."""
        tried = ", ".join(label(values) for values in self.tuning.ladder)
        return (
            f"Every arm chose among {tried} by {self.runs} tuning runs on validation images, anew for each judged seed."
        )

    def diverged(self) -> list[str]:
        """A sentence for each arm that could not choose for some seeds, because every value diverged."""
        seeds, repeats = self.tuning.study.seeds, self.tuning.repeats
        taken = label(self.tuning.ladder[self.tuning.reference])
        found = []
        for arm in self.arms:
            lost = [
                str(seed)
                for n, seed in enumerate(seeds)
                if all(None in scores[n * repeats : (n + 1) * repeats] for scores in arm.scores)
            ]
            if lost:
                found.append(
                    f"{arm.name} diverged with every value tried for the seeds {', '.join(lost)}, and took {taken}."
                )
        return found

    def edges(self) -> list[str]:
        """A sentence for each end of the numbers tried that arms chose with most of their seeds."""
        found = []
        for key in self.tuning.keys:
            tried = [values[key] for values in self.tuning.ladder]
            if not all(_is_number(value) for value in tried) or min(tried) == max(tried):
                continue
            for edge, which, beyond in ((min(tried), "lowest", "lower"), (max(tried), "highest", "higher")):
                if names := [arm.name for arm in self.arms if 2 * self._times(arm, key, edge) > len(arm.picks)]:
                    found.append(
                        f"{key} = {edge:g}, the {which} value tried, was chosen for most seeds by {', '.join(names)}; "
                        f"a {beyond} one may be better."
                    )
        return found

    def _times(self, arm: ArmTuning, key: str, value: Any) -> int:
        return sum(self.tuning.ladder[pick][key] == value for pick in arm.picks)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings, numbers and None."""
        seeds, ladder = self.tuning.study.seeds, self.tuning.ladder
        return {
            "keys": list(self.tuning.keys),
            "ladder": [dict(values) for values in ladder],
            "runs_of_each_arm": self.runs,
            "seeds": {str(seed): list(self.tuning.seeds(seed)) for seed in seeds},
            "arms": {
                arm.name: {
                    "scores": [list(scores) for scores in arm.scores],
                    "chosen": {str(seed): dict(ladder[n]) for seed, n in zip(seeds, arm.picks, strict=True)},
                }
                for arm in self.arms
            },
            "edges": self.edges(),
        }


def tuned(study: Study) -> Tuned | None:
    """What tuning did for ``study``; None if it is not tuned, or its tuning runs are gone.

    Raises:
        UserError: a tuning run is not finished or damaged, or is of other settings than those that were chosen.
    """
    if not all(arm.by_seed for arm in study.arms) or not (study.folder / TUNING / "study.toml").exists():
        return None
    trials = Study.open(study.folder / TUNING)
    keys = list(next(iter(study.arms[0].by_seed.values())))
    recipes = [arm.recipe(trials.base, 0) for arm in trials.arms]
    steps: list[Settings] = []
    for recipe in recipes:
        if (values := values_of(recipe, keys)) not in steps:
            steps.append(values)
    plain = replace(study, arms=tuple(arm.untuned for arm in study.arms))
    tuning = Tuning(plain, tuple(steps), max(1, len(trials.seeds) // len(study.seeds)))
    places = {label(values): n for n, values in enumerate(tuning.ladder)}
    arms = []
    for arm, own in zip(study.arms, tuning.found(), strict=True):
        picks = [places.get(label(arm.by_seed.get(seed, {}))) for seed in study.seeds]
        if None in picks:
            raise UserError(f"{study.folder}: the arm {arm.name!r} has settings that its tuning runs do not have")
        arms.append(replace(own, picks=tuple(pick for pick in picks if pick is not None)))
    return Tuned(tuning, tuple(arms))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
