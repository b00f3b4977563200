import json
import shutil

import pytest
import torch
import torch.nn.functional as F

from saccade.errors import UserError
from saccade.explanation.prompted_regions import PromptedRegions

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "cat", "dog")
SIDE = 32
"""Side of the images that the tiny SAM sees."""


def _randomised(model, spread):
    """Draw all parameters: norms and biases that start at a constant would hide errors."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, spread)
    return model


def _detector(transformers):
    backbone = transformers.SwinConfig(
        image_size=SIDE, patch_size=2, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 1, 1], window_size=4,
        out_indices=[2, 3],
    )  # fmt: skip
    text = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16,
    )  # fmt: skip
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, num_queries=40, encoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=16, decoder_attention_heads=2, d_model=32,
        num_feature_levels=2, encoder_n_points=2, decoder_n_points=2, max_text_len=16,
    )  # fmt: skip
    return _randomised(transformers.GroundingDinoForObjectDetection(config), 0.3)


def _segmenter(transformers):
    vision = {
        "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIDE,
        "patch_size": 8, "window_size": 2, "global_attn_indexes": [0], "num_pos_feats": 8, "mlp_dim": 16,
    }  # fmt: skip
    prompt = {"hidden_size": 16, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        "iou_head_depth": 2,
    }  # fmt: skip
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )  # fmt: skip
    return _randomised(transformers.SamModel(config), 0.6)  # its masks depend on the box


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")  # here, since the import takes half a second


@pytest.fixture(scope="module")
def folders(transformers, tmp_path_factory):
    """Folders of a tiny Grounding DINO and a tiny SAM."""
    folder = tmp_path_factory.mktemp("networks")
    _detector(transformers).save_pretrained(folder / "detector")
    tokenizer = transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)})
    sizes = transformers.GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    transformers.GroundingDinoProcessor(sizes, tokenizer).save_pretrained(folder / "detector")
    _segmenter(transformers).save_pretrained(folder / "segmenter")
    square = {"height": SIDE, "width": SIDE}
    sizes = transformers.SamImageProcessor(size={"longest_edge": SIDE}, pad_size=square)
    transformers.SamProcessor(sizes).save_pretrained(folder / "segmenter")
    return {name: folder / name for name in ("detector", "segmenter")}


@pytest.fixture(scope="module")
def regions(folders):
    state = torch.get_rng_state()
    loaded = PromptedRegions(**folders)
    assert torch.equal(torch.get_rng_state(), state)
    return loaded


@pytest.fixture(scope="module")
def image():
    return torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _scored_boxes(transformers, folders, image, text):
    """All boxes (n, 4) and scores (n,) of the detector, by hand."""
    model = transformers.GroundingDinoForObjectDetection.from_pretrained(folders["detector"]).eval()
    processor = transformers.GroundingDinoProcessor.from_pretrained(folders["detector"])
    with torch.no_grad():
        outputs = model(**processor(images=image, text=text, return_tensors="pt"))
    x, y, w, h = outputs.pred_boxes[0].unbind(-1)
    boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1) * torch.tensor([30.0, 20.0, 30.0, 20.0])
    boxes[:, ::2], boxes[:, 1::2] = boxes[:, ::2].clamp(0, 30), boxes[:, 1::2].clamp(0, 20)
    return boxes, outputs.logits[0].sigmoid().amax(-1)


def test_boxes_by_hand(transformers, folders, regions, image):
    boxes, scores = _scored_boxes(transformers, folders, image, "a cat.")
    threshold = scores.quantile(0.6).item()
    order = [i for i in scores.argsort(descending=True).tolist() if scores[i] > threshold]
    found = regions.boxes(image, " A_Cat. ", threshold)
    assert len(found) == 16
    torch.testing.assert_close(found, boxes[order])
    assert len(regions.boxes(image, "a cat", 0.0)) == 40
    assert len(regions.boxes(image, "a cat", 1.0)) == 0
    assert not torch.equal(regions.boxes(image, "dog", 0.0)[:5], regions.boxes(image, "a cat", 0.0)[:5])


def test_the_region_is_the_union_of_the_masks(transformers, folders, regions, image):
    boxes = regions.boxes(image, "a cat", 0.0)
    model = transformers.SamModel.from_pretrained(folders["segmenter"]).eval()
    processor = transformers.SamProcessor.from_pretrained(folders["segmenter"])
    masks = []  # SAM sees 32×32 pixels, of which the image fills 21 rows
    with torch.no_grad():
        pixels = processor(images=image, return_tensors="pt").pixel_values
        for box in boxes * torch.tensor([32 / 30, 21 / 20] * 2):
            logits = model(pixel_values=pixels, input_boxes=box[None, None], multimask_output=False).pred_masks[0]
            logits = F.interpolate(logits, (SIDE, SIDE), mode="bilinear")[..., :21, :]
            masks.append(F.interpolate(logits, (20, 30), mode="bilinear")[0, 0] > 0)
    region = regions(image, "a cat", 0.0)
    assert region.shape == (20, 30)
    assert torch.equal(region, torch.stack(masks).any(0))
    assert 0 < masks[0].sum() < region.sum() < region.numel()
    inside = torch.zeros_like(region)
    for left, top, right, bottom in boxes.round().int().tolist():
        inside[top:bottom, left:right] = True
    assert not torch.equal(region, inside)


def test_without_a_box_the_region_is_empty(regions, image):
    region = regions(image, "a cat", 1.0)
    assert region.shape == (20, 30)
    assert not region.any()
    grey = image[:1]
    assert torch.equal(regions(grey, "dog"), regions(grey.expand(3, -1, -1), "dog"))


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        (" . ", lambda x: x, "text that names the region is empty"),
        ("cat " * 30, lambda x: x, "has 33 tokens; the detector reads 16"),
        ("cat", lambda x: x / 255, r"float32 of the shape \(3, 20, 30\)"),
        ("cat", lambda x: x[:2], r"of the shape \(2, 20, 30\)"),
    ],
)
def test_refused_calls(text, change, message, regions, image):
    with pytest.raises(UserError, match=message):
        regions(change(image), text)


def _pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:2000])


def _incomplete(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.text_projection.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _with_code(folder):
    """A network of an unknown type that names a file of code, which would write beside itself."""
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nclass Mine: pass\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_pickled, "has only pytorch_model.bin, a pickle"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights; a safetensors file is needed"),
        (_truncated, "cannot be loaded: SafetensorError"),
        (_incomplete, "lacks 1 weights, such as model.text_projection.bias"),
        (_with_code, "cannot be loaded: ValueError"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no vocabulary"),
    ],
)
def test_refused_folders(spoil, message, folders, tmp_path):
    folder = tmp_path / "network"
    shutil.copytree(folders["detector"], folder)
    spoil(folder)
    with pytest.raises(UserError, match=f"detector: .*{message}"):
        PromptedRegions(detector=folder, segmenter=folders["segmenter"])
    assert not (folder / "ran").exists()


def test_another_network_is_refused_by_name(folders):
    with pytest.raises(UserError, match=r"segmenter: .* type 'grounding-dino'; 'sam' is needed"):
        PromptedRegions(detector=folders["detector"], segmenter=folders["detector"])


def test_nothing_is_downloaded_unless_asked(folders, monkeypatch, image):
    import huggingface_hub

    calls = []

    def snapshot_download(name, *, allow_patterns, local_files_only):
        calls.append((name, local_files_only))
        assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in allow_patterns)
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        return str(folders["detector"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=r"x/dino is neither a folder .* download = True"):
        PromptedRegions(detector="x/dino", segmenter=folders["segmenter"])
    loaded = PromptedRegions(detector="x/dino", segmenter=folders["segmenter"], download=True)
    assert calls == [("x/dino", True), ("x/dino", False)]
    assert len(loaded.boxes(image, "cat", 0.0)) == 40
