"""Equal tuning: every arm chooses among the same values with the same budget, anew for each judged seed."""

import json
from contextlib import suppress
from dataclasses import replace

import fake_training
import pytest
from made_results import context, made

from saccade import Recipe, UserError
from saccade.events import ignore
from saccade.study.arms import Arm, arms
from saccade.study.plan import Study
from saccade.study.report import sections
from saccade.study.report.page import render_page
from saccade.study.tuning import ArmTuning, Tuning, TuningResult, read_tuning

RATES = tuple({"training.lr": rate} for rate in (0.03, 0.1, 0.3))


@pytest.fixture(autouse=True)
def _threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the fake training reports it


def plan(folder, steps=RATES, repeats=1, seeds=(0, 1), controls=("extra",), others=(), **options):
    recipe = Recipe().with_overrides({"data.options": options, "training.lr": 0.1})
    return Tuning(Study(recipe, arms(["se"], controls, others), seeds, folder), tuple(steps), repeats)


def execute(study):
    """Execute the unfinished runs in this process; return their number."""
    if not study.check_folder():
        study.write()
    todo = [run for run in study.runs() if run.done_record is None]
    for run in todo:
        with suppress(ValueError):
            fake_training.by_rate(run.recipe, run.folder, device="cpu", notify=ignore)
    return len(todo)


class TestPlan:
    def test_scoring_on_validation_images_is_refused(self):
        study = Study(Recipe().with_overrides({"data.score_on": "val"}), arms(["se"]), (0, 1), "s")
        with pytest.raises(UserError, match=r"score_on = 'val' would judge the arms by the images they are tuned on"):
            Tuning(study, RATES)

    def test_an_arm_that_sets_the_parent_of_a_tuned_key_is_refused(self):
        steps = [{"model.options.width": width} for width in (8, 16)]
        with pytest.raises(UserError, match=r"the arm 'wide' sets model\.options itself, which is tuned"):
            plan("s", steps, others={"wide": {"model.options": {"width": 32}}})
        assert plan("s", steps, others={"wide": {"model.options.depth": 3}})

    def test_every_arm_has_the_same_budget_and_its_runs_are_scored_on_validation_images(self):
        found = plan("s", repeats=2)
        runs = found.tuning_study.runs()
        assert len(runs) == 3 * 3 * 2 * 2
        for mechanism, control in (("none", None), ("se", None), ("se", "extra")):
            own = [run for run in runs if (run.arm.mechanism, run.arm.control) == (mechanism, control)]
            assert sorted((run.seed, run.recipe.training.lr) for run in own) == [
                (seed, rate) for seed in (2, 3, 4, 5) for rate in (0.03, 0.1, 0.3)
            ]
        assert {run.recipe.data.score_on for run in runs} == {"val"}
        assert {run.recipe.data.score_on for run in found.study.runs()} == {"test"}

    def test_tuning_seeds_differ_from_judged_seeds(self):
        found = plan("s", repeats=2, seeds=(7, 3))
        assert (list(found.seeds(7)), list(found.seeds(3))) == ([8, 9], [10, 11])
        assert not set(found.tuning_study.seeds) & set(found.study.seeds)

    def test_an_arm_of_another_model_tries_every_value_too(self):
        steps = [{"model.options.drop_rate": rate} for rate in (0.0, 0.1)]
        trials = plan("s", steps, others=["wide: model=resnet50"]).tuning_study
        tried = {(run.arm.name.partition(",")[0], run.recipe.model.options["drop_rate"]) for run in trials.runs()}
        assert {rate for name, rate in tried if name == "wide"} == {0.0, 0.1}

    def test_arms_with_the_default_value_keep_their_names(self):
        names = [arm.name for arm in plan("s").tuning_study.arms]
        assert names[:3] == ["none", "se", "extra for se"]
        assert names[3:5] == ["none, lr=0.03", "se, lr=0.03"]
        other = plan("s", [{"training.lr": rate} for rate in (3.0, 1.0)])
        assert other.tuning_study.base.training.lr == 1.0, (
            "the recipe's own value is not in the grid: the first of the grid takes its place"
        )
        assert other.grid == ({"training.lr": 1.0}, {"training.lr": 3.0})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": RATES[:1]}, "at least two values to choose from; found 1"),
            ({"steps": [*RATES, RATES[0]]}, r"lr=0\.03 is given twice"),
            ({"repeats": 0}, "0 tuning runs of each value"),
            ({"others": ["fast: training.lr=1.0"]}, r"'fast' sets training\.lr itself, which is tuned"),
            ({"others": ["tuning: attention=das"]}, "would have the folder of the tuning runs"),
            ({"seeds": (2**63 - 2,), "repeats": 2}, "leaves no seeds above it"),
        ],
    )
    def test_wrong_plans_are_refused(self, change, message):
        with pytest.raises(UserError, match=message):
            plan("s", **change)


class TestChoice:
    def test_each_seed_chooses_by_its_own_tuning_runs(self, tmp_path):
        found = plan(tmp_path / "s", seeds=(0, 1, 2))  # tuning seeds 3, 4, 5; seed 4 likes another rate
        execute(found.tuning_study)
        chosen = {
            arm.name: [arm.by_seed[seed]["training.lr"] for seed in (0, 1, 2)] for arm in found.tuned_study().arms
        }
        assert chosen == {"none": [0.1, 0.03, 0.1], "se": [0.3, 0.03, 0.3], "extra for se": [0.3, 0.03, 0.3]}

    def test_the_judged_runs_have_what_was_chosen_and_all_training_images(self, tmp_path):
        found = plan(tmp_path / "s")
        execute(found.tuning_study)
        study = found.tuned_study()
        assert execute(study)
        assert Study.open(study.folder) == study
        rates = {(run.arm.name, run.seed): run.recipe.training.lr for run in study.runs()}
        assert (rates["none", 0], rates["se", 0]) == (0.1, 0.3)
        assert [run.recipe.data for run in study.runs() if run.recipe.data != found.study.base.data] == []
        assert study.arms[1].shares_host(study.base)
        assert not (set(study.folder.iterdir()) ^ {study.folder / n for n in (
            "study.toml", "tuning", "none", "se", "extra-for-se")})  # fmt: skip

    def test_tuning_continues_where_it_stopped(self, tmp_path):
        found = plan(tmp_path / "s")
        assert found.check_folder() is False
        execute(found.tuning_study)
        assert found.check_folder() is True
        assert execute(found.tuning_study) == 0
        assert execute(found.tuned_study()) == 6
        assert found.check_folder() is True
        assert execute(found.tuned_study()) == 0

    def test_judged_runs_use_the_settings_decided_for_tuning(self, tmp_path):
        found = plan(tmp_path / "s")
        study = replace(found.study, base=found.study.base.with_overrides({"training.memory_format": "auto"}))
        found = replace(found, study=study)
        settings = {"training.memory_format": "channels_last"}
        trials = found.tuning_study.decide({"settings": settings, "step_ms": {"channels_last": 1.0}, "batch": 8})
        execute(trials)
        assert found.study.undecided()  # the twin
        judged = found.tuned_study()
        assert {run.recipe.training.memory_format for run in judged.runs()} == {"channels_last"}
        assert execute(judged) == 6
        assert execute(found.tuned_study()) == 0

    def test_a_folder_of_another_study_is_refused(self, tmp_path):
        found = plan(tmp_path / "s")
        execute(found.tuning_study)
        with pytest.raises(UserError, match="holds another study"):
            plan(tmp_path / "s", RATES[:2]).check_folder()
        with pytest.raises(UserError, match="holds 'tuning'"):
            found.study.check_folder()
        execute(found.tuned_study())
        with pytest.raises(UserError, match=r"arms\.none\.seed\.0\.training\.lr is 0\.1 there and not set here"):
            found.study.check_folder()
        with pytest.raises(UserError, match="margin is not set there and"):
            Tuning(Study(found.study.base, found.study.arms, (0, 1), tmp_path / "s", 2.0), RATES).check_folder()
        found.study.write()
        with pytest.raises(UserError, match="holds a study that is not tuned"):
            found.check_folder()

    def test_no_choice_before_all_runs_are_finished(self, tmp_path):
        found = plan(tmp_path / "s", fail=0.3)
        assert execute(found.tuning_study) == 18
        with pytest.raises(UserError, match=r"3 of 18 tuning runs are not finished.*give the same command again"):
            found.tuned_study()
        assert execute(found.tuning_study) == 3
        assert len(found.tuned_study().arms) == 3

    def test_a_value_that_diverges_is_not_chosen(self, tmp_path):
        steps = [{"training.lr": rate} for rate in (0.2, 10.0)]
        found = plan(tmp_path / "s", steps)
        execute(found.tuning_study)
        arm = found.choices()[0]
        assert arm.scores[1] == (None, None)
        assert arm.chosen_indices == (0, 0)
        lost = plan(tmp_path / "t", [{"training.lr": 10.0}, {"training.lr": 0.2}])
        assert lost.grid[0] == {"training.lr": 0.2}, "in rising order"

    def test_an_unknown_metric_is_refused(self, tmp_path):
        found = plan(tmp_path / "s")
        execute(found.tuning_study)
        path = found.tuning_study.runs()[0].folder / "done.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metric": "taste"}))
        with pytest.raises(
            UserError, match="the tuning runs were scored on classify by taste and classify by top-1; remove"
        ):
            found.tuned_study()

    def test_the_direction_of_the_metric_counts(self, tmp_path):
        found = plan(tmp_path / "s")
        execute(found.tuning_study)
        for run in found.tuning_study.runs():
            path = run.folder / "done.json"
            done = json.loads(path.read_text())
            path.write_text(json.dumps(done | {"metric": "NLL", "scores": {"NLL": done["scores"]["top-1"]}}))
        assert found.choices()[0].chosen_indices == (2, 2)

    def test_a_tie_keeps_the_default(self):
        found = plan("s")
        top1 = type("Metric", (), {"higher_is_better": True})
        assert found._choose(((1.0, 1.0),) * 3, 0, top1) == 1
        assert found._choose(((1.0, 1.0), (1.0, 1.0), (1.0, 1.1)), 1, top1) == 2


class TestTuned:
    def test_results_are_read_back(self, tmp_path):
        found = plan(tmp_path / "s", repeats=2)
        execute(found.tuning_study)
        study = found.tuned_study()
        study.write()
        assert read_tuning(Study.open(study.folder)) == TuningResult(found, found.choices())
        plain = read_tuning(Study.open(study.folder)).to_json()
        assert json.loads(json.dumps(plain)) == plain
        assert plain["runs_of_each_arm"] == 12
        assert plain["seeds"] == {"0": [2, 3], "1": [4, 5]}
        assert plain["arms"]["se"]["chosen"]["0"] == {"training.lr": 0.3}
        assert len(plain["arms"]["none"]["scores"]) == 3
        assert read_tuning(found.study) is None
        other = replace(study.arms[1], by_seed={0: {"training.lr": 0.7}, 1: {"training.lr": 0.1}})
        with pytest.raises(UserError, match="'se' has settings that its tuning runs do not have"):
            read_tuning(replace(study, arms=(study.arms[0], other, study.arms[2])))

    def test_values_that_are_lists(self, tmp_path):
        found = plan(tmp_path / "s", [{"data.augment": names} for names in (["flip"], ["flip", "crop"])])
        execute(found.tuning_study)
        study = found.tuned_study()
        study.write()
        again = read_tuning(Study.open(study.folder))
        assert again == TuningResult(found, found.choices())
        assert again.grid_edge_notes() == []

    @pytest.mark.parametrize(
        ("picks", "said"),
        [
            (
                [(1, 1, 1), (2, 2, 1)],
                ["training.lr = 0.3, the highest value tried, was chosen for most seeds by se;"],
            ),
            (
                [(0, 0, 2), (0, 0, 0)],
                ["training.lr = 0.03, the lowest value tried, was chosen for most seeds by none"],
            ),
            ([(0, 1, 2), (1, 2, 1)], []),
        ],
    )
    def test_values_at_the_edge_of_the_grid_are_reported(self, picks, said):
        found = TuningResult(plan("s"), tuple(ArmTuning(n, (), p) for n, p in zip(("none", "se"), picks, strict=True)))
        assert [a[: len(b)] for a, b in zip(found.grid_edge_notes(), said, strict=True)] == said

    def test_seeds_that_diverge_with_every_value_are_reported(self):
        kept = ((1.0, 2.0), (None, 3.0), (4.0, 5.0))
        lost = ((None, 2.0), (None, 3.0), (None, None))
        own = [ArmTuning("none", kept, (0, 0)), ArmTuning("se", lost, (1, 1)), ArmTuning("extra for se", kept, (0, 0))]
        assert TuningResult(plan("s"), tuple(own)).divergence_notes() == [
            "se diverged with every value tried for the seeds 0; lr=0.1 was used."
        ]

    def test_text_values_have_no_edge(self):
        words = plan("s", [{"training.optimizer": word} for word in ("sgd", "adamw")])
        assert TuningResult(words, (ArmTuning("none", (), (1, 1)),)).grid_edge_notes() == []


def test_by_seed_settings_are_checked(tmp_path):
    with pytest.raises(UserError, match="settings for the seed 7, which the study does not have"):
        Study(Recipe(), (Arm("none", {}, {7: {"training.lr": 1.0}}),), (0,), tmp_path)
    with pytest.raises(UserError, match=r"the arm 'none': training\.lr"):
        Study(Recipe(), (Arm("none", {}, {0: {"training.lr": -1.0}}),), (0,), tmp_path)
    Study(Recipe(), (Arm("none", {}, {0: {"training.lr": 1.0}}),), (0,), tmp_path).write()
    path = tmp_path / "study.toml"
    path.write_text(path.read_text().replace("{ 0 = {", "{ first = {"))
    with pytest.raises(UserError, match="by_seed of the arm 'none' is for first; seeds are needed"):
        Study.open(tmp_path)


def test_the_report_shows_the_choices():
    scores = {"none": [70.0, 65.0], "se": [72.5, 66.0]}
    plain = made(scores)
    of = Tuning(plain.study, RATES)
    arms = (
        ArmTuning("none", ((60.0, 62.0), (70.0, 72.0), (71.0, 60.0)), (2, 1)),
        ArmTuning("se", ((60.0, 62.0), (70.0, 72.0), (None, None)), (1, 1)),
    )
    content = sections.ordered()["tuning"].content
    assert content(context(plain)) is None
    told = context(replace(plain, tuned=TuningResult(of, arms)))
    rows = [cells for _, cells in content(told)["rows"]]
    assert rows[0] == [("61.00 ± 1.41", 0), ("71.00 ± 1.41", 1), ("65.50 ± 7.78", 1)]
    assert rows[1][1:] == [("71.00 ± 1.41", 2), ("– (2 diverged)", 0)]
    assert content(told)["runs"] == 6
    method = sections.ordered()["method"].content
    assert "same number of training runs" in method(told)["method"]
    assert "same number of training runs" not in method(context(plain))["method"]
    assert "chosen for 2" in render_page(told)


def test_a_folder_with_only_tuning_runs_is_reported(tmp_path):
    execute(plan(tmp_path / "s").tuning_study)
    with pytest.raises(UserError, match="holds only tuning runs so far; give the command that started the study again"):
        Study.open(tmp_path / "s")
