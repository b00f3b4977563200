"""Strip pooling by hand. σ(ln k) = k / (1 + k)."""

from math import log

import pytest

from by_hand import equals, gates, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)


def test_rows_and_columns_are_added():
    # means of rows (ln 2, −ln 9), of columns (0, ln 2 − ln 9) -> (0, −ln 4.5); sums (ln 2, ·; ·, ·) through the ReLU
    spm = create("spm", 1)
    spm = with_values(spm, rows__weight=[0, 1, 0], rows_bn__weight=[1], columns__weight=[0, 1, 0],
                      columns_bn__weight=[1], mix__weight=[1])  # fmt: skip
    x = image([[2 * LN2, 1e-30], [-2 * LN2, 2 * LN3]])
    # rows: (ln 2, ln 3 − ln 2); columns: (0, ln 3); sums: (ln 2, ln 6; ln 1.5, ln 4.5)
    equals(gates(spm(x), x), [[2 / 3, 6 / 7, 3 / 5, 9 / 11]])


@pytest.mark.parametrize(("kernel_size", "reached"), [(3, 2), (5, 3)])
def test_the_length_of_the_strip_convolutions(kernel_size, reached):
    # The last tap alone: row h reads row h + half, zero outside. Row means are ln 3: gates 3/4 up to there, then 1/2.
    last = [0] * (kernel_size - 1) + [1]
    spm = with_values(create("spm", 1, kernel_size=kernel_size), rows__weight=last, rows_bn__weight=[1],
                      mix__weight=[1])  # fmt: skip
    x = image([[LN3]] * 4)
    equals(gates(spm(x), x), [[3 / 4] * (5 - reached) + [1 / 2] * (reached - 1)])
