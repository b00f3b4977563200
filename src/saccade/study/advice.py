"""Advice for a study whose baseline has not learnt its task."""

from __future__ import annotations

from saccade.escaping import printable
from saccade.runfiles import read_epochs
from saccade.study.plan import Study

__all__ = ["advice_if_not_learnt"]

_FEW_EPOCHS = 20
"""Number of epochs below which longer training is suggested."""
_FALLEN_LOSS_RATIO = 0.7
"""Ratio of final to first training loss below which the loss counts as fallen."""


def advice_if_not_learnt(study: Study) -> str:
    """Return sentences that suggest settings, from the recipe and the loss of the baseline's first run."""
    model, training = study.base.model, study.base.training
    first, last = _losses(study)
    has_fallen = first is not None and last is not None and last < _FALLEN_LOSS_RATIO * first
    is_pretrained = model.pretrained or model.checkpoint is not None or model.init_from is not None
    # A falling loss with a low score in eval mode may be due to wrong running statistics.
    freeze_suggestion = "--set training.freeze=norm (normalisation layers keep their pretrained statistics)"
    suggestions = [freeze_suggestion] if is_pretrained and training.freeze in ("auto", "none") else []
    learning_rates = f"{training.lr / 10:g}" if is_pretrained else f"{training.lr / 10:g} or {3 * training.lr:g}"
    rate_suggestion = f"--set training.lr={learning_rates} (it is {training.lr:g})"
    is_short = training.epochs < _FEW_EPOCHS
    epochs_suggestions = [f"--set training.epochs={3 * training.epochs} (it is {training.epochs})"] if is_short else []
    suggestions += [*epochs_suggestions, rate_suggestion] if has_fallen else [rate_suggestion, *epochs_suggestions]
    loss_sentence = ""
    if first is not None and last is not None:
        verb = "fell" if has_fallen else "hardly fell"
        loss_sentence = f"The training loss of its first run {verb}, from {first:.3g} to {last:.3g}. "
    listed = "; ".join(f"({n}) {text}" for n, text in enumerate(suggestions, 1))
    source = printable(study.base.data.source)
    return (
        f"{loss_sentence}Try, one at a time: {listed}. Check "
        f"that labels match images: saccade data {source} --show sheet.png"
    )


def _losses(study: Study) -> tuple[float | None, float | None]:
    """Return the first and last training loss of the first baseline run that recorded any, else (None, None)."""
    for seed in study.seeds:
        rows = read_epochs(study.run(study.arms[0], seed).folder / "metrics.jsonl")
        sums = [sum(row["losses"].values()) for row in rows if row["losses"]]
        if sums:
            return sums[0], sums[-1]
    return None, None
