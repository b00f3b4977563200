"""Results of studies that were never run, for tests of what is made of them."""

from pathlib import Path

import numpy as np

from saccade.metrics.metric import Metric
from saccade.recipe import Recipe
from saccade.study.arms import Arm
from saccade.study.plan import Study
from saccade.study.report.charts import assign_styles
from saccade.study.report.sections.base import ReportContext
from saccade.study.results import ArmResult, OtherMetric, StudyResults
from saccade.study.run_notes import RunResult
from saccade.study.stats import analyse, intervals

TOP1 = Metric(name="top-1", unit="%", margin=1.0, low=0.0, high=100.0, values=lambda rows: rows["x"])
ERROR = Metric(
    name="error", unit="px", margin=0.05, low=0.0, higher_is_better=False, digits=3, values=lambda rows: rows["x"]
)


def arm(mechanism, control=None, **more):
    if mechanism == "none":
        return Arm("none")
    settings = {"attention.mechanism": mechanism} | ({"attention.control": control} if control else {}) | more
    return Arm(f"{control} for {mechanism}" if control else mechanism, settings)


def made(scores, metric=TOP1, arms=None, others=(), notes=(), trivial=None, by_class=None, folder="/nowhere/s", **data):
    """The results of a study with these ``scores`` (arm -> one a seed, None where a run has none).

    Args:
        others: (metric, scores) of what is reported beside it.
        by_class: arm -> score of each class, the same for all seeds.
        data: settings of the recipe.
    """
    arms = arms or [arm(name) for name in scores]
    base = Recipe().with_overrides({key.replace("__", "."): value for key, value in data.items()})
    seeds = tuple(range(len(next(iter(scores.values())))))
    study = Study(base, tuple(arms), seeds, Path(folder))
    runs = tuple(
        RunResult(
            run.arm.name, run.seed, "missing" if score is None else "done", f"{run.arm.slug}/seed{run.seed}",
            {} if score is None else {metric.name: score},
            {metric.name: (by_class or {}).get(run.arm.name, [])},
        )
        for run in study.runs()
        for score in [scores[run.arm.name][run.seed]]
    )  # fmt: skip
    known = {name: [score for score in each if score is not None] for name, each in scores.items()}
    rows = tuple(
        ArmResult(
            arm, arm.shares_host(base), tuple(scores[arm.name]), float(np.mean(own)) if own else None,
            float(np.std(own, ddof=1)) if len(own) > 1 else None, 1234, None,
        )
        for arm in arms
        for own in [known[arm.name]]
    )  # fmt: skip
    controls = frozenset(arm.name for arm in arms if arm.control)
    reference = trivial if trivial and trivial[1] is not None else None
    analysis = None
    if known["none"]:
        analysis = analyse(scores, metric=metric, controls=controls, seeds=seeds, trivial=reference)
    beside = tuple(OtherMetric(other, own, intervals(own, metric=other)) for other, own in others)
    return StudyResults(
        name=study.folder.name, study=study, baseline="none", seeds=seeds, margin=metric.margin, task="guess",
        metric=metric, trivial=trivial, arms=rows, analysis=analysis, others=beside, notes=tuple(notes), runs=runs,
        scored_epoch="the last epoch", advice="Try more epochs." if analysis and analysis.not_learnt else "",
    )  # fmt: skip


def context(results, epochs=None, task=None):
    return ReportContext(results, assign_styles(results.study.arms), epochs or {}, task, "there are none", False)
