"""What to try where the plain host of a study has not learnt its task."""

from __future__ import annotations

from saccade.escaping import printable
from saccade.runfiles import read_epochs
from saccade.study.plan import Study

__all__ = ["on_unlearnt"]

_FEW = 20
"""Fewer epochs than this may be too few."""
_FELL = 0.7
"""A training loss below this part of its first value has fallen."""


def on_unlearnt(study: Study) -> str:
    """Say what to change, likeliest first, from the recipe and the training loss of the first plain run."""
    model, training = study.base.model, study.base.training
    first, last = _losses(study)
    fell = first is not None and last is not None and last < _FELL * first
    trained = model.pretrained or model.checkpoint is not None or model.init_from is not None
    # A loss that falls in train mode, and a score that stays in eval mode, point at the statistics of the norms.
    norms = "--set training.freeze=norm (the norms keep what the pretrained host knows)"
    steps = [norms] if trained and training.freeze in ("auto", "none") else []
    rates = f"{training.lr / 10:g}" if trained else f"{training.lr / 10:g} or {3 * training.lr:g}"
    rate = f"--set training.lr={rates} (it is {training.lr:g})"
    few = training.epochs < _FEW
    longer = [f"--set training.epochs={3 * training.epochs} (it is {training.epochs})"] if few else []
    steps += [*longer, rate] if fell else [rate, *longer]
    said = ""
    if first is not None and last is not None:
        what = "fell" if fell else "hardly fell"
        said = f"The training loss of its first run {what}, from {first:.3g} to {last:.3g}. "
    source = printable(study.base.data.source)
    return (
        f"{said}Try, one at a time: {'; '.join(f'({n}) {step}' for n, step in enumerate(steps, 1))}. Look whether "
        f"labels and images belong together: saccade data {source} --show sheet.png"
    )


def _losses(study: Study) -> tuple[float | None, float | None]:
    """The first and the last training loss of the first plain run that has any."""
    for seed in study.seeds:
        rows = read_epochs(study.run(study.arms[0], seed).folder / "metrics.jsonl")
        sums = [sum(row["losses"].values()) for row in rows if row["losses"]]
        if sums:
            return sums[0], sums[-1]
    return None, None
