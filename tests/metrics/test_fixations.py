"""Measures of fixations by hand, against other libraries, and on degenerate maps."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from saccade.metrics.fixations import (
    auc,
    auc_judd,
    blur,
    correlation,
    count_fixations,
    gaussian_at_centre,
    kl_divergence,
    normalise,
    nss,
    similarity,
)

SIZE = (9, 12)
KNOWN = [
    [0.3336828477082193, 0.059680672358626015, 4.2066986847380985, 0.27940583219832443],
    [0.14122820496439462, 0.09234499982965458, 4.263558524621429, 0.22961309703137497],
    [-0.1090079476550376, 0.0578274235798896, 20.05421420739114, 0.3138409288132234],
]
"""NSS, CC, MIT_KLDiv and SIM of pysaliency 0.2.22 (``pysaliency.metrics``), for the maps of ``cases``."""


def cases():
    """Densities (3, H, W), the third with ties and zeros, truths (3, H, W) and points of 20 fixations each."""
    draw, densities, truths, points = np.random.default_rng(1), [], [], []
    for i in range(3):
        density, truth = draw.random(SIZE) ** 4, draw.random(SIZE) ** 8
        density = np.round(density * 3) if i == 2 else density
        densities.append(density / density.sum())
        truths.append(truth / truth.sum())
        xs, ys = draw.integers(0, 12, 20), draw.integers(0, 9, 20)
        points.append(torch.tensor(np.stack([xs + 0.25, ys + 0.75], 1)))
    return torch.tensor(np.stack(densities)), torch.tensor(np.stack(truths)), points


def test_the_measures_are_those_of_pysaliency():
    densities, truths, points = cases()
    counts = count_fixations(points, SIZE)
    assert counts.max() > 1  # several fixations in one pixel count several times
    found = [
        nss(densities, counts), correlation(densities, truths), kl_divergence(densities, truths),
        similarity(densities, truths),
    ]  # fmt: skip
    for n, values in enumerate(found):
        tolerance = 1e-6 if n == 2 else 1e-12  # pysaliency rounds ε to 2.2204e-16
        assert values.tolist() == pytest.approx([row[n] for row in KNOWN], rel=tolerance)
    one = nss(densities, counts.clamp(max=1))  # the twin: each pixel once
    assert (one - found[0]).abs()[:2].min() > 1e-3


def test_a_point_is_in_the_pixel_around_it():
    points = torch.tensor([[0.0, 0.0], [2.999, 1.0], [2.0, 1.999], [4.0, 2.0]])
    counts = count_fixations([points, points[:0]], (2, 4))
    assert counts.tolist() == [[[1, 0, 0, 0], [0, 0, 2, 1]], [[0] * 4] * 2]  # on the border: the last pixel


def test_nss_by_hand():
    density = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]], dtype=torch.float64)
    counts = torch.tensor([[[0, 1], [0, 2]]], dtype=torch.float64)
    # mean 0.25, sd √0.0125: (−0.05 + 2·0.15) / 3 over it
    assert nss(density, counts).item() == pytest.approx(0.25 / 3 / 0.0125**0.5)


def test_kl_by_hand_and_its_direction():
    truth, density = torch.tensor([[[[0.5, 0.5, 0.0]]], [[[0.25, 0.25, 0.5]]]], dtype=torch.float64)
    assert kl_divergence(density, truth).item() == pytest.approx(math.log(2), abs=1e-12)
    assert kl_divergence(truth, density).item() == pytest.approx(0.5 * math.log(0.5) + 0.5 * 52 * math.log(2), abs=1)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_that_of_scikit_learn(ties):
    draw = torch.Generator().manual_seed(3)
    values = torch.rand(4, *SIZE, generator=draw, dtype=torch.float64)
    values = (values * 4).floor() / 4 if ties else values
    positives, negatives = (torch.randint(0, 3, values.shape, generator=draw).double() for _ in range(2))
    for name, found, others in (
        ("given", auc(values, positives, negatives), negatives),
        ("Judd", auc_judd(values, positives), (positives == 0).double()),
    ):
        for n in range(4):
            labels = torch.cat([torch.ones(values[n].numel()), torch.zeros(values[n].numel())])
            weights = torch.cat([positives[n].flatten(), others[n].flatten()])
            known = roc_auc_score(labels, values[n].flatten().repeat(2), sample_weight=weights)
            assert found[n].item() == pytest.approx(known, rel=1e-12), name


def test_auc_by_hand():
    density = torch.tensor([[[0.1, 0.2, 0.2, 0.5]]], dtype=torch.float64)
    counts = torch.tensor([[[0, 2, 0, 1]]], dtype=torch.float64)
    # negatives 0.1 and 0.2; each fixation at 0.2 beats one and ties with one, that at 0.5 beats both
    assert auc_judd(density, counts).item() == (2 * 1.5 + 2) / 6
    elsewhere = torch.tensor([[[0, 0, 0, 3]]], dtype=torch.float64)
    assert auc(density, counts, elsewhere).item() == (2 * 0 + 0.5) / 3


def test_blur_is_that_of_scipy():
    counts = torch.zeros(2, 15, 11, dtype=torch.float64)
    counts[0, 0, 10], counts[0, 7, 3], counts[1, 14, 0] = 2, 1, 3  # at corners too
    found = normalise(blur(counts, 1.7))
    for n in range(2):
        known = gaussian_filter(counts[n].numpy(), 1.7, mode="constant", truncate=30)
        torch.testing.assert_close(found[n], torch.from_numpy(known / known.sum()), rtol=1e-10, atol=1e-15)
        other = gaussian_filter(counts[n].numpy(), 1.7, mode="nearest", truncate=30)  # the twin
        assert (found[n] - torch.from_numpy(other / other.sum())).abs().max() > 1e-3


def test_the_gaussian_at_the_centre():
    density = gaussian_at_centre((4, 7), 1.5)[0]
    assert density.sum().item() == pytest.approx(1)
    torch.testing.assert_close(density, density.flip(0, 1), rtol=1e-12, atol=0)
    assert density.argmax().item() % 7 == 3
    assert (density[1, 5] / density[1, 3]).item() == pytest.approx(math.exp(-0.5 * (2 / 1.5) ** 2))


def uniform():
    return torch.full((1, *SIZE), 1 / (SIZE[0] * SIZE[1]), dtype=torch.float64)


def one_pixel():
    return count_fixations([torch.full((7, 2), 3.5)], SIZE)


def test_a_constant_density_is_chance():
    density, counts = uniform(), count_fixations(cases()[2][:1], SIZE)
    truth = normalise(blur(counts, 1.0))
    assert nss(density, counts).item() == correlation(density, truth).item() == correlation(truth, density).item() == 0
    assert auc_judd(density, counts).item() == auc(density, counts, counts.flip(2)).item() == 0.5
    assert kl_divergence(density, density).item() == pytest.approx(0, abs=1e-12)
    assert similarity(density, density).item() == pytest.approx(1)


def test_all_fixations_in_one_pixel():
    counts = one_pixel()
    density = normalise(counts)
    n = density.numel()
    assert nss(density, counts).item() == pytest.approx((n - 1) ** 0.5)  # the largest NSS of n pixels
    assert auc_judd(density, counts).item() == 1
    assert kl_divergence(density, density).item() == pytest.approx(0, abs=1e-12)
    assert correlation(density, density).item() == pytest.approx(1)
    elsewhere = normalise(counts.flip(2))
    assert nss(elsewhere, counts).item() == pytest.approx(-1 / (n - 1) ** 0.5)
    assert kl_divergence(elsewhere, density).item() == pytest.approx(52 * math.log(2))
    assert auc_judd(elsewhere, counts).item() == pytest.approx(0.5 * (n - 2) / (n - 1))
    assert similarity(elsewhere, density).item() == 0


def test_one_fixation_at_the_border():
    counts = count_fixations([torch.tensor([[11.9, 8.9]])], SIZE)
    density = normalise(blur(counts, 2.0))
    assert density.sum().item() == pytest.approx(1)
    assert density.argmax().item() == density.numel() - 1
    assert auc_judd(density, counts).item() == 1


def test_an_image_without_fixations_has_no_score():
    counts = torch.cat([torch.zeros(1, *SIZE, dtype=torch.float64), one_pixel()])
    density = normalise(torch.rand(2, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    for values in (nss(density, counts), auc_judd(density, counts), auc(density, counts, counts.flip(2))):
        assert values.isnan().tolist() == [True, False]
    truth = normalise(blur(counts, 1.0))
    torch.testing.assert_close(truth[:1], uniform(), rtol=1e-12, atol=0)
    assert auc(density, one_pixel().expand_as(counts), 0 * counts).isnan().all()


def test_correlation_is_that_of_scipy():
    densities, truths, _ = cases()
    known = [pearsonr(a.flatten(), b.flatten()).statistic for a, b in zip(densities, truths, strict=True)]
    assert correlation(densities, truths).tolist() == pytest.approx(known, rel=1e-12)
