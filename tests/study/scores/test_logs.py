"""Logs of Ultralytics, timm, Lightning and other trainers."""

import pytest
from score_files import ARMS, lightning, table, timm, ultralytics

from saccade import UserError, judge


class TestLogs:
    @pytest.mark.parametrize("padded", [False, True])
    def test_ultralytics(self, tmp_path, padded):
        paths = [
            ultralytics(tmp_path / f"{arm}-seed{seed}" / "results.csv", [0.9, 0.1, s], padded)
            for arm, own in table().items() for seed, s in enumerate(own)
        ]  # fmt: skip
        found = judge(paths)
        assert found.metric.name == "metrics/mAP50-95(B)"
        assert [row.scores for row in found.arms] == [tuple(own) for own in table().values()]
        assert (found.analysis.differences, found.margin) == (judge(table()).analysis.differences, 0.01)
        assert found.scored_epoch == "the last epoch"
        assert "mAP50-95(B) of the last epoch" in found.report(tmp_path / "r.html").read_text()
        said = " ".join(note.text for note in found.notes)
        assert "The last epoch of every run is scored. The best epoch would be chosen on the images" in said
        assert found.origin["Column"].startswith("metrics/mAP50-95(B), chosen by its name; not read: ")
        assert found.origin["se, seed 1"] == str(paths[4])

    def test_masks_and_classes_of_ultralytics(self, tmp_path):
        masks = [
            f"{arm}:{seed}={ultralytics(tmp_path / f'm{arm}{seed}' / 'results.csv', [s], end='(M)')}"
            for arm, own in table().items() for seed, s in enumerate(own)
        ]  # fmt: skip
        assert judge(masks).metric.name == "metrics/mAP50-95(M)"
        assert judge(masks).arms[0].scores == tuple(table()["none"])
        assert judge(masks, metric="metrics/mAP50-95(B)").arms[0].mean == pytest.approx(0.1)
        with pytest.raises(UserError, match=r"'mAP50-95' may be metrics/mAP50-95\(B\) or metrics/mAP50-95\(M\)"):
            judge(masks, metric="mAP50-95")
        classes = [
            ultralytics(tmp_path / f"{arm}_s{seed}" / "results.csv", [s], task="classify")
            for arm, own in table().items() for seed, s in enumerate(own)
        ]  # fmt: skip
        found = judge(classes)
        assert (found.metric.name, found.metric.unit) == ("metrics/accuracy_top1", "")
        assert found.analysis.differences == judge(table()).analysis.differences

    def test_timm(self, tmp_path):
        percent = {arm: [100 * s for s in own] for arm, own in table().items()}
        paths = [
            timm(tmp_path / arm / f"seed{seed}" / "summary.csv", [10.0, 99.0, s])
            for arm, own in percent.items() for seed, s in enumerate(own)
        ]  # fmt: skip
        found = judge(paths)
        assert (found.metric.name, found.metric.unit, found.margin) == ("eval_top1", "%", 1.0)
        assert [row.scores for row in found.arms] == [tuple(own) for own in percent.values()]
        loss = judge(paths, metric="eval_loss")
        assert (loss.metric.higher_is_better, loss.arms[0].mean) == (False, pytest.approx(1 / 3))
        with pytest.raises(UserError, match=r"has no column 'eval_tpo1'\. Did you mean 'eval_top1'"):
            judge(paths, metric="eval_tpo1")

    def test_lightning(self, tmp_path):
        paths = [
            lightning(tmp_path, arm, [0.2, s], version=seed)
            for arm, own in table().items()
            for seed, s in enumerate(own)
        ]
        text = paths[0].read_text()
        assert ",," in text, "rows of training and of validation have empty cells"
        found = judge(paths)
        assert found.metric.name == "val_acc"
        assert found.analysis.differences == judge(table()).analysis.differences
        assert "seed is the number of the logger's version folder" in "\n".join(note.text for note in found.notes)
        tested = [
            lightning(tmp_path, f"{arm}-seed{seed}", [0.2], test=s)
            for arm, own in table().items() for seed, s in enumerate(own)
        ]  # fmt: skip
        found = judge(tested)
        assert (found.metric.name, found.arms[0].scores) == ("test_acc", tuple(table()["none"]))
        assert [note.text for note in found.notes if "version" in note.text] == []

    def test_runs_that_ended_early_are_named(self, tmp_path):
        named = [
            f"{a}:{s}={ultralytics(tmp_path / f'{a}{s}.csv', [0.5] * (5 - (a == 'se')))}" for a in ARMS for s in (0, 1)
        ]
        (note,) = (note.text for note in judge(named).notes if "before the others" in note.text)
        assert note == ("Some runs ended before the others, which ended at epoch 5: se seed 0 at 4, se seed 1 at 4.")

    def test_a_log_of_an_unknown_trainer(self, tmp_path):
        named = []
        for arm, own in table().items():
            for seed, s in enumerate(own):
                path = tmp_path / f"{arm}-seed{seed}.csv"
                path.write_text(f"epoch,quality,speed\n1,0.1,3\n2,{s},4\n")
                named.append(path)
        with pytest.raises(UserError, match="name the column of the scores with --metric: quality, speed"):
            judge(named)
        assert judge(named, metric="quality").arms[1].scores == tuple(table()["se"])
