"""Report of an artificial study: run folders with randomly initialised networks, without training."""

import html
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_results import arm
from markupsafe import escape
from PIL import Image
from safetensors.numpy import save_file

import saccade
from saccade.cli.report import command
from saccade.cost import measure
from saccade.data import open_data
from saccade.errors import UserError
from saccade.models import create_host
from saccade.recipe import Recipe
from saccade.saving import save
from saccade.study.collecting import collect
from saccade.study.plan import Study
from saccade.study.report import write_report, writing
from saccade.study.report.charts import subsample
from saccade.study.report.sections import pictures
from saccade.study.report.typeset import (
    NARROW_SPACE,
    format_signed,
    typeset_sentence,
)
from saccade.surgery import plug_control
from saccade.tasks.base import Box, Drawing
from saccade.tasks.classify import Classify

ARMS = (arm("none"), arm("se"), arm("das"), arm("das", "extra"))
TOP1 = {"none": (70, 65, 75), "se": (72.5, 65, 72.5), "das": (85, 82.5, 87.5), "extra for das": (70, 67.5, 72.5)}
CLASSES = ["<script>alert(1)", 'a"&b', "c"]  # in the order of the folders
SIZE, TEST, EPOCHS = 17, 40, 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of noise, one of them named by someone who means harm."""
    home = tmp_path_factory.mktemp("data") / "<photos>"
    rng = np.random.default_rng(5)
    for part, each in (("train", 4), ("test", 14)):
        for name in CLASSES:
            folder = home / part / name
            folder.mkdir(parents=True)
            for i in range(each - 2 * (part == "test" and name == "c")):
                Image.fromarray(rng.integers(0, 256, (19, 23, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return home


def _network(arm, size=(SIZE, SIZE)):
    torch.manual_seed(3)
    net = create_host(Recipe().model, num_classes=3, channels=3)
    if arm.control is not None:
        return plug_control(net, arm.control, arm.mechanism, input=(3, *size))
    return net if arm.name == "none" else saccade.plug(net, arm.mechanism, input=(3, *size), start="paper")


def _study(
    folder, source, arms=ARMS, top1=TOP1, seeds=(0, 1, 2), missing=(), failed=(), diverged=(), costs=True,
    epochs=EPOCHS, size=(SIZE, SIZE),
):  # fmt: skip
    base = Recipe().with_overrides({"data.source": str(source), "data.size": size, "training.epochs": epochs})
    study = Study(base, arms, seeds, folder)
    study.write()
    labels = np.repeat(np.arange(3), (14, 14, 12)).astype(np.int32)
    for run in study.runs():
        key = (run.arm.name, run.seed)
        if key in missing:
            continue
        run.folder.mkdir(parents=True)
        (run.folder / "recipe.toml").write_text(run.recipe.to_toml())
        if key in failed:
            (run.folder / "failed.json").write_text(json.dumps({"reason": "the process was ended by <signal 9>"}))
            continue
        score = top1[run.arm.name][run.seed]
        net = _network(run.arm, size)
        predicted = labels.copy()
        wrong = np.random.default_rng(run.seed).permutation(TEST)[: round((100 - score) * TEST / 100)]
        predicted[wrong] = (predicted[wrong] + 1) % 3
        nll = np.where(predicted == labels, 0.1, 2.0 + run.seed).astype(np.float32)
        rows = {"predicted": predicted, "label": labels, "rank": (predicted != labels).astype(np.int32), "nll": nll}
        save_file(rows, run.folder / "rows.safetensors")
        save(net, run.folder, input=(3, *size), classes=CLASSES)
        sites = {row.site: 0.1 * k for k, row in enumerate(saccade.plugs(net))}
        kind, start = ("gate", 0.5) if run.arm.control is None else ("context", 0.0)
        rows = [
            {
                "epoch": e, "losses": {"cross-entropy": 1.0}, "lr": 0.1, "seconds": 1.0, "memory_mb": None,
                "scores": {"top-1": 33.0 + (score - 33.0) * e / epochs, "NLL": 1.0},
                "gates": {s: {"kind": kind, "mean": start + m * e / epochs, "std": 0.05, "a": None}
                          for s, m in sites.items()},
            }
            for e in range(epochs + 1)
        ]  # fmt: skip
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run.folder / "environment.json").write_text(json.dumps({"device": "cpu", "packages": {"torch": "2.x"}}))
        by_class = [100.0 * float((predicted == labels)[labels == k].mean()) for k in range(3)]
        done = {"task": "classify", "metric": "top-1", "scores": {"top-1": score, "NLL": float(nll.mean())},
                "by_class": {"top-1": by_class}, "epochs": epochs, "seconds": 12.5 + run.seed, "parameters": 1234,
                "trivial": {"answer": "the most frequent class", "scores": {"top-1": 35.0, "NLL": 1.1}},
                "start": "paper", "diverged": {"message": "the loss of epoch 3 is nan"} if key in diverged else None,
                }  # fmt: skip
        (run.folder / "done.json").write_text(json.dumps(done))
    if costs:
        times = {"median": 2.0, "low": 1.9, "high": 2.3, "runs": 50}
        facts = {"trainable": 1, "latency_ms": times, "batch": 1, "threads": 1, "device": "cpu",
                 "batched": {"batch": 16, "latency_ms": times}}  # fmt: skip
        costs_ = {a.name: {"parameters": 1000 * k, "macs": 10**6 * k, **facts} for k, a in enumerate(arms, 7)}
        (folder / "costs.json").write_text(json.dumps(costs_))
    return study


@pytest.fixture(scope="module")
def whole(tmp_path_factory, photos):
    """A complete study with its report."""
    folder = tmp_path_factory.mktemp("study") / "whole"
    _study(folder, photos)
    write_report(folder)
    return folder / "report.html"


@pytest.fixture(autouse=True)
def gates_of_whole(monkeypatch):
    """Measure constant gates in ``whole`` only; each other study would take a second."""
    measure_gates = writing.gates_of_results
    monkeypatch.setattr(
        writing,
        "gates_of_results",
        lambda results, *rest: measure_gates(results, *rest) if results.name == "whole" else (),
    )


def _page(folder):
    """Return the page of the study in ``folder``, rebuilt."""
    write_report(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


VOID = {"meta", "link", "br", "wbr", "hr", "img", "input"}


class Reader(HTMLParser):
    """Checks that every tag is closed in its order, and keeps the text of each section."""

    def __init__(self, page):
        super().__init__()
        self.open, self.sections, self.resources, self.here = [], {}, [], "head"
        self.skip = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.resources += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action") and v]
        if tag == "section":
            self.here = attributes["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.sections[self.here] = self.sections.get(self.here, "") + data

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.sections.values()))


def test_page_is_complete_and_self_contained(whole):
    page = whole.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    reader = Reader(page)
    assert reader.open == []
    assert len(page.encode()) < 1_000_000
    assert [link for link in reader.resources if not link.startswith(("data:", "#"))] == []
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page
    assert "prefers-color-scheme: dark" in page
    assert {link for link in reader.resources if link.startswith("#")} <= {
        f"#{name}" for name in re.findall(r' id="([^"]+)"', page)
    }


def test_every_chart_is_well_formed_and_finite(whole):
    page = whole.read_text(encoding="utf-8")
    starts = [m.start() for m in re.finditer(r'<svg class="(?:chart|strip|plane)', page)]
    assert len(starts) > 20
    for start in starts:
        depth, end = 0, start
        for tag in re.finditer(r"<(/?)svg\b[^>]*>", page[start:]):
            depth += -1 if tag[1] else 1
            if depth == 0:
                end = start + tag.end()
                break
        ElementTree.fromstring(page[start:end].replace("&#8239;", " "))
    assert not re.search(r'="[^"]*\b(?:nan|inf)\b', page)


def test_page_shows_every_verdict(whole):
    results = json.loads(whole.with_name("results.json").read_text())
    text = Reader(whole.read_text(encoding="utf-8")).text
    sentences = [row["sentence"] for row in results["analysis"]["differences"]]
    assert len(sentences) == 3
    for sentence in sentences:
        assert re.sub(r"\s+", " ", typeset_sentence(sentence)) in text
    assert "das: helps." in text
    assert "first look" in text


def test_every_section_shows_every_arm(whole):
    sections = Reader(whole.read_text(encoding="utf-8")).sections
    for section in (
        "verdicts", "difference", "tradeoff", "other_metrics", "by_class", "learning", "gates", "cost", "pictures",
        "runs",
    ):  # fmt: skip
        for each in ARMS[1:] if section in ("verdicts", "difference", "gates") else ARMS:
            assert each.name in sections[section], f"{each.name} in {section}"
    assert list(sections)[-2:] == ["method", "origin"]


def test_gates_are_held(whole):
    section = Reader(whole.read_text(encoding="utf-8")).sections["constant_gates"]
    arms = json.loads(whole.with_name("constant_gates.json").read_text())
    assert [(row["arm"], row["n_images"], row["n_gates"]) for row in arms] == [("se", TEST, 4), ("das", TEST, 4)]
    for row in arms:
        assert [gate["path"] for gate in row["gates"]] == ["all gates", *_sites(row["arm"])]
        assert format_signed(row["gates"][1]["other"]["difference"]) in section
    assert "extra for das" not in section
    assert "all 40 test images" in section


def _sites(name):
    return [row.site for row in saccade.plugs(_network(next(arm for arm in ARMS if arm.name == name)))]


def test_names_are_escaped(whole):
    page = whole.read_text(encoding="utf-8")
    for name in CLASSES[:2]:
        assert escape(name) in page
        assert name not in page
    assert "&lt;photos&gt;" in page
    assert "<photos>" not in page


def test_rebuilt_page_is_identical(whole):
    names = ("report.html", "table.md", "table.tex", "results.json", "constant_gates.json")
    before = {name: whole.with_name(name).read_bytes() for name in names}
    write_report(whole.parent)
    assert {name: whole.with_name(name).read_bytes() for name in before} == before
    assert not [p for p in whole.parent.iterdir() if p.name.startswith(".") and p.name != ".lock"]


def test_scores_change_the_charts(whole, tmp_path, photos):
    other = dict(TOP1, das=(87.5, 82.5, 87.5))
    _study(tmp_path / "study", photos, top1=other)
    pages = [whole.read_text(encoding="utf-8"), _page(tmp_path / "study")]
    for section in ("difference", "tradeoff", "learning"):
        first, second = (
            re.findall(
                r"<svg.*", page[page.index(f'id="{section}"') : page.index("</section>", page.index(f'id="{section}"'))]
            )
            for page in pages
        )
        assert first != second, section
    first, second = (page[(at := page.index('id="gates"')) : page.index("</section>", at)] for page in pages)
    assert first == second  # the gates moved as before


def test_runs_without_a_score_are_listed(tmp_path, photos):
    _study(tmp_path / "study", photos, missing=[("das", 2)], failed=[("se", 1)], diverged=[("se", 2)])
    page = _page(tmp_path / "study")
    text = Reader(page).text
    assert "3 of 12 runs have no score" in text
    assert "das seed 2 has not run yet" in text
    assert "se seed 1 failed (the process was ended by <signal 9>)" in text
    assert "<signal" not in page
    assert "se seed 2 diverged" in text
    assert "9 of 12 finished" in text


def test_plug_that_ignores_the_image_is_reported(tmp_path, photos, whole):
    said = "se: the gate is the same for every test image at layer1.0.bn2 (seed 1); the plug ignores the image there."
    assert "same for every test image" not in whole.read_text(encoding="utf-8")
    study = _study(tmp_path / "s", photos, arms=ARMS[:2], seeds=(0, 1))
    path = study.run(study.arms[1], 1).folder / "done.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"constant": {"layer1.0.bn2": "gate"}}))
    assert f"<li>{said}</li>" in _page(study.folder)
    assert said in (study.folder / "table.md").read_text(encoding="utf-8").replace("\\", "")


def test_page_without_a_finished_plain_host_has_no_verdict(tmp_path, photos):
    _study(tmp_path / "study", photos, arms=ARMS[:2], seeds=(0,), missing=[("none", 0)])
    page = _page(tmp_path / "study")
    assert "nothing to compare with" in page
    assert 'id="difference"' not in page
    assert Reader(page).open == []


def test_page_of_one_seed_or_of_diverged_runs(tmp_path, photos):
    _study(tmp_path / "one", photos, arms=ARMS[:2], seeds=(0,))
    page = _page(tmp_path / "one")
    assert "no interval" in page
    assert Reader(page).open == []
    _study(tmp_path / "broken", photos, arms=ARMS[:2], seeds=(0,), diverged=[("none", 0), ("se", 0)])
    reader = Reader(_page(tmp_path / "broken"))
    assert reader.open == []
    assert "none seed 0 diverged" in reader.text


def test_page_of_a_long_training_is_small(tmp_path, whole):
    folder = shutil.copytree(whole.parent, tmp_path / "study")
    for path in folder.rglob("metrics.jsonl"):
        long = json.dumps([json.loads(line) for line in path.read_text().splitlines()])
        rows = [json.loads(long)[-1] for _ in range(301)]
        for epoch, row in enumerate(rows):  # no two epochs alike, so that no curve is flat
            row.update({key: value * (1 - 1 / (epoch + 2)) for key, value in row.items() if isinstance(value, float)})
            row["epoch"] = epoch
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(_page(folder).encode()) < 1_000_000
    assert subsample(range(301), 4) == [0, 100, 200, 300]
    assert subsample([1, 2, 3], 3) == [1, 2, 3]


def test_no_finished_run_is_refused(tmp_path, photos):
    _study(tmp_path / "study", photos, arms=ARMS[:2], seeds=(0,), missing=[("none", 0), ("se", 0)])
    with pytest.raises(UserError, match=r"no run of this study is finished \(2 planned\)"):
        write_report(tmp_path / "study")
    assert sorted(p.name for p in (tmp_path / "study").iterdir() if p.is_file()) == ["costs.json", "study.toml"]
    with pytest.raises(UserError, match=r"study\.toml"):
        write_report(tmp_path)


def test_page_without_the_images(tmp_path, photos):
    _study(tmp_path / "study", tmp_path / "gone", arms=ARMS[:2], seeds=(0, 1))
    text = Reader(_page(tmp_path / "study")).text
    assert "No images:" in text
    assert "gone" in text
    assert "se" in text


def test_page_with_changed_images(tmp_path, photos):
    study = _study(tmp_path / "study", photos, arms=ARMS[:2], seeds=(0, 1))
    now = open_data(study.base.data, "label").fingerprint
    for fingerprint, changed in ((now, False), ("0" * 16, True)):
        for run in study.runs():
            done = json.loads((run.folder / "done.json").read_text())
            (run.folder / "done.json").write_text(json.dumps(done | {"fingerprint": fingerprint}))
        text = Reader(_page(tmp_path / "study")).text
        assert ("No images:" in text) == ("changed since the runs were made" in text) == changed


def test_costs_are_measured_once(tmp_path, photos, monkeypatch):
    monkeypatch.setattr("saccade.cost.measure", partial(measure, seconds=0.01))
    _study(tmp_path / "study", photos, arms=ARMS[:2], seeds=(0,), costs=False)
    write_report(tmp_path / "study")
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    for name in ("none", "se"):
        cost = results["arms"][name]["cost"]
        assert cost["parameters"] == sum(
            p.numel() for p in _network(next(a for a in ARMS if a.name == name)).parameters()
        )
        assert cost["batch"] == 16
    before = (tmp_path / "study" / "costs.json").read_bytes()
    write_report(tmp_path / "study")
    assert (tmp_path / "study" / "costs.json").read_bytes() == before
    write_report(tmp_path / "study", remeasure=True)
    assert (tmp_path / "study" / "costs.json").read_bytes() != before


def test_markdown_table(whole):
    lines = whole.with_name("table.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [len(row) for row in rows] == [8] * 6
    assert [row[0] for row in rows[2:]] == [arm.name for arm in ARMS]
    assert rows[2][1:4] == ["70.00 ± 5.00", "", ""]
    assert rows[4][1] == "85.00 ± 2.50"
    assert rows[4][2].startswith("+15.00 [+")
    assert rows[4][4] == "helps"
    assert rows[5][4].endswith("(control)")
    assert rows[4][5:] == [f"9.000{NARROW_SPACE}k", f"9.000{NARROW_SPACE}M", "2.00"]
    typeset = whole.with_name("table.tex").read_text(encoding="utf-8")
    assert r"  das & 85.00 $\pm$ 2.50 & +15.00 {[}+" in typeset
    assert typeset.count(r" \\" + "\n") == 5
    assert "A shuffled mechanism" not in whole.read_text(encoding="utf-8")


def test_controls_are_explained(tmp_path, photos):
    arms = (*ARMS[:3], arm("das", "noise"), arm("das", "shuffled"))
    top1 = TOP1 | {"noise for das": (70, 65, 75), "shuffled for das": (72.5, 70, 75)}
    page = _page(_study(tmp_path / "study", photos, arms=arms, top1=top1).folder)
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert list(results["study"]["controls"]) == ["noise", "shuffled"]
    told = re.findall(r"<b>(\w+)</b>: ([^<]*)\.", re.findall(r'<p class="controls">(.*)</p>', page)[0])
    assert {kind: html.unescape(text) for kind, text in told} == results["study"]["controls"]
    assert {row["name"] for row in results["analysis"]["differences"] if row["is_control"]} == set(top1) - set(TOP1)
    assert "starts at zero" not in page
    assert (
        "A shuffled mechanism uses the gate of the image in the next row; in the last row, of the first image." in page
    )


def test_command(whole, tmp_path):
    told = CliRunner().invoke(command, [str(whole.parent)])
    assert told.exit_code == 0
    assert told.output.strip() == str(whole)
    told = CliRunner().invoke(command, [str(whole.parent), "--json"])
    assert json.loads(told.output) == json.loads(whole.with_name("results.json").read_text())
    assert isinstance(CliRunner().invoke(command, [str(tmp_path)]).exception, UserError)


@pytest.mark.parametrize(("max_side", "smooth", "is_large"), [(16, True, True), (16, False, False), (32, True, False)])
def test_heat_maps_of_photographs_are_large(tmp_path, whole, monkeypatch, max_side, smooth, is_large):
    def draw(self, indices, network):
        return [Drawing("a map", picture=Image.new("L", (17, 17)), smooth=smooth) for _ in indices]

    monkeypatch.setattr(pictures, "MAX_SIDE", max_side)
    monkeypatch.setattr(Classify, "draw", draw)
    page = collect(whole.parent).report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert (' large" style' in page.replace("\n", " ")) == is_large
    assert ('class="plane answered smooth"' in page) == smooth


def test_boxes_are_drawn_beside_the_truth(tmp_path, whole, monkeypatch):
    def draw(self, indices, network):
        if network is None:
            return [Drawing("1 c", boxes=(Box(0.0, 0.0, 0.5, 0.5, 2, "c"),)) for _ in indices]
        found = (Box(0.1, 0.1, 0.6, 0.6, 0, "<a> 0.51"),)
        return [Drawing("found", boxes=found if k else ()) for k, _ in enumerate(indices)]

    monkeypatch.setattr(Classify, "draw", draw)
    page = collect(whole.parent).report(tmp_path / "page.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="pictures"') :].partition("</section>")[0]
    assert section.count('class="plane boxes"') == 6 * 5
    assert section.count("<title>c</title>") == 6
    assert section.count("<title>&lt;a&gt; 0.51</title>") == 5 * 4
    assert re.findall(r'</svg>([^<]*)</span>\n', section.partition('<div class="scroll')[0]) == [
        "&lt;script&gt;alert(1)", "c"]  # fmt: skip
    assert "Below: the prediction of each network, and the truth in the first column." in section
    assert 'class="scroll pictures large"' in section
    assert 'pictures large"' not in whole.read_text(encoding="utf-8")


def test_drawn_predictions_keep_the_aspect_of_the_images(tmp_path, photos, whole, monkeypatch):
    def draw(self, indices, network):
        colour = 0 if network is None else 200
        return [Drawing("a mask", None, Image.new("L", (23, 17), colour + k)) for k, _ in enumerate(indices)]

    study = _study(tmp_path / "s", photos, arms=ARMS[:2], seeds=(0, 1), size=(17, 23))
    monkeypatch.setattr(Classify, "draw", draw)
    painted, plain = (
        page[page.index('<section id="pictures"') :].partition("</section>")[0]
        for page in (_page(study.folder), whole.read_text(encoding="utf-8"))
    )
    assert painted.count('class="plane answered"') == 6 * 3
    assert len(set(re.findall(r'class="plane answered".*?href="([^"]+)"', painted))) == 12
    assert "--aspect: 1.353;" in painted
    assert "Below: the prediction of each network, and the truth in the first column." in painted
    assert not re.search(r"\b(right|wrong): ", painted)
    assert "--aspect: 1.000;" in plain
    assert "answered" not in plain
    assert "boxes" not in plain
    assert "swatch" not in plain
    assert re.search(r"\b(right|wrong): ", plain)
