"""Classification studies give the figures of version 0.1.

The figures are those of version 0.1, to 11 digits: for each study (sigma, df, SD between seeds, largest residual), then
for each arm, with the test images and without, (difference, low, high, se, se_images, df, p, p_holm, detectable,
verdict, seeds_needed, images_needed).
"""

import numpy as np
import pytest
from example_studies import analyse, rows

STUDIES = {  # arms, seeds, images, level, taste, missing runs, controls, margin
    "first look": (4, 3, 120, 2.0, 0.6, (), (), 1.0),
    "missing runs": (5, 5, 400, 1.5, 0.5, ((1, 2), (0, 0), (3, 1)), ("m3",), 2.0),
    "two of two": (2, 2, 50, 1.0, 0.0, (), (), 5.0),
    "apart": (5, 4, 800, np.array([0.5, 1.0, 0.0, 0.5, 0.55])[:, None, None], 0.3, ((2, 0), (2, 1), (4, 3)), (), 3.0),
    "all agree": (3, 5, 2000, 50.0, 0.0, (), (), 1.0),
    "one seed": (3, 1, 60, 1.0, 0.2, (), (), 1.0),
}

# fmt: off
FOUND = {
    "first look": (
        (2.1336515966, 6, 0.0, 1.8411492358),
        {
            "m1": (-2.2222222222, -7.5777094471, 3.1332650026, 2.5412726666, 1.8056004447,
                   17.259294259, 0.39387766722, 0.78775533444, 8.9291131757, "not decided", None, True),
            "m2": (-2.7777777778, -7.5807348687, 2.0251793131, 2.2483854464, 1.5105449453,
                   14.627986331, 0.23613622469, 0.70840867408, 8.0247920079, "not decided", None, True),
            "m3": (-1.1111111111, -5.7577611145, 3.5355388923, 2.1712150434, 1.4474130953,
                   14.333451712, 0.61662175721, 0.78775533444, 7.7659025861, "not decided", None, True),
        },
        {
            "m1": (-2.2222222222, -6.657544791, 2.2131003465, 1.7882599922, 0.0,
                   5.6842105263, 0.26279434474, 0.52558868949, 7.6228347809, "not decided", 23, False),
            "m2": (-2.7777777778, -6.9083282849, 1.3527727293, 1.6653801619, 0.0,
                   5.6842105263, 0.14911478433, 0.44734435298, 7.0990336287, "not decided", 13, False),
            "m3": (-1.1111111111, -5.125102179, 2.9028799567, 1.6183850271, 0.0,
                   5.6842105263, 0.51937034337, 0.52558868949, 6.8987069707, "not decided", 70, False),
        },
    ),
    "missing runs": (
        (1.822359347, 13, 0.0, 2.1095860201),
        {
            "m1": (3.1666666667, -0.37989905525, 6.7132323886, 1.6854532892, 0.80331263818,
                   17.614724351, 0.076920800804, 0.23076240241, 5.9117687646, "not decided", 28, False),
            "m2": (1.2583333333, -1.7099153485, 4.2265820152, 1.4394961501, 0.87150962755,
                   24.423743738, 0.39055213219, 0.78110426438, 4.9330080742, "not decided", None, True),
            "m3": (0.13333333333, -3.1662656277, 3.4329322944, 1.5866347123, 0.87014556249,
                   20.9988036, 0.93382436085, 0.93382436085, 4.662637254, "not decided", None, True),
            "m4": (0.60833333333, -2.5188205336, 3.7354872003, 1.5159946901, 0.91459951473,
                   24.249897679, 0.69173062732, 0.78110426438, 5.1973737334, "not decided", None, True),
        },
        {
            "m1": (3.1666666667, -0.084787483911, 6.4181208172, 1.4817022628, 0.0,
                   11.277108434, 0.055282435813, 0.16584730744, 5.4565676263, "not decided", 10, False),
            "m2": (1.2583333333, -1.2622075072, 3.7788741739, 1.1456963539, 0.0,
                   11.040201005, 0.29544322524, 0.59088645048, 4.2317921491, "not decided", 40, False),
            "m3": (0.13333333333, -2.7780853019, 3.0447519685, 1.3267465509, 0.0,
                   11.277108434, 0.921714652, 0.921714652, 4.0718799792, "not decided", 19, False),
            "m4": (0.60833333333, -2.0515366391, 3.2682033057, 1.2090275547, 0.0,
                   11.040201005, 0.62473921025, 0.62473921025, 4.4657149313, "not decided", 27, False),
        },
    ),
    "two of two": (
        (2.0, 1, 0.0, 1.0),
        {
            "m1": (2.0, -12.191479856, 16.191479856, 2.7196414661, 1.8429459309,
                   1.673000304, 0.55127822915, 0.55127822915, 17.220232883, "not decided", None, True),
        },
        {
            "m1": (2.0, -23.412409472, 27.412409472, 2.0, 0.0,
                   1.0, 0.5, 0.5, 28.165173313, "not decided", 10, False),
        },
    ),
    "apart": (
        (2.3698356272, 9, 1.4201671973, 1.920508172),
        {
            "m1": (10.5, 6.6066054898, 14.39339451, 1.7170160167, 0.39023094956,
                   8.8620755175, 0.00018753525913, 0.00075014103652, 6.8793850537, "helps", None, False),
            "m2": (-7.4268617021, -12.27739984, -2.5763235638, 2.1292973732, 0.23198549866,
                   8.6070321026, 0.0073391902301, 0.02201757069, 8.5821235541, "hurts", None, False),
            "m3": (2.4375, -1.7396276276, 6.6146276276, 1.8257325376, 0.24733271528,
                   8.3802238403, 0.21697926098, 0.43395852197, 7.4001045412, "not decided", 30, False),
            "m4": (0.58244680851, -4.1536348806, 5.3185284976, 2.0801566057, 0.36816713319,
                   8.6356300124, 0.78606741224, 0.78606741224, 8.3783115937, "not decided", 25, False),
        },
        {
            "m1": (10.5, 6.655171878, 14.344828122, 1.6720836724, 0.0,
                   8.1336898396, 0.00022200278385, 0.00088801113542, 6.8215558479, "helps", None, False),
            "m2": (-7.4268617021, -12.263687978, -2.5900354262, 2.1166223168, 0.0,
                   8.4418604651, 0.0073270732334, 0.0219812197, 8.5657643971, "hurts", None, False),
            "m3": (2.4375, -1.7219309762, 6.5969309762, 1.808901829, 0.0,
                   8.1336898396, 0.21414862701, 0.42829725402, 7.3797292882, "not decided", 27, False),
            "m4": (0.58244680851, -4.1184593245, 5.2833529416, 2.047316406, 0.0,
                   8.2025316456, 0.78308322836, 0.78308322836, 8.3368662848, "not decided", 21, False),
        },
    ),
    "all agree": (
        (0.0, 8, 2.1813777711e-14, None),
        {
            "m1": (0.0, -0.138535811, 0.138535811, 0.070640038081, 0.070640038081,
                   1999.0, 1.0, 1.0, 0.21791700296, "equal", None, False),
            "m2": (0.0, -0.138535811, 0.138535811, 0.070640038081, 0.070640038081,
                   1999.0, 1.0, 1.0, 0.21791700296, "equal", None, False),
        },
        {
            "m1": (0.0, 0.0, 0.0, 0.0, 0.0,
                   7.3962264151, 1.0, 1.0, 0.0, "equal", None, False),
            "m2": (0.0, 0.0, 0.0, 0.0, 0.0,
                   7.3962264151, 1.0, 1.0, 0.0, "equal", None, False),
        },
    ),
    "one seed": (
        (None, 0, None, None),
        {
            "m1": (1.6666666667, None, None, None, None,
                   None, None, None, None, "not decided", None, False),
            "m2": (20.0, None, None, None, None,
                   None, None, None, None, "not decided", None, False),
        },
        {
            "m1": (1.6666666667, None, None, None, None,
                   None, None, None, None, "not decided", None, False),
            "m2": (20.0, None, None, None, None,
                   None, None, None, None, "not decided", None, False),
        },
    ),
}
# fmt: on

SENTENCES = {
    "first look": (
        "m1: not decided. -2.2 points (95 % interval -7.6 to +3.1, 3 seeds); this study could have detected "
        "differences of 8.9 points; no number of seeds would decide, more test images would."
    ),
    "missing runs": (
        "m1: not decided. +3.2 points (95 % interval -0.4 to +6.7, 3 seeds); this study could have detected "
        "differences of 5.9 points; about 28 seeds would decide."
    ),
    "two of two": (
        "m1: not decided. +2.0 points (95 % interval -12.2 to +16.2, 2 seeds); this study could have detected "
        "differences of 17.2 points; no number of seeds would decide, more test images would."
    ),
    "apart": "m1: helps. +10.5 points (95 % interval +6.6 to +14.4, 4 seeds, Holm p < 0.001).",
    "all agree": (
        "m1: equal to none within ±1.0 points. +0.0 points (95 % interval -0.1 to +0.1, 5 seeds): it can be left out."
    ),
    "one seed": (
        "m1: not decided. +1.7 points against none. One seed does not measure the variation between runs: use two or "
        "more."
    ),
}


def study(name):
    """Scores and right answers by arm; drawn by RandomState, whose stream is frozen."""
    arms, seeds, images, level, taste, lost, controls, margin = STUDIES[name]
    rng = np.random.RandomState(sum(map(ord, name)))
    names = ["none", *(f"m{a}" for a in range(1, arms))]
    skill = level + 1.5 * rng.randn(1, 1, images) + taste * rng.randn(arms, 1, images)
    right = skill + 0.1 * rng.randn(arms, seeds, 1) + rng.randn(arms, seeds, images) > 0
    scores = 100.0 * right.mean(axis=2)
    for a, s in lost:
        scores[a, s] = np.nan
    return dict(zip(names, scores, strict=True)), dict(zip(names, right, strict=True)), set(controls), margin


def known(numbers):
    return [np.nan if number is None else number for number in numbers]


@pytest.mark.parametrize("name", STUDIES)
def test_figures_equal_those_of_version_0_1_to_nine_digits(name):
    scores, right, controls, margin = study(name)
    fit, *found = FOUND[name]
    for correct, expected in zip((right, None), found, strict=True):
        analysis = analyse(scores, correct=correct, controls=controls, margin=margin)
        seen = (analysis.sigma, analysis.df, analysis.seed_sd, analysis.largest_residual)
        assert known(seen) == pytest.approx(known(fit), rel=1e-9, abs=1e-9, nan_ok=True)
        assert list(rows(analysis)) == list(expected)
        for arm, row in rows(analysis).items():
            numbers = (row.difference, row.low, row.high, row.se, row.se_images, row.df, row.p, row.p_holm)
            expected_numbers = pytest.approx(known(expected[arm][:9]), rel=1e-9, abs=1e-9, nan_ok=True)
            assert known((*numbers, row.detectable)) == expected_numbers
            assert (row.verdict, row.seeds_needed, row.images_needed) == expected[arm][9:]
        if correct:
            assert analysis.differences[0].sentence() == SENTENCES[name]
