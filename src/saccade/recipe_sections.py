"""Sections of a recipe. The text under each key is its documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from saccade.controls import ControlName
from saccade.recipe_values import ChannelMeans, ChannelStds, FreezeMode, PlainTable, Precision, Size, Text, Texts

__all__ = [
    "MAX_EPOCHS", "MAX_SEED", "Attention", "Data", "Model", "Phase", "RecipeBase", "TaskSection", "Training",
]  # fmt: skip

MAX_SEED = 2**63 - 1
"""Largest seed that both PyTorch and TOML accept."""
MAX_EPOCHS = 100_000
"""Upper limit of epochs: over 100 times the longest published training (about 800 epochs)."""
_MAX_IMAGES = 1_000_000_000
"""Upper limit of images: three times JFT-300M, the largest published set of labelled images."""
_MAX_BATCH = 131_072
"""Upper limit of the batch size: four times the largest batch published for ImageNet (32,768)."""
_MAX_THREADS = 1024
"""Upper limit of CPU threads: more than any machine with two sockets has."""
_MAX_WORKERS = 256
"""Upper limit of data-loading processes, each of which takes a few hundred MB."""
_MAX_FLOAT32 = 1e38
"""Upper limit of real numbers, below the largest float32 (3.4e38)."""


class RecipeBase(BaseModel):
    """Base class of the recipe and its sections: immutable, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


class Data(RecipeBase):
    """Images of the run: source, splits, resizing, normalisation and augmentation."""

    source: Text = "digits"
    """Folder of images, or ``digits`` for the built-in images of digits (nothing to download)."""
    layout: Text = "auto"
    """Layout of images and targets in ``source``: a module of ``saccade.data.layouts``, or ``auto`` to detect it."""
    size: Size = None
    """Input size of the network in pixels: the side of a square, or [height, width]. Default: the size that the layout
    chooses for ``source``."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """Method of resizing. ``crop`` scales the short side and takes the centre; ``pad`` scales the long side and fills
    the rest with the mean colour; ``stretch`` scales both sides independently."""
    mean: ChannelMeans = None
    """Mean subtracted from pixels in [0, 1]: one number, or one per channel. Default: the mean that the host's
    pretrained weights were trained with, else that of the training images."""
    std: ChannelStds = None
    """Standard deviation that pixels are divided by: one number, or one per channel. Default: as for ``mean``."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = None
    """Interpolation of resizing. Default: that of the host's pretrained weights, else ``bilinear``."""
    crop_pct: float | None = Field(None, gt=0, le=1)
    """Fraction of the resized image that ``resize = "crop"`` keeps: the short side is scaled to ``size / crop_pct``.
    Default: that of the host's pretrained weights, else 1."""
    train_images: int | None = Field(None, ge=2, le=_MAX_IMAGES)
    """Maximum number of training images, balanced over the classes. Default: all."""
    test_images: int | None = Field(None, ge=2, le=_MAX_IMAGES)
    """Maximum number of test images, balanced over the classes. Default: all."""
    test_part: float = Field(0.2, gt=0, lt=1)
    """Fraction of the images held out for testing if ``source`` has no test split."""
    score_on: Literal["test", "val"] = "test"
    """Split that is scored. ``val`` is meant for tuning; if ``source`` has no validation split, ``val_part`` of the
    training images is held out."""
    val_part: float = Field(0.2, gt=0, le=0.5)
    """Fraction of the training images that ``score_on = "val"`` holds out if ``source`` has no validation split."""
    skip_bad: bool = False
    """Leave out and count image files that cannot be read. By default they are an error."""
    split_seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seed, for a whole study, of the held-out splits, ``train_images``, ``test_images`` and the digit scenes."""
    augment: tuple[Text, ...] = ()
    """Augmentations of training images, applied in this order: ``flip`` (horizontal), ``crop`` (shift by up to 1/8),
    ``resized_crop`` (torchvision's ``RandomResizedCrop`` of the image after resizing: 8 % to 100 % of its area),
    ``color``, ``erase``; for images with one label also ``randaugment``, ``trivialaugment``, ``autoaugment`` (the
    ImageNet policy), ``autoaugment_cifar10`` and ``autoaugment_svhn``."""
    options: PlainTable[int | float | bool | str] = Field(default_factory=dict)
    """Options of the layout, such as ``clutter`` of the digits or ``labels`` of tables."""

    @property
    def height_width(self) -> tuple[int, int] | None:
        """Value of ``size`` as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class TaskSection(RecipeBase):
    """Task and metric."""

    name: Text = "auto"
    """Task, such as ``classify``, ``multilabel`` or ``segment``; ``auto`` chooses it by the targets of the data."""
    metric: Text | None = None
    """Metric by which arms are compared. Default: the first metric of the task."""
    class_weights: Literal["balanced"] | None = None
    """Weights of the classes in the loss. ``balanced``: ``classify`` and ``segment`` weight class k by N / (K · Nₖ),
    for Nₖ of N training images or pixels in K classes; ``multilabel`` weights positives by negatives / positives.
    A class without training images or pixels has the weight 1.
    Default: no weights."""


class Model(RecipeBase):
    """Host: the network that attention is added to."""

    name: Text = "resnet10_small"
    """Name of a timm model (including those that Saccade registers), or ``package.module:function`` of a function that
    builds the network."""
    code: Text | None = None
    """Digest of that function's code, written by Saccade: a study does not resume after the code has changed."""
    pretrained: bool = False
    """Start from timm's pretrained weights."""
    checkpoint: Text | None = None
    """Safetensors file of weights to start from; a head of another size is skipped, and a warning is logged."""
    init_from: Text | None = None
    """Folder of a finished run to start from: its host weights, and its plugs if this run has the same ones."""
    options: PlainTable[Any] = Field(default_factory=dict)
    """Keyword arguments of ``timm.create_model``, or of the function that builds the network."""


class Attention(RecipeBase):
    """Attention mechanism and its sites."""

    mechanism: Text = "none"
    """Mechanism to plug, as ``name`` or ``name:option=value``; ``none`` trains the plain host."""
    control: ControlName | None = None
    """Control plugged at the same sites in place of the mechanism: ``extra``, a bottleneck with about as many
    parameters; ``noise``, a random constant gate; ``shuffled``, the mechanism with the gate or context of the next
    image of the batch."""
    where: Texts = "paper"
    """Sites to plug: a position such as ``stage[:-1]``, globs of module paths, or ``paper`` for the position that the
    mechanism's paper uses."""
    start: Literal["auto", "neutral", "paper"] = "auto"
    """Initialisation of the plugs. ``neutral`` leaves the host's output unchanged at first; ``paper`` is the
    initialisation of the mechanism's paper; ``auto`` is ``neutral`` for a host with trained weights, else ``paper``."""
    lr_factor: float = Field(1.0, gt=0, le=_MAX_FLOAT32)
    """Learning rate of the plugs divided by that of the host."""


@dataclass(frozen=True)
class Phase:
    """Phase of a training: length, trainable parameters, and whether to continue from the best or last epoch."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: Text
    """Name of the phase in metrics.jsonl and messages."""
    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)]
    """Number of epochs."""
    trainable: tuple[Text, ...] = ("*",)
    """Globs of the parameters to train; ``!glob`` excludes. A module whose parameters are all frozen stays in eval mode
    with its submodules, except torchvision's RPN and box heads, which compute no losses in eval mode. A module without
    parameters, such as dropout, is in train mode unless it lies in a frozen module."""
    choose: bool = False
    """Continue from the epoch with the best score on the validation split, instead of the last epoch."""
    lr: Annotated[float | None, Field(gt=0, le=_MAX_FLOAT32)] = None
    """Learning rate of the host in this phase. Default: ``training.lr``."""


class Training(RecipeBase):
    """Optimisation, schedule, regularisation and hardware."""

    epochs: int = Field(10, ge=1, le=MAX_EPOCHS)
    """Number of epochs. With ``phases`` it is the sum of their epochs and may be left out."""
    phases: tuple[Phase, ...] = ()
    """Phases, trained in this order, each with a new optimiser, schedule and weight average. Default: one phase that
    trains everything."""
    batch_size: int = Field(64, ge=1, le=_MAX_BATCH)
    """Number of images in a batch."""
    optimizer: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    """Optimiser, as implemented in ``torch.optim``."""
    lr: float = Field(0.05, gt=0, le=_MAX_FLOAT32)
    """Peak learning rate of the host."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of ``sgd`` and ``rmsprop``."""
    nesterov: bool = False
    """Use Nesterov momentum in ``sgd``."""
    rmsprop_alpha: float | None = Field(None, ge=0, lt=1)
    """Decay of the mean of squared gradients in ``rmsprop``. Default: 0.99."""
    eps: float | None = Field(None, gt=0, le=_MAX_FLOAT32)
    """Constant added to the denominator of ``adamw`` and ``rmsprop``. Default: 1e-8."""
    weight_decay: float = Field(5e-4, ge=0, le=_MAX_FLOAT32)
    """Weight decay. Not applied to biases and parameters of at most one dimension, such as a plug's factor ``a``."""
    schedule: Literal["cosine", "constant", "step", "multistep", "exponential"] = "cosine"
    """Schedule of the learning rate. ``step`` multiplies the rate by ``gamma`` every ``step_epochs`` epochs,
    ``multistep`` at ``milestones``, ``exponential`` every epoch. Epochs count from the start of the phase and include
    the warm-up."""
    step_epochs: int | None = Field(None, ge=1, le=MAX_EPOCHS)
    """Epochs between two drops of the learning rate; ``step`` needs it."""
    milestones: tuple[Annotated[int, Field(ge=1, le=MAX_EPOCHS)], ...] = ()
    """Epochs after which the learning rate drops, in ascending order; ``multistep`` needs them."""
    gamma: float | None = Field(None, gt=0, lt=1)
    """Factor of one drop of the learning rate. Default: 0.1 for ``step`` and ``multistep``; ``exponential`` needs
    it."""
    warmup_epochs: float = Field(0.0, ge=0, le=MAX_EPOCHS)
    """Epochs in which the learning rate rises linearly from 0; fractions are allowed."""
    clip_norm: float | None = Field(None, gt=0, le=_MAX_FLOAT32)
    """Maximum 2-norm of the gradient over all parameters; longer gradients are scaled down. Default: no clipping."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing of the cross-entropy."""
    freeze: FreezeMode = "auto"
    """Frozen part of the host: ``norm``, the running statistics of its normalisation layers; ``host``, everything but
    the head; ``none``; or globs of parameter names. ``auto`` freezes the running statistics of normalisation layers
    that were folded into a convolution before saving. Plugs are always trained."""
    mixup_alpha: float = Field(0.0, ge=0, le=_MAX_FLOAT32)
    """Parameter of mixup, which blends two images of a batch in a ratio drawn from Beta(alpha, alpha); 0 turns it
    off."""
    cutmix_alpha: float = Field(0.0, ge=0, le=_MAX_FLOAT32)
    """Parameter of CutMix, which pastes a rectangle of another image; 0 turns it off. With ``mixup_alpha`` too, each
    batch uses one of the two at random."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of the exponential moving average of the weights; the average is scored and saved. At step n the decay is
    min(ema_decay, 1 - n^(-2/3)). Default: no average."""
    teacher: Text | None = None
    """Teacher of a distillation: a run folder, or a timm model with ``teacher_checkpoint``. Default: no teacher."""
    teacher_checkpoint: Text | None = None
    """Safetensors file with the weights of a timm teacher."""
    distill_alpha: float | None = Field(None, gt=0, le=1)
    """Weight of the distillation loss; the task's loss has the weight 1 - distill_alpha. Default: 0.5."""
    distill_temperature: float | None = Field(None, gt=0, le=_MAX_FLOAT32)
    """Temperature that divides the logits of both networks in the distillation loss. Default: 4."""
    sync_bn: bool = False
    """Accepted only as false: a run uses one device, so its batch norms see the whole batch anyway."""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Additional loggers of losses, learning rates and scores; they do not change the result. ``tensorboard`` writes
    into the run folder; ``wandb`` reads its environment variables, such as WANDB_PROJECT and WANDB_MODE."""
    precision: Precision = "32"
    """Precision: ``32`` for float32, ``bf16`` for autocast to bfloat16, ``auto`` for the faster of the two."""
    memory_format: Literal["contiguous", "channels_last", "auto"] = "contiguous"
    """Memory format of weights and feature maps; ``auto`` takes the faster of the two. Results differ by rounding."""
    threads: int = Field(1, ge=1, le=_MAX_THREADS)
    """Number of CPU threads. It changes the result by rounding, because sums are split among threads."""
    workers: int = Field(0, ge=0, le=_MAX_WORKERS)
    """Number of processes that load images; 0 loads them in the training process. It does not change the result."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Seed of initialisation, batch order, augmentation and dropout."""

    @model_validator(mode="before")
    @classmethod
    def _sum_phase_epochs(cls, values: Any) -> Any:
        """Set ``epochs`` to the sum of the phases if it is not given."""
        if not isinstance(values, Mapping) or "epochs" in values or not values.get("phases"):
            return values
        try:
            counts = [phase.epochs if isinstance(phase, Phase) else phase["epochs"] for phase in values["phases"]]
            return {**values, "epochs": sum(counts)}
        except (TypeError, KeyError):  # validation of the phases themselves will raise
            return values
