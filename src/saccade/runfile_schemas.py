"""Schemas of the files of run and study folders.

Unknown keys, which newer versions may write, are accepted; keys that older versions did not write have defaults.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from saccade.controls import ControlName
from saccade.recipe_sections import MAX_EPOCHS

__all__ = [
    "DELETE_RUN_ADVICE",
    "MAX_INT",
    "Costs",
    "Done",
    "Environment",
    "EpochRow",
    "Failed",
    "OldDone",
    "OldEpochRow",
    "RecipeFile",
    "SavedNetwork",
    "StudyFile",
]  # fmt: skip

MAX_INT = 2**63
"""Upper limit of whole numbers; fields exclude it."""
DELETE_RUN_ADVICE = "Delete the folder {folder} and repeat the command: that run starts over."
"""Advice for a damaged file of a run."""

Count = Annotated[int, Field(ge=0, lt=MAX_INT)]
"""Integer of at least 0."""
Positive = Annotated[int, Field(ge=1, lt=MAX_INT)]
"""Integer of at least 1."""
Float32 = Annotated[float, Field(ge=-3.5e38, le=3.5e38)]
"""Real number in the range of float32."""
Percent = Annotated[float, Field(ge=0, le=100)]
"""Percentage."""
Duration = Annotated[float, Field(ge=0, le=1e12)]
"""Duration in seconds or milliseconds."""
Milliseconds = Annotated[float, Field(gt=0, le=1e12)]
"""Duration in milliseconds, above 0."""


class _Schema(BaseModel):
    """Base class of the schemas."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    advice: ClassVar[str] = DELETE_RUN_ADVICE
    """Advice to the user if the file is damaged."""


class _Divergence(_Schema):
    message: str = ""


class _ConstantPrediction(_Schema):
    answer: str
    """Description of the predicted class or value."""
    scores: dict[str, Float32 | None]


class _ByColumn(_Schema):
    column: str
    values: list[str]
    """Values that the entries of ``by`` in the rows index."""


class Done(_Schema):
    """Schema of a run's ``done.json``."""

    task: str
    metric: str
    score: str = ""
    scores: dict[str, Float32 | None]
    by_class: dict[str, list[Float32 | None]] = Field(default_factory=dict)
    trivial: _ConstantPrediction | None = None
    """Scores of the best constant prediction, the baseline that ignores the images."""
    references: dict[str, dict[str, Float32 | None]] = Field(default_factory=dict)
    """Scores of the task's reference predictions: name -> metric -> score."""
    epochs: Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
    seconds: Duration
    parameters: Count
    diverged: _Divergence | None
    start: str | None = None
    """Initialisation of the plugs."""
    fingerprint: str = ""
    """Digest of the images."""
    left_out: dict[str, dict[str, Count]] = Field(default_factory=dict)
    cautions: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    by: _ByColumn | None = None
    """Column ``data.options.by``."""
    constant: dict[str, Literal["gate", "context"]] = Field(default_factory=dict)
    """Plugs with the same gate or context for all test images: maps site to kind."""


class OldDone(_Schema):
    """Keys of version 0.1's ``done.json`` that ``scores`` replaced."""

    top1: Percent
    test_loss: Float32 | None


class _NetworkHost(_Schema):
    timm: str | None = None
    options: dict[str, Any] | None = None


class _NetworkSite(_Schema):
    path: str


class _NetworkPlug(_Schema):
    site: _NetworkSite
    mechanism: str
    options: dict[str, Any]
    neutral: bool


class _NetworkReplacement(_Schema):
    convolution: str  # path
    mechanism: str
    options: dict[str, Any]


class SavedNetwork(_Schema):
    """Schema of the values of a run's ``config.json`` that reports use; ``saccade.load`` validates the whole file."""

    host: _NetworkHost | None
    plugs: list[_NetworkPlug]
    replacements: list[_NetworkReplacement] = Field(default_factory=list)
    input: list[Count] | None
    facts: dict[str, Any]
    """Metadata given to ``saccade.save``, such as ``mean`` and ``std`` of the images."""


class Failed(_Schema):
    """Schema of a run's ``failed.json``."""

    advice: ClassVar[str] = "Delete that file."
    reason: str | None = None
    traceback: str | None = None


class Environment(_Schema):
    """Schema of a run's ``environment.json``."""

    device: str
    accelerator: str | None = None
    cpu: str | None = None
    python: str | None = None
    packages: dict[str, str | None] = Field(default_factory=dict)


class RecipeFile(_Schema):
    """Schema of a run's ``recipe.toml``; :class:`saccade.recipe.Recipe` validates its keys."""


class _PlugStatistics(_Schema):
    kind: Literal["gate", "context", "change"] = "gate"
    mean: Float32 | None
    std: Float32 | None
    a: Float32 | None
    """Learned factor ``a`` of the plug."""
    gamma: Float32 | None = None
    """Learned factor of the mechanism itself, as in ``self_attention``."""


class EpochRow(_Schema):
    """Schema of a line of ``metrics.jsonl``: losses, scores and plug statistics of one epoch."""

    epoch: Annotated[int, Field(ge=0, le=MAX_EPOCHS)]
    losses: dict[str, Float32] = Field(default_factory=dict)
    scores: dict[str, Float32 | None]
    val: dict[str, Float32 | None] | None = None
    """Scores on the validation split."""
    lr: Float32 | None = None
    seconds: Duration = 0.0
    memory_mb: Float32 | None = None
    gates: dict[str, _PlugStatistics]
    """Maps site to statistics of the gate, the context or the change of the feature map."""


class OldEpochRow(_Schema):
    """Keys of version 0.1's ``metrics.jsonl`` that ``losses`` and ``scores`` replaced."""

    train_loss: Float32 | None = None
    test_loss: Float32 | None = None
    test_top1: Percent | None


class _Latency(_Schema):
    median: Milliseconds
    low: Milliseconds
    high: Milliseconds


class _BatchLatency(_Schema):
    batch: Positive
    latency_ms: _Latency


class _ArmCost(_BatchLatency):
    parameters: Count
    macs: Positive
    threads: Positive
    device: str
    batched: _BatchLatency


class Costs(RootModel[dict[str, _ArmCost]]):
    """Schema of a study's ``costs.json``: maps arm to cost."""

    advice: ClassVar[str] = "Delete that file: the next report measures the costs again."


class _ArmTable(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    settings: dict[str, Any] = Field(default_factory=dict)
    by_seed: dict[str, dict[str, Any]] = Field(default_factory=dict)
    mechanism: str | None = None
    control: ControlName | None = None
    where: str | None = None


class _DecidedSettings(_Schema):
    settings: dict[str, str]
    step_ms: dict[str, Duration] = Field(default_factory=dict)
    batch: Count = 0


class StudyFile(_Schema):
    """Schema of a study's ``study.toml``; :class:`saccade.recipe.Recipe` validates the recipe in it."""

    advice: ClassVar[str] = "Restore the file, or give the study a new folder with --out."
    margin: float | None = None
    seeds: list[int]
    arms: list[_ArmTable]
    recipe: dict[str, Any]
    decided: _DecidedSettings | None = None
