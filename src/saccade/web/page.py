"""Gradio page: controls on the left, cards on the right, and the gallery of test images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saccade.errors import UserError
from saccade.explanation.methods import METHODS
from saccade.web.cards import Choice, render_cards, render_gallery, render_message, render_text, thumbnail
from saccade.web.looks import Looks, Source

__all__ = ["PageFunctions", "build_page", "theme"]

_N_CLASSES = 3
"""Number of predicted classes of each network at the head of the list of classes."""
_MAX_CLASSES = 5000
"""Largest number of classes in the list."""
_N_QUICK = 6
"""Number of test images beside the drop zone."""
_THRESHOLD, _OPACITY = 0.5, 0.6
_SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace"]


def theme() -> Any:
    """Return the theme of the page, with fonts of the visitor's system: Gradio's defaults come from Google."""
    import gradio as gr

    return gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=_SANS, font_mono=_MONO)


class PageFunctions:
    """Functions behind the controls; each returns values for the page and none raises for what a visitor sends.

    Args:
        looks: results for the networks and pictures of the page.
    """

    def __init__(self, looks: Looks) -> None:
        self.looks = looks

    @property
    def first_source(self) -> str:
        """Picture that the page opens with; "" without test images."""
        examples = self.looks.examples
        return "" if examples is None else f"example:{examples.indices[0]}"

    @property
    def first_networks(self) -> list[str]:
        """Networks that the page opens with: the first and the last, such as ``none`` and ``das``."""
        names = list(self.looks.networks)
        return names[:1] + names[1:][-1:]

    def cards(
        self, source: str, networks: list[str], label: str, layer: str, method: str, threshold: float,
        opacity: float,
    ) -> str:  # fmt: skip
        """Return the cards as HTML, or a message."""
        try:
            if not source:
                return render_message("Take a test image, or drop a picture of yours.")
            chosen = tuple(name for name in self.looks.networks if name in networks)
            if not chosen:
                return render_message("Choose at least one network.")
            choice = Choice(
                Source.parse(source), chosen, label or "", layer or "", method, threshold, opacity
            )  # fmt: skip
            return render_cards(self.looks, choice)
        except UserError as error:
            return render_message(str(error))

    def classes(self, source: str, networks: list[str]) -> list[tuple[str, str]]:
        """Return (text, label) for the list of classes: first those that the networks predict."""
        chosen = [self.looks.networks[name] for name in networks if name in self.looks.networks]
        predicted: dict[str, None] = {}
        for network in chosen if source else []:
            try:
                found = self.looks.explained(network, Source.parse(source), "", "", next(iter(METHODS)))
            except UserError:
                continue
            predicted |= {network.label(each.index): None for each in found.predictions[:_N_CLASSES]}
        every = dict.fromkeys(label for network in chosen for label in network.labels)
        labels = list(predicted | every)[:_MAX_CLASSES]
        return [("each network’s own prediction", ""), *((label, label) for label in labels)]

    def layers(self, networks: list[str]) -> list[tuple[str, str]]:
        """Return (text, path) for the list of layers."""
        chosen = [self.looks.networks[name] for name in networks if name in self.looks.networks]
        paths = dict.fromkeys(path for network in chosen for path in self.looks.layers(network))
        return [("automatic: the last map", ""), *((path, path) for path in paths)]


def build_page(functions: PageFunctions, max_megabytes: int, reason: str) -> Any:
    """Return the ``gradio.Blocks`` of the page.

    Args:
        functions: functions behind the controls.
        max_megabytes: limit on uploads, for the text.
        reason: why there are no test images; "" if there are.
    """
    import gradio as gr

    source, names = functions.first_source, functions.first_networks
    classes, layers = functions.classes(source, names), functions.layers(names)
    method, methods = next(iter(METHODS)), [(found.title, name) for name, found in METHODS.items()]
    plain: dict[str, Any] = {"padding": False, "js_on_load": None, "apply_default_css": False}
    with gr.Blocks(title="Saccade: where the network looks", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(render_text("intro.html.j2"), **plain)
        chosen_source = gr.Textbox(source, elem_id="source", visible="hidden", show_label=False)
        with gr.Tabs(elem_id="tabs", elem_classes=[] if functions.looks.examples else ["single"]):
            with gr.Tab("Look"), gr.Row(elem_id="look"):
                with gr.Column(elem_id="controls", scale=0, min_width=300):
                    gr.HTML(_picker(functions, max_megabytes, reason), **plain)
                    chosen_networks = gr.CheckboxGroup(
                        list(functions.looks.networks), value=names, label="Networks", elem_id="networks"
                    )
                    chosen_class = gr.Dropdown(classes, value="", label="Class", elem_id="class", filterable=True)
                    chosen_layer = gr.Dropdown(layers, value="", label="Layer", elem_id="layer")
                    chosen_method = gr.Dropdown(methods, value=method, label="Method", elem_id="method")
                    threshold = gr.Slider(
                        0, 1, _THRESHOLD, step=0.05, label="Threshold", elem_id="threshold", buttons=[],
                        info="smaller values are not shown, nor counted in sfd outside the region",
                    )  # fmt: skip
                    opacity = gr.Slider(0, 1, _OPACITY, step=0.05, label="Opacity", elem_id="opacity", buttons=[])
                first = functions.cards(source, names, "", "", method, _THRESHOLD, _OPACITY)
                cards = gr.HTML(first, elem_id="cards", **plain)
            if functions.looks.examples is not None:
                with gr.Tab("Gallery"):
                    gr.HTML(render_gallery(functions.looks), elem_id="gallery", **plain)
        controls: list[Any] = [
            chosen_source, chosen_networks, chosen_class, chosen_layer, chosen_method, threshold, opacity
        ]  # fmt: skip
        settings: dict[str, Any] = {
            "show_progress": "minimal", "trigger_mode": "always_last", "api_visibility": "private",
            "concurrency_id": "page", "concurrency_limit": 1,
        }  # fmt: skip
        gr.on(
            [chosen_source.change, chosen_networks.change],
            _with_lists(functions, gr.update),
            controls,
            [chosen_class, chosen_layer, cards],
            **settings,
        )
        gr.on([control.input for control in controls[2:]], functions.cards, controls, cards, **settings)
    page.queue(max_size=64, api_open=False)
    return page


def _with_lists(functions: PageFunctions, update: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function for a new picture or other networks, which keeps the class and the layer if they exist."""

    def show(
        source: str, networks: list[str], label: str, layer: str, method: str, threshold: float, opacity: float
    ) -> tuple[Any, Any, str]:
        classes, layers = functions.classes(source, networks), functions.layers(networks)
        label = label if label in [name for _, name in classes] else ""
        layer = layer if layer in [path for _, path in layers] else ""
        cards = functions.cards(source, networks, label, layer, method, threshold, opacity)
        return update(choices=classes, value=label), update(choices=layers, value=layer), cards

    return show


def _picker(functions: PageFunctions, max_megabytes: int, reason: str) -> str:
    examples = functions.looks.examples
    quick = [] if examples is None else [
        {"index": index, "image": thumbnail(examples.pixels(index))} for index in examples.indices[:_N_QUICK]
    ]  # fmt: skip
    disputed = examples is not None and examples.n_disputed >= _N_QUICK
    return render_text("picker.html.j2", max_megabytes=max_megabytes, examples=quick, disputed=disputed, reason=reason)
