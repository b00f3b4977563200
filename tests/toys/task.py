"""A task without labels, with ragged rows and a metric that is better if lower and has no upper bound."""

from typing import final

import torch
from torch import Tensor

from saccade.metrics.metric import Metric
from saccade.models import create_host
from saccade.tasks.base import Box, Drawing, Task


def _mean(rows):
    return float(rows["bright/error"].double().mean())


@final
class Toy(Task):
    """Predict the mean of an image; the metric is its distance to the bright pixels, whose number varies."""

    target = "none"
    metrics = (Metric(name="MAE", unit="sd", margin=0.1, low=0.0, higher_is_better=False, score=_mean),)

    def build(self, model):
        return create_host(model, 1, self.data.channels)

    def host(self, model):
        return {"timm": model.name, "options": {**model.options, "num_classes": 1, "in_chans": self.data.channels}}

    def output_problem(self, output, images):
        return None if isinstance(output, Tensor) and output.shape == (len(images), 1) else "needs one number per image"

    def loss(self, network, images, targets):
        assert targets == [None] * len(images)
        error = network(images)[:, 0].float() - images.mean((1, 2, 3))
        return {"square": error.square().mean(), "size": 1e-3 * error.abs().mean()}

    def rows(self, network, images, targets):
        return _rows(network(images)[:, 0].float(), images)

    def trivial_baseline(self):
        images = self.images(range(len(self.data.test)))
        return "the mean of all images", _rows(torch.zeros(len(images)), images)

    def references(self):
        images = self.images(range(len(self.data.test)))
        return {"the brightest pixel": _rows(images.amax((1, 2, 3)), images)}

    def draw(self, indices, network):
        images = self.images(indices)
        values = images.mean((1, 2, 3)) if network is None else network(images)[:, 0]
        box = Box(0.25, 0.25, 0.75, 0.75, 0, "the middle")
        return [Drawing(f"{value:.2f}", boxes=(box,)) for value in values.tolist()]


def _rows(values, images):
    errors = [(value - image[image > 1.0]).abs() for value, image in zip(values, images, strict=True)]
    lengths = torch.tensor([0, *map(len, errors)])
    return {"bright/error": torch.cat(errors).cpu(), "bright/offsets": lengths.cumsum(0)}
