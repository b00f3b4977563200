"""Agreement of heat maps with fixations: by the measures of the task, and NaN without fixations."""

import pytest
import torch

from saccade.errors import UserError
from saccade.metrics.fixations import auc, blur, correlation, count_fixations, gaussian_at_centre, nss
from saccade.metrics.gaze import centre_agreement, gaze_agreement

SIZE = (6, 8)
POINTS = [torch.tensor([[3.6, 2.2], [4.4, 3.9], [4.1, 3.0]]), torch.tensor([[0.5, 0.5]]), torch.zeros(0, 2)]


def maps():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, *SIZE, generator=generator)


def test_the_measures_are_those_of_fixations():
    counts, negatives = count_fixations(POINTS, SIZE), torch.ones(SIZE, dtype=torch.float64)
    found = gaze_agreement(maps(), POINTS, 1.5, negatives)
    density = maps().double()
    wanted = {
        "NSS": nss(density, counts),
        "CC": correlation(density, blur(counts, 1.5)),
        "shuffled AUC": auc(density, counts, negatives.expand_as(counts)),
    }
    for name, values in wanted.items():
        torch.testing.assert_close(found[name][:2], values[:2])
        assert found[name][2].isnan()
    assert "shuffled AUC" not in gaze_agreement(maps(), POINTS)
    assert (gaze_agreement(maps(), POINTS, 0.4)["CC"] - found["CC"]).abs()[:2].min() > 1e-3


def test_the_scale_of_a_map_does_not_matter():
    found, scaled = (gaze_agreement(values, POINTS) for values in (maps(), 0.3 * maps() + 0.5))
    for name, values in found.items():
        torch.testing.assert_close(scaled[name], values, equal_nan=True, atol=1e-6, rtol=1e-6)
    looked_at = count_fixations(POINTS, SIZE)
    assert gaze_agreement(looked_at, POINTS)["AUC-Judd"][:2].tolist() == [1.0, 1.0]
    assert gaze_agreement(-looked_at, POINTS)["AUC-Judd"][:2].tolist() == [0.0, 0.0]


def test_the_centre_agrees_with_fixations_near_it():
    found = centre_agreement(POINTS, SIZE)
    assert found["NSS"][0] > 0.5 > -0.5 > found["NSS"][1]
    torch.testing.assert_close(found["NSS"][:1], nss(gaussian_at_centre(SIZE, 1.5), count_fixations(POINTS[:1], SIZE)))


def test_arguments_that_do_not_fit():
    with pytest.raises(UserError, match=r"the maps have shape \(3, 6, 8\); \(2, H, W\) is needed"):
        gaze_agreement(maps(), POINTS[:2])
    with pytest.raises(UserError, match=r"negatives have shape \(8, 6\)"):
        gaze_agreement(maps(), POINTS, negatives=torch.ones(8, 6))
