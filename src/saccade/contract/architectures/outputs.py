"""Promises about outputs: batches, image sizes, channels, classes, and each image's own output."""

from __future__ import annotations

import re

import torch

from saccade.contract.advice import format_error
from saccade.contract.architectures.case import ArchitectureCase
from saccade.contract.harness import BrokenPromiseError, UntestableError, each_mode, expect
from saccade.errors import UserError

__all__ = ["looks_at_each_image", "takes_any_batch", "takes_any_classes", "takes_gray_images", "takes_other_sizes"]

CLASS_ARGUMENTS = ("num_classes", "classes", "n_classes")
CHANNEL_ARGUMENTS = ("in_chans", "channels", "in_channels")


def takes_any_batch(case: ArchitectureCase) -> None:
    """Batches of 1, 2 and 3 images in eval, and of 2 and 3 in train, give finite logits.

    Logits are (B, classes), or (B, classes, H, W) of a dense network. One image in train is left out: batch
    norm refuses it where maps have one pixel.
    """
    network = case.build_randomized()
    for mode in each_mode(network):
        for batch in (1, 2, 3) if mode == "eval" else (2, 3):
            x = case.random_maps(batch=batch)
            case.expect_logits(case.logits(network, x), x, case.num_classes, f"in {mode}")


def takes_other_sizes(case: ArchitectureCase) -> None:
    """Larger images, of even and of odd sides, give finite logits, or raise UserError with the size needed."""
    network, (_, height, width) = case.build_randomized(), case.image_size
    for size in ((height + height // 2, width), (height + 9, width + 5), (height, width)):
        x, shape = case.random_maps(*size), f"{size[0]}×{size[1]}"
        try:
            with torch.no_grad():
                y = case.logits(network, x)
        except UserError as error:
            is_clear = size != (height, width) and re.search(r"\d", str(error)) is not None
            expect(is_clear, f"images of {shape} are refused, without a number: {error}")
            continue
        except BrokenPromiseError:
            raise
        except Exception as error:
            raise BrokenPromiseError(
                f"images of {shape} are refused: {format_error(error)}; take them, or raise a UserError that says "
                "the size found and the size needed"
            ) from error
        case.expect_logits(y, x, case.num_classes, f"images of {shape}")


def takes_gray_images(case: ArchitectureCase) -> None:
    """Built for images of one channel, the network takes them; built for three, it takes those."""
    if not case.accepts(*CHANNEL_ARGUMENTS):
        raise UntestableError("the number of image channels is not an argument")
    for in_chans in (1, 3):
        network = case.randomized(case.build(in_chans=in_chans)).double()
        x = case.random_maps()[:, :1].expand(-1, in_chans, -1, -1).contiguous()
        try:
            y = case.logits(network, x)
        except BrokenPromiseError:
            raise
        except Exception as error:
            raise BrokenPromiseError(f"built with in_chans = {in_chans}: {format_error(error)}") from error
        case.expect_logits(y, x, case.num_classes, f"built with in_chans = {in_chans}")


def takes_any_classes(case: ArchitectureCase) -> None:
    """One class, and three more than usual, give as many logits."""
    if not case.accepts(*CLASS_ARGUMENTS):
        raise UntestableError("the number of classes is not an argument")
    x = case.random_maps()
    for num_classes in (1, case.num_classes + 3):
        network = case.randomized(case.build(num_classes)).double()
        case.expect_logits(case.logits(network, x), x, num_classes, f"built with {num_classes} classes")


def looks_at_each_image(case: ArchitectureCase) -> None:
    """In eval, the output for an image changes with that image, wherever it stands in the batch."""
    network, x = case.build_randomized(), case.random_maps(batch=3)
    with torch.no_grad():
        y = case.logits(network, x)
        for index in range(len(x)):
            changed = x.clone()
            changed[index] = case.random_maps(batch=1, seed=index + 1)[0]
            expect(
                not torch.equal(case.logits(network, changed)[index], y[index]),
                f"the output for image {index + 1} of 3 does not change with the image",
            )
