"""Simulated studies find what they should; the whole table takes ``benchmarks/simulation.py``."""

import json

import numpy as np
import pytest
from example_studies import analyse, draw

import simulated_images
import simulation
from saccade.study.blocks import Design, compute_verdicts, fit
from saccade.study.precision import seeds_needed, standard_error


class TestSimulation:
    """Of a thousand studies, a share of p per cent has a standard error of sqrt(p(100-p)/1000): 0.7 at 5, 1.3 at 80."""

    def figures(self, kind="normal", arms=4, seeds=3, **changes):
        layout = simulation.Layout.even(arms, seeds)
        return simulation.simulate(kind, layout, 1000, simulation.Scale(), np.random.default_rng(22), **changes)

    @pytest.mark.parametrize(("seeds", "image_variance"), [(3, 0.0), (5, 0.0), (3, 0.5), (5, 2.0)])
    @pytest.mark.parametrize("kind", ["normal", "t5", "skewed"])
    def test_keeps_its_word(self, kind, seeds, image_variance):
        figures = self.figures(kind, seeds=seeds, image_variance=image_variance)
        assert 1.5 < figures.any_false <= 7
        assert 93.5 <= figures.coverage <= 96.5
        assert 76 <= figures.found_planned <= 84
        assert 75 <= figures.found_stated <= 85
        assert figures.false_equal <= 4

    @pytest.mark.parametrize("seeds", [2, 3])
    def test_controls_do_not_make_it_lie(self, seeds):
        figures = self.figures(arms=6, seeds=seeds, controls=2)
        assert figures.any_false <= 7
        assert 93.5 <= figures.coverage <= 96.5
        assert 75 <= figures.found_stated <= 85

    def test_without_holm_it_would_lie(self):
        def uncorrected(*args, family, **rest):
            return compute_verdicts(*args, family=np.zeros_like(family), **rest)

        assert self.figures(judging=uncorrected).any_false > 9

    def test_with_the_normal_instead_of_t_it_would_lie(self):
        def normal(differences, se, df, **rest):
            return compute_verdicts(differences, se, 10**7, **rest)

        figures = self.figures(judging=normal)
        assert figures.coverage < 92
        assert figures.any_false > 8

    def test_with_runs_counted_as_degrees_of_freedom_it_would_lie(self):
        def runs(from_seeds, df, images):
            return standard_error(from_seeds * np.sqrt(6 / 11), np.full_like(df, 11), images)

        figures = self.figures(error=runs)
        assert figures.coverage < 90
        assert figures.any_false > 8

    def test_with_the_larger_error_alone_it_would_lie(self):
        def larger(from_seeds, df, images):
            se = np.maximum(from_seeds, np.sqrt(images.squared))
            return se, np.broadcast_to(df, se.shape), np.sqrt(images.squared)

        figures = self.figures(seeds=5, image_variance=1.0, error=larger)
        assert figures.coverage < 92
        assert figures.any_false > 7.5

    def test_with_the_degrees_of_freedom_of_the_seeds_it_would_be_too_wide(self):
        def sums(from_seeds, df, images):
            se, _, lasts = standard_error(from_seeds, df, images)
            return se, np.broadcast_to(df, se.shape), lasts

        assert self.figures(arms=3, image_variance=2.0, error=sums).coverage > 97

    def test_unlike_arms_and_missing_runs(self):
        layout = simulation.Layout.uneven(3)
        assert np.square(layout.spread).mean() == pytest.approx(1)
        assert layout.spread.max() / layout.spread.min() == pytest.approx(2)
        assert (~layout.present).sum() == 3
        figures = simulation.simulate("t5", layout, 1000, simulation.Scale(), np.random.default_rng(22))
        assert figures.any_false <= 7
        assert 93.5 <= figures.coverage <= 96.5
        assert figures.lowest_coverage < 92  # of the widest arm, which this study cannot know

    def test_the_drawn_variances_are_those_of_normal_columns(self):
        """Against whole columns: mean, spread and correlation of the variances of differences to the first column."""
        rng = np.random.default_rng(26)
        columns = rng.standard_normal((20_000, 3, 6))
        real = (columns[:, 1:] - columns[:, :1]).var(axis=2, ddof=1) / 2
        drawn = simulation.variances_of_differences(20_000, 3, 5, rng)
        assert drawn.mean(axis=0) == pytest.approx([1, 1], abs=0.03)
        assert drawn.var(axis=0) == pytest.approx(real.var(axis=0), rel=0.1)
        assert np.corrcoef(drawn.T)[0, 1] == pytest.approx(np.corrcoef(real.T)[0, 1], abs=0.04)
        assert np.corrcoef(drawn.T)[0, 1] > 0.15

    def test_the_seeds_named_would_decide(self):
        """With the seeds asked for, four studies in five decide, by difference or by equality."""
        scale = simulation.Scale(sigma=0.8)
        for difference, ways in ((1.3, {"helps"}), (0.1, {"equal", "helps", "hurts"})):
            seeds = seeds_needed(difference, sigma=scale.sigma, seeds=3, arms=4, mechanisms=3, margin=1.0)
            design = Design.from_present(np.ones((4, seeds)))
            noise = scale.sigma * simulation.noise("normal", (1000, 4, seeds), np.random.default_rng(23))
            noise[:, 1] += difference
            fitted = fit(noise, design)
            tests = compute_verdicts(
                fitted.differences[:, 1:],
                fitted.se[:, 1:],
                design.difference_df[1:],
                family=np.ones(3),
                margin=1.0,
                alpha=0.05,
            )
            assert 0.76 <= np.isin(tests.verdict[:, 0], list(ways)).mean() <= 0.90

    def test_whole_test_sets_are_read_as_they_are(self):
        figures = simulated_images.simulate_images(5, 300, 400, np.random.default_rng(24), taste=1.0, run_sd=0.05)
        assert 1 < figures.image_variance < 3
        assert 90 < figures.read < 115
        assert figures.any_false < 8
        assert figures.coverage > 93.5
        assert figures.coverage_seeds < figures.coverage_larger < figures.coverage - 2

    def test_the_scale_of_a_measured_study(self, tmp_path):
        rng = np.random.default_rng(25)
        correct = {name: rng.random((10, 300)) < 0.9 for name in ("none", "m1", "m2", "m3")}
        analysis = analyse(draw(25, seeds=10, sigma=0.6), correct=correct)
        path = tmp_path / "results.json"
        path.write_text(json.dumps({"analysis": analysis.to_json()}))
        scale = simulation.measured(path, None)
        assert (scale.sigma, scale.seed_sd, scale.images) == (analysis.sigma, analysis.seed_sd, 300)
        path.write_text(json.dumps({"analysis": analyse(draw(25, seeds=9)).to_json()}))
        with pytest.raises(SystemExit, match="9 seeds"):
            simulation.measured(path, 300)
        with pytest.raises(SystemExit, match="gives no scale"):
            simulation.measured(tmp_path / "nowhere.json", None)
