"""Regions of an image that a text names: Grounding DINO finds boxes, the Segment Anything Model a mask in each.

    boxes    = Grounding DINO(image, "text.")    (n, 4), XYXY in pixels of the image
    region   = union of SAM(image, box)          (H, W)

Sources: Liu et al., Grounding DINO, arXiv:2303.05499; Kirillov et al., Segment Anything, arXiv:2304.02643.
"""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from saccade.errors import UserError
from saccade.escaping import brief

__all__ = ["PromptedRegions"]

_DETECTORS = ("grounding-dino", "mm-grounding-dino")
_SEGMENTERS = ("sam",)
_DOWNLOADED = ("*.json", "*.txt", "*.safetensors")
_VOCABULARIES = ("tokenizer.json", "vocab.txt")
"""Without one, transformers makes a tokenizer that knows no word."""
_BOXES_AT_ONCE = 32
_THRESHOLD = 0.35


@final
class PromptedRegions:
    """Grounding DINO and SAM of transformers; only safetensors files are read, and no code in the folders runs.

    Args:
        detector: folder of Grounding DINO in the format of transformers, or its name on the Hugging Face hub.
        segmenter: folder or name of SAM.
        download: True to download what is neither a folder nor in the cache.
        device: device that computes.

    Raises:
        UserError: transformers is missing, or a folder is missing, incomplete or of another network.
    """

    def __init__(
        self,
        *,
        detector: str | PathLike[str],
        segmenter: str | PathLike[str],
        download: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        self._device = torch.device(device)
        transformers = _library()
        detector_class = transformers.AutoModelForZeroShotObjectDetection
        self._detector, self._detector_inputs = _load(detector_class, detector, "detector", _DETECTORS, download)
        segmenter_class = transformers.AutoModelForMaskGeneration
        self._segmenter, self._segmenter_inputs = _load(segmenter_class, segmenter, "segmenter", _SEGMENTERS, download)
        self._detector.to(self._device)
        self._segmenter.to(self._device)

    def __call__(self, image: Tensor, text: str, threshold: float = _THRESHOLD) -> Tensor:
        """Return the region (H, W), bool, of ``text`` in ``image`` (3, H, W) or (1, H, W), uint8.

        It is empty if no box scores more than ``threshold``. Raises UserError for another image or an empty text.
        """
        height, width = image.shape[-2:]
        region = torch.zeros(height, width, dtype=torch.bool)
        boxes = self.boxes(image, text, threshold)
        if not len(boxes):
            return region
        picture = _picture(image)
        with torch.no_grad():
            features = None
            for some in boxes.split(_BOXES_AT_ONCE):
                inputs = self._segmenter_inputs(images=picture, input_boxes=[some.tolist()], return_tensors="pt")
                if features is None:
                    features = self._segmenter.get_image_embeddings(inputs.pixel_values.to(self._device))
                # A box is unambiguous: the one mask that SAM makes for such prompts, not three.
                outputs = self._segmenter(
                    image_embeddings=features,
                    input_boxes=inputs.input_boxes.to(self._device, torch.float32),
                    multimask_output=False,
                )
                masks = self._segmenter_inputs.post_process_masks(
                    outputs.pred_masks.cpu(), inputs.original_sizes, inputs.reshaped_input_sizes
                )[0]  # (n, 1, H, W)
                region |= masks.flatten(0, 1).any(0)
        return region

    def boxes(self, image: Tensor, text: str, threshold: float = _THRESHOLD) -> Tensor:
        """Return the boxes (n, 4) that score more than ``threshold``, the best first; raise UserError as a call."""
        picture = _picture(image)
        inputs = self._detector_inputs(images=picture, text=_prompt(text), return_tensors="pt").to(self._device)
        n_tokens, limit = inputs.input_ids.shape[1], self._detector.config.max_text_len
        if n_tokens > limit:
            raise UserError(f"the text {brief(text, 40)!r} has {n_tokens} tokens; the detector reads {limit}")
        with torch.no_grad():
            outputs = self._detector(**inputs)
        found = self._detector_inputs.post_process_grounded_object_detection(
            outputs, inputs.input_ids, threshold=threshold, target_sizes=[(picture.height, picture.width)]
        )[0]
        boxes = found["boxes"][found["scores"].argsort(descending=True)].cpu()
        corners = torch.tensor([picture.width, picture.height] * 2, dtype=boxes.dtype)
        boxes = boxes.clamp(min=0).minimum(corners)
        return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def _prompt(text: str) -> str:
    """Return ``text`` as Grounding DINO was trained: lower case, with a full stop; raise UserError if it is empty."""
    words = " ".join(text.lower().replace("_", " ").split()).rstrip(". ")
    if not words:
        raise UserError("the text that names the region is empty")
    return f"{words}."


def _picture(image: Tensor) -> Image.Image:
    """Return ``image`` (3, H, W) or (1, H, W) in RGB; raise UserError for another form."""
    if image.dtype != torch.uint8 or image.ndim != 3 or len(image) not in (1, 3):
        raise UserError(
            f"the image is {image.dtype} of the shape {tuple(image.shape)}; uint8 of (3, height, width) is needed"
        )
    return Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy())


def _load(
    model_class: Any, source: str | PathLike[str], role: str, types: tuple[str, ...], download: bool
) -> tuple[Any, Any]:
    """Return a network of ``model_class``, in eval mode, and what prepares its input; raise UserError if it fails."""
    transformers = _library()
    folder = _folder(source, role, download)
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with torch.random.fork_rng([]):
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            if config.model_type not in types:
                raise UserError(
                    f"{role}: {folder} is a network of the type {brief(config.model_type)!r}; "
                    f"{' or '.join(map(repr, types))} is needed"
                )
            model, info = model_class.from_pretrained(
                folder, config=config, use_safetensors=True, output_loading_info=True, **options
            )
            processor = transformers.AutoProcessor.from_pretrained(folder, **options)
    except UserError:
        raise
    except Exception as error:  # a broken file may raise anything
        raise UserError(f"{role}: {folder} cannot be loaded: {type(error).__name__}: {brief(error, 400)}") from error
    if lacking := sorted(info["missing_keys"]):
        raise UserError(f"{role}: {folder} lacks {len(lacking)} weights, such as {brief(lacking[0])}")
    return model.eval().requires_grad_(False), processor


def _folder(source: str | PathLike[str], role: str, download: bool) -> Path:
    """Return the folder of the network ``source``; raise UserError if it or one of its files is missing."""
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(fspath(source), allow_patterns=list(_DOWNLOADED), local_files_only=not download)
            )
        except Exception as error:  # errors of the name, the cache, the network and the hub
            advice = "" if download else "; give a folder, or download = True for a name on the hub"
            raise UserError(
                f"{role}: {brief(source)} is neither a folder nor found in the cache of Hugging Face"
                f"{advice} ({type(error).__name__}: {brief(error, 200)})"
            ) from error
    if role == "detector" and not any((folder / name).is_file() for name in _VOCABULARIES):
        raise UserError(f"{role}: {folder} has no vocabulary: {' or '.join(_VOCABULARIES)} is needed")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        found = f"only {brief(pickles[0])}, a pickle, which can run any code" if pickles else "no weights"
        raise UserError(f"{role}: {folder} has {found}; a safetensors file is needed")
    return folder


def _library() -> Any:
    """Return transformers; raise UserError if it is missing or too old."""
    try:
        import transformers

        transformers.GroundingDinoForObjectDetection  # noqa: B018 (transformers imports its classes on access)
        transformers.SamModel  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"prompted regions need transformers, which cannot be imported ({error}); install it with "
            'pip install "saccade-attention[sam]"'
        ) from None
    return transformers
