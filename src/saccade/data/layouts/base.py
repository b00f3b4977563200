"""Abstract class of data layouts.

A layout is a convention for storing images and their targets on disk. To add one, write a module of its name in this
package, with one final subclass of :class:`Layout`. A layout of image files in a folder derives from
:class:`saccade.data.layouts._folder.FolderLayout`, which lacks only ``check_folder``, ``survey`` and ``load_targets``.
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
    """Stateless reader of one layout.

    A source is the string in ``data.source``: a folder, or a word such as ``digits``. ``spec`` is the ``[data]``
    section of a recipe. ``notify`` receives progress events.

    Attributes:
        name: value of ``data.layout``, and name of the module.
        rank: unique; the accepting layout of lowest rank reads a source, so give a stricter layout a lower rank.
        targets: kinds of target the layout can read, the default first, such as ``label``, ``vector`` (0/1
            labels) or ``mask``; without ``none``, which is always possible.
        alternatives: layouts that read other kinds of target from the same folders.
        sources: words accepted as ``data.source`` in place of a folder.
        task_recipes: maps a task, or ``auto``, to the built-in recipe that replaces ``suggest_recipe`` for it.
        n_seeds: default number of seeds of a study.
        caveat: sentence printed beside every verdict on these images.
        residual_sd: maps a metric to its measured standard deviation between runs, in the metric's unit.
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
        """Return None if this layout reads ``source``, else why not, as a clause; opens no image.

        Raises:
            UserError: a folder cannot be read.
        """

    @abstractmethod
    def resolve_source(self, source: str) -> str:
        """Return ``source`` as an absolute path, so that a study can resume anywhere; a word stays as it is.

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
        """Open all images that the recipe uses, with their targets of the kind ``target``.

        Raises:
            UserError: the source, its classes, an image or a target cannot be used.
        """

    @abstractmethod
    def describe(self, spec: Data, notify: Notify | None) -> dict[str, Any]:
        """Open every image of the source and return a summary, as ``saccade data`` prints it.

        ``sizes``, ``left_out`` and ``refused`` cover only the images that the recipe selects; ``notes`` mentions other
        bad files.

        Returns:
            A dict with the keys

            * ``source`` and ``layout``: strings;
            * ``parts``: one {"name", "images", "classes"} per split; ``classes`` maps a class to its number of images;
            * ``sizes``: one {"size": [width, height] in pixels, "images": count} per size, the most frequent first;
            * ``used``: maps a split to its number of selected images; None if the recipe would be refused;
            * ``height``, ``width``, ``channels``: size of the network's input;
            * ``same_bytes``: {"test_images_trained_on", "images_of_two_classes"}, counts of byte-identical
              selected images;
            * ``notes``, ``left_out``, ``refused``: sentences, the latter two per omitted image and per reason why the
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
        """Return at most ``count`` images of a split, with their targets, for a contact sheet."""
