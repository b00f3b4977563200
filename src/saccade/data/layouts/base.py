"""A data layout: one way in which people lay images and targets out on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from saccade.events import Notify
from saccade.recipe import Data

if TYPE_CHECKING:
    from saccade.data.samples import Splits
    from saccade.data.sheet import Cell

__all__ = ["Layout"]


class Layout(ABC):
    """Reads sources of one layout; has no state.

    Attributes:
        name: of its file; what ``data.layout`` says.
        rank: layouts are asked in this order, the one that requires most first, so that no source has two.
        targets: the kinds it can give, the natural one first; ``none`` is always possible.
        also: layouts that read other targets of the same folders.
        sources: names that are sources in themselves, without a folder.
        seeds: how many a study takes unless it is asked for others.
        caveat: a sentence that belongs beside every verdict on these images.
        residual_sd: metric -> residual SD between runs in its unit, where it has been measured.
    """

    name: ClassVar[str]
    rank: ClassVar[int]
    targets: ClassVar[tuple[str, ...]]
    also: ClassVar[tuple[str, ...]] = ()
    sources: ClassVar[tuple[str, ...]] = ()
    seeds: ClassVar[int] = 5
    caveat: ClassVar[str | None] = None
    residual_sd: ClassVar[Mapping[str, float]] = MappingProxyType({})

    @abstractmethod
    def recognise(self, source: str) -> str | None:
        """Return None where this layout reads ``source``, else why not, as a clause. Opens no image.

        Raises:
            UserError: a folder cannot be read.
        """

    @abstractmethod
    def located(self, source: str) -> str:
        """The source as a recipe keeps it, so that a study goes on from any working directory.

        Raises:
            UserError: there is no such source.
        """

    def gives(self, spec: Data) -> tuple[str, ...]:
        """Those of ``targets`` that it gives of this source, the natural one first.

        Raises:
            UserError: the source cannot be read.
        """
        return self.targets

    @abstractmethod
    def read(self, spec: Data, target: str, notify: Notify | None) -> Splits:
        """Open every image the recipe takes, with targets of the kind ``target``.

        Raises:
            UserError: the source, its classes, an image or a target cannot be used; the message names each.
        """

    @abstractmethod
    def describe(self, spec: Data, notify: Notify | None) -> dict[str, Any]:
        """The facts of a source, every image opened.

        What is said of sizes and of files that are left out or refused is said of what the recipe takes
        (``train_images``, ``test_images``); bad files beside that are a note.

        Returns:
            ``source`` and ``layout``; ``parts``, a list of {"name", "images", "classes": {class: images that show
            it}}; ``sizes``, a list of {"size": [width, height], "images"}, the most frequent first; ``used``, part ->
            images the recipe takes, None where it would be refused; ``height``, ``width`` and ``channels`` of what a
            network sees; ``same_bytes``, {"test_images_trained_on", "images_of_two_classes"} of these, by their bytes;
            ``notes``, ``left_out`` and ``refused``, sentences.

        Raises:
            UserError: there is no such source, or nothing in it can be described.
        """

    @abstractmethod
    def stamp(self, spec: Data) -> tuple[Any, ...]:
        """A value that changes when a file of the source does, made without opening an image."""

    @abstractmethod
    def suited(self, source: str) -> tuple[str, dict[str, Any]]:
        """The built-in recipe that suits these images, and settings over it."""

    @abstractmethod
    def cells(self, spec: Data, part: str, count: int) -> list[Cell]:
        """Up to ``count`` images of a part with their targets, for a contact sheet."""
