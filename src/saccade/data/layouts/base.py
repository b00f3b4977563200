"""Abstract class of data layouts.

A layout is a convention for storing images and their targets on disk. To add one, write a module in this package that
is named after the layout and defines one final subclass of :class:`Layout`; the package finds it by its file name. A
layout of image files in a folder derives from :class:`saccade.data.layouts._folder.FolderLayout`, which implements
everything but ``check_folder``, ``survey`` and ``load_targets``.
"""

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
    """Stateless reader of the sources of one layout.

    A source is the string in ``data.source``: a folder, or a word such as ``digits``. ``spec`` is the ``[data]``
    section of a recipe. ``notify`` receives progress events; None reports nothing.

    Attributes:
        name: value of ``data.layout`` that selects the layout; equal to the name of its module.
        rank: position in which layouts are tried, unique; the first that accepts a source reads it. Give a stricter
            layout a lower rank.
        targets: kinds of target the layout can read, the default first, such as ``label``, ``vector`` (0/1
            labels) or ``mask``. ``none`` is always possible and not listed.
        alternatives: names of layouts that read other kinds of target from the same folders.
        sources: words accepted as ``data.source`` in place of a folder.
        task_recipes: maps a task, or ``auto``, to the built-in recipe that replaces ``suggest_recipe`` for it.
        n_seeds: default number of seeds of a study.
        caveat: sentence printed beside every verdict on these images; None if there is no such sentence.
        residual_sd: maps a metric to its standard deviation between runs, in the unit of the metric, if measured.
    """

    name: ClassVar[str]
    rank: ClassVar[int]
    targets: ClassVar[tuple[str, ...]]
    alternatives: ClassVar[tuple[str, ...]] = ()
    sources: ClassVar[tuple[str, ...]] = ()
    task_recipes: ClassVar[Mapping[str, str]] = MappingProxyType({})
    n_seeds: ClassVar[int] = 5
    caveat: ClassVar[str | None] = None
    residual_sd: ClassVar[Mapping[str, float]] = MappingProxyType({})

    @abstractmethod
    def check_source(self, source: str) -> str | None:
        """Return None if this layout reads ``source``, else the reason it does not, as a clause; opens no image.

        Raises:
            UserError: a folder cannot be read.
        """

    @abstractmethod
    def resolve_source(self, source: str) -> str:
        """Return ``source`` as an absolute path, so that a study can resume from any working directory.

        A source that is not a path is returned as it is.

        Raises:
            UserError: the source does not exist.
        """

    def list_targets(self, spec: Data) -> tuple[str, ...]:
        """Return the kinds in ``targets`` that this source has, the default first.

        Raises:
            UserError: the source cannot be read.
        """
        return self.targets

    @abstractmethod
    def read(self, spec: Data, target: str, notify: Notify | None) -> Splits:
        """Open all images that the recipe uses, with their targets.

        Args:
            spec: source and options.
            target: kind of target, one of ``targets`` or ``none``.
            notify: receives progress events.

        Raises:
            UserError: the source, its classes, an image or a target cannot be used; the message names each.
        """

    @abstractmethod
    def describe(self, spec: Data, notify: Notify | None) -> dict[str, Any]:
        """Open every image of the source and return a summary, as ``saccade data`` prints it.

        ``sizes``, ``left_out`` and ``refused`` cover only the images that the recipe selects (``train_images``,
        ``test_images``); other bad files are mentioned in ``notes``.

        Returns:
            A dict with the keys

            * ``source`` and ``layout``: strings;
            * ``parts``: one {"name", "images", "classes"} per train, test or val split; ``classes`` maps a class to
              the number of images that show it;
            * ``sizes``: one {"size": [width, height] in pixels, "images": count} per size, the most frequent first;
            * ``used``: maps a split to its number of selected images; None if the recipe would be refused;
            * ``height``, ``width``, ``channels``: size of the network's input;
            * ``same_bytes``: {"test_images_trained_on", "images_of_two_classes"}, counts of byte-identical
              selected images;
            * ``notes``: list of sentences; ``left_out``: one per image left out; ``refused``: one per reason why the
              recipe would be refused.

        Raises:
            UserError: the source does not exist or holds nothing to describe.
        """

    @abstractmethod
    def stamp(self, spec: Data) -> tuple[Any, ...]:
        """Return a value that changes when a file of the source changes; opens no image."""

    @abstractmethod
    def suggest_recipe(self, source: str) -> tuple[str, dict[str, Any]]:
        """Return the name of the built-in recipe for these images, and settings that override it."""

    @abstractmethod
    def read_cells(self, spec: Data, split: str, count: int) -> list[Cell]:
        """Return at most ``count`` images of the split ``split``, with their targets, for a contact sheet."""
