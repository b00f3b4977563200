"""How a result is laid out follows the map: ``F.conv2d`` decides it so, and under ``torch.vmap`` it is asked too."""

import pytest
import torch
import torch.nn.functional as F

from saccade.ops.memory_format import match_memory_format, memory_format

LAST, FIRST = torch.channels_last, torch.contiguous_format


MAPS = [
    ((2, 3, 4, 5), lambda x: x, FIRST),
    ((2, 3, 4, 5), lambda x: x.contiguous(memory_format=LAST), LAST),
    ((2, 3, 4, 5), lambda x: x.mT.contiguous().mT, FIRST),  # neither
    ((2, 3, 4, 5), lambda x: x.repeat_interleave(2, 3)[..., ::2], FIRST),
    ((2, 1, 4, 5), lambda x: x.contiguous(memory_format=LAST), FIRST),  # both
    ((2, 3, 1, 1), lambda x: x.contiguous(memory_format=LAST), FIRST),  # both
    ((2, 3, 1, 5), lambda x: x.contiguous(memory_format=LAST), LAST),
    ((1, 3, 4, 5), lambda x: x.contiguous(memory_format=LAST), LAST),
    ((0, 3, 4, 5), lambda x: x, FIRST),
]


@pytest.mark.parametrize(("shape", "turned", "wanted"), MAPS)
def test_it_is_what_a_convolution_decides(shape, turned, wanted):
    x = turned(torch.randn(shape))
    assert memory_format(x) == wanted
    if 1 not in shape[1:]:
        assert F.conv2d(x, torch.randn(3, shape[1], 1, 1)).is_contiguous(memory_format=wanted)
    y = torch.randn(shape)
    assert match_memory_format(y, x).is_contiguous(memory_format=wanted)
    torch.testing.assert_close(match_memory_format(y, x), y, rtol=0, atol=0)


def test_it_is_asked_of_each_of_many_maps_at_once():
    many = torch.randn(3, 2, 4, 5, 6)
    for maps in (many, many.movedim(2, 4).contiguous().movedim(4, 2)):
        torch.testing.assert_close(torch.vmap(lambda x: match_memory_format(2 * x, x))(maps), 2 * maps, rtol=0, atol=0)
