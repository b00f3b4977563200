"""A network with what is needed to show it a picture: size, normalisation, and names of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from saccade.data.opening import read_image, to_rgb, upright
from saccade.data.resizing import Frame
from saccade.errors import UserError, did_you_mean
from saccade.escaping import brief
from saccade.graph.hosts import check_network
from saccade.graph.inputs import example_input
from saccade.imagefiles import UnreadableError, open_image
from saccade.runfiles import read_recipe
from saccade.saving import describe, load
from saccade.trust import Trust

__all__ = ["Picture", "PreparedNetwork", "prepare"]

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_pct": 0.875}
"""Normalisation and crop of torchvision's classifiers and segmenters."""

Picture = str | Path | Image.Image | Tensor
"""A file, a PIL image, pixels uint8 (C, H, W), or a normalised image, floating-point (C, H, W)."""


@dataclass(frozen=True)
class PreparedNetwork:
    """A network and its way of reading pictures.

    Attributes:
        name: name in captions.
        module: the network.
        frame: size and resizing of its images; None to keep the size of each image.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel.
        class_names: names of the classes, for a detector of its labels; () if unknown.
        has_several_labels: True if each logit is a label of its own, so that probabilities do not add up to 1.
        note: sentence on what is unknown, or "".
    """

    name: str
    module: nn.Module
    frame: Frame | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    has_several_labels: bool = False
    note: str = ""

    def pixels(self, picture: Picture) -> Tensor:
        """Return a picture as the network sees it, uint8 (C, H, W); a floating-point tensor is un-normalised.

        Raises:
            UserError: the file cannot be read as an image, or the value is no picture.
        """
        if isinstance(picture, str | Path):
            pixels = self._read(Path(picture))
        elif isinstance(picture, Tensor) and picture.is_floating_point():
            values = picture.detach().cpu().float() * _per_channel(self.std) + _per_channel(self.mean)
            return (255 * values).round().clamp(0, 255).to(torch.uint8)
        else:
            image = to_rgb(upright(_as_image(picture)))
            fitted = image if self.frame is None else self.frame.fit_image(image)
            pixels = torch.from_numpy(np.asarray(fitted).transpose(2, 0, 1).copy())
        grey = pixels.float().mean(0, keepdim=True).round().to(torch.uint8)
        return pixels if len(self.mean) == 3 else grey.expand(len(self.mean), -1, -1)

    def tensor(self, picture: Picture) -> Tensor:
        """Return a picture as the network's input, float32 (C, H, W).

        Raises:
            UserError: as :meth:`pixels`, or the tensor has another number of channels.
        """
        if isinstance(picture, Tensor) and picture.is_floating_point():
            if picture.ndim != 3 or len(picture) != len(self.mean):
                raise UserError(f"an image for {self.name} must have shape ({len(self.mean)}, H, W), got "
                                f"{tuple(picture.shape)}")  # fmt: skip
            return picture.detach().cpu().float()
        return (self.pixels(picture).float() / 255 - _per_channel(self.mean)) / _per_channel(self.std)

    def class_index(self, key: str | int | None) -> int | None:
        """Return the index of a class given by name or index; None stays None.

        Raises:
            UserError: no class has this name.
        """
        if key is None or isinstance(key, int):
            return key
        for i, name in enumerate(self.class_names):
            if key.lower() in (name.lower(), *(synonym.strip().lower() for synonym in name.split(","))):
                return i
        if key.isdecimal():
            return int(key)
        known = [synonym.strip() for name in self.class_names for synonym in name.split(",")]
        names = brief(", ".join(map(self.class_name, range(len(self.class_names)))))
        hint = f"{did_you_mean(key, known)} Its classes: {names}" if known else " It names no classes; give the index."
        raise UserError(f"{self.name} has no class {brief(key)!r}.{hint}")

    def class_name(self, index: int) -> str:
        """Return the first synonym of a class's name, or ``class 3`` without names."""
        return self.class_names[index].partition(",")[0] if index < len(self.class_names) else f"class {index}"

    def _read(self, path: Path) -> Tensor:
        frame = self.frame
        if frame is None:
            try:
                with open_image(path) as image:
                    width, height = upright(image).size
            except UnreadableError as problem:
                raise UserError(f"{brief(path)} {problem}") from None
            frame = Frame(height, width)
        result = read_image(path, frame)
        if result.pixels is None:
            raise UserError(f"{brief(path)} {result.problem}")
        return torch.from_numpy(result.pixels)


def prepare(
    model: nn.Module | str | Path,
    name: str | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    trust: Trust = False,
) -> PreparedNetwork:
    """Return a network, or the one saved in a folder, with its own size, normalisation and class names.

    They come from the folder, or from timm's ``pretrained_cfg``; torchvision's networks have those of ImageNet.

    Args:
        model: the network, or a folder that ``saccade.save`` or a run wrote.
        name: name in captions; None for the folder's name, else timm's name or the class of the network.
        size: height and width of the input, or the side of a square.
        mean: mean of each channel, for pixels in [0, 1].
        std: standard deviation of each channel.
        class_names: names of the classes.
        trust: see ``saccade.load``.

    Raises:
        UserError: the folder holds no network.
    """
    network = _from_folder(Path(model), name, trust) if isinstance(model, str | Path) else _from_module(model, name)
    channels = len(network.mean)
    changes: dict[str, Any] = {}
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 1:
            raise UserError(f"size must be positive, got {height}×{width}")
        changes["frame"] = replace(network.frame or Frame(height, width), height=height, width=width)
    for key, values in (("mean", mean), ("std", std)):
        if values is not None:
            if len(values) not in (1, channels):
                raise UserError(f"{key} needs {channels} values, got {len(values)}")
            changes[key] = tuple(values) * (channels if len(values) == 1 else 1)
            changes["note"] = ""
    if class_names is not None:
        changes["class_names"] = tuple(class_names)
    return replace(network, **changes)


def _from_folder(folder: Path, name: str | None, trust: Trust) -> PreparedNetwork:
    """Return the network that a run or ``saccade.save`` wrote."""
    runs = sorted(path.parent for path in folder.glob("*/seed*/done.json")) if folder.is_dir() else []
    if runs and not (folder / "config.json").exists():
        raise UserError(f"{folder} is a study; name one of its runs, such as {runs[-1]}")
    config = describe(folder)
    facts: Mapping[str, Any] = config["facts"]
    module = load(folder, trust=trust)
    own = _from_module(module, name)
    recipe = read_recipe(folder / "recipe.toml")
    task = str(facts.get("task", ""))
    frame = own.frame
    if config["input"] is not None and len(config["input"]) == 3:
        frame = Frame(config["input"][1], config["input"][2])
    if frame is not None:
        settings = {key: facts[key] for key in ("interpolation", "crop_pct") if facts.get(key) is not None}
        mean = facts.get("mean") or own.mean
        red, green, blue = (round(255 * value) for value in (mean if len(mean) == 3 else [mean[0]] * 3))
        frame = replace(
            frame, **settings, fill=(red, green, blue), resize=recipe.data.resize if recipe else frame.resize
        )
    names = [str(value) for value in config["classes"] or ()]
    known = facts.get("mean") is not None
    return PreparedNetwork(
        _folder_name(folder) if name is None else name,
        module,
        frame,
        tuple(facts.get("mean") or own.mean),
        tuple(facts.get("std") or own.std),
        tuple(["background", *names] if task == "detect" and names else names or own.class_names),
        task == "multilabel",
        "" if known else own.note,
    )


def _folder_name(folder: Path) -> str:
    """Return ``das/seed0`` for a run of a study, else the name of the folder."""
    parts = folder.resolve().parts
    return "/".join(parts[-2:]) if parts[-1].startswith("seed") else parts[-1]


def _from_module(module: nn.Module, name: str | None) -> PreparedNetwork:
    check_network(module)
    config = getattr(module, "pretrained_cfg", None)
    architecture = config.get("architecture") if isinstance(config, Mapping) else None
    label = str(architecture or type(module).__name__) if name is None else name
    channels, height, width = example_input(module)[0].shape[1:]
    if any(isinstance(part, GeneralizedRCNNTransform) for part in module.modules()):
        return PreparedNetwork(label, module, None, (0.0,) * channels, (1.0,) * channels)
    if isinstance(config, Mapping) and config.get("mean") is not None:
        keys = {key: config[key] for key in ("interpolation", "crop_pct") if config.get(key) is not None}
        frame = Frame(height, width, **keys)
        return PreparedNetwork(
            label, module, frame, _fit(config["mean"], channels), _fit(config["std"], channels), _imagenet(module)
        )
    if type(module).__module__.startswith("torchvision.models.") and channels == 3:
        frame = Frame(height, width, crop_pct=_IMAGENET["crop_pct"])  # type: ignore[arg-type]
        is_classifier = any(isinstance(m, nn.Linear) and m.out_features == 1000 for m in module.modules())
        names = _names("imagenet-1k") if is_classifier else ()
        return PreparedNetwork(label, module, frame, _IMAGENET["mean"], _IMAGENET["std"], names)  # type: ignore[arg-type]
    note = f"The normalisation of {label} is unknown: it gets pixels from 0 to 1, or give mean and std."
    return PreparedNetwork(label, module, Frame(height, width), (0.0,) * channels, (1.0,) * channels, note=note)


def _fit(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return one value per channel; the mean of all for another number of channels."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _imagenet(module: nn.Module) -> tuple[str, ...]:
    """Return the names of ImageNet's classes if timm says that the network has them."""
    try:
        subset = infer_imagenet_subset(module)
    except Exception:  # a configuration of a user's own may hold anything
        return ()
    if subset is None or getattr(module, "num_classes", None) != ImageNetInfo(subset).num_classes():
        return ()
    return _names(subset)


def _names(subset: str) -> tuple[str, ...]:
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(info.num_classes()))


def _as_image(picture: Any) -> Image.Image:
    """Return a PIL image; raise UserError for anything that is no picture."""
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, Tensor) and picture.dtype == torch.uint8 and picture.ndim == 3 and len(picture) in (1, 3):
        array = picture.permute(1, 2, 0).cpu().numpy()
        return Image.fromarray(array[:, :, 0] if len(picture) == 1 else array)
    shape = f" of dtype {picture.dtype} and shape {tuple(picture.shape)}" if isinstance(picture, Tensor) else ""
    raise UserError(f"a picture is a file, a PIL image, uint8 (C, H, W) or a normalised float image (C, H, W); got "
                    f"{type(picture).__name__}{shape}")  # fmt: skip


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values)[:, None, None]
