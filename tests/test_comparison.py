"""``saccade.compare`` with a user's own network, in a script, a notebook and a module."""

from pathlib import Path

import pytest
import torch

import saccade
from saccade import UserError, builders
from saccade.comparison import _design
from saccade.events import StudyPlanned

TINY = {
    "training.epochs": 1, "data.size": 16, "data.train_images": 60, "data.test_images": 40, "training.batch_size": 30,
}  # fmt: skip
NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, channels, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.deep(self.stem(x)).mean((2, 3)))
"""
SCRIPT = f"""
import saccade
from net import Net

def build(num_classes, in_chans):
    return Net(num_classes, in_chans)

results = saccade.compare(
    "digits", build, ["none", "se", "das"], seeds=2, slots=1, device="cpu", out="study", settings={TINY}
)
print([arm.arm.name for arm in results.arms], results.complete)
"""
"""Without ``if __name__ == "__main__"``."""
NOTEBOOK = f"""
{NETWORK}
import saccade
make = lambda num_classes, in_chans: Net(num_classes, in_chans, WIDTH)
results = saccade.compare("digits", make, "se", seeds=1, slots=1, device="cpu", out="study", settings={TINY})
print(results.complete)
trained = saccade.load("study/se/seed0")
print([row.site for row in saccade.plugs(trained)])
"""
"""Nothing of it can be imported: neither the class nor the function."""


def test_a_script_compares_mechanisms_on_a_network_of_its_own(tmp_path, warm_python):
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "script.py").write_text(SCRIPT)
    assert len(SCRIPT.strip().splitlines()) <= 15
    done = warm_python(["script.py"], tmp_path)
    assert done.stdout == "['none', 'se', 'das'] True\n", done.stderr
    assert done.stderr.count("6/6") == 1, "the progress is on stderr, and no worker ran the script again"
    report = (tmp_path / "study/report.html").read_text()
    assert "lies in no module" not in report
    assert report.count('class="plane"') > 10, "pictures of the networks in the session that passed the function"
    assert (tmp_path / "study/costs.json").exists()
    assert saccade.Recipe.load(tmp_path / "study/se/seed0/recipe.toml").model.name == "__main__:build"
    with pytest.raises(UserError, match=r"'__main__:build', which was passed to saccade and lies in no module; give"):
        saccade.load(tmp_path / "study/se/seed0")
    again = warm_python(["-m", "saccade", "report", "study"], tmp_path)
    assert again.returncode == 0, again.stderr
    assert "lies in no module" in (tmp_path / "study/report.html").read_text()


def test_a_notebook_and_the_same_with_other_code(tmp_path, warm_python):
    done = warm_python(["-"], tmp_path, text="WIDTH = 16\n" + NOTEBOOK)
    assert done.stdout.splitlines() == ["True", "['stem.2', 'deep.2']"], done.stderr
    skipped = warm_python(["-"], tmp_path, text="WIDTH = 16  # the same\n" + NOTEBOOK)
    assert "2 of 2 runs are already finished" in skipped.stderr
    other = warm_python(["-"], tmp_path, text="WIDTH = 24\n" + NOTEBOOK)
    assert "study holds another study: recipe.model.code is" in other.stderr
    assert "the code of the function that builds the host changed" in other.stderr


def test_a_module_by_its_name_on_the_command_line(tmp_path, warm_python):
    builder = "\ndef build(num_classes, in_chans, width=16):\n    return Net(num_classes, in_chans, width)\n"
    (tmp_path / "my_nets.py").write_text(NETWORK + builder)
    words = "compare --model my_nets:build --attention se --seeds 1 --slots 1 --device cpu --out study"
    settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    words = ["-m", "saccade", *words.split(" "), *settings]
    done = warm_python([*words, "--set", "model.options.width=24"], tmp_path)
    assert done.returncode == 0, done.stderr
    recipe = saccade.Recipe.load(tmp_path / "study/none/seed0/recipe.toml")
    assert (recipe.model.name, recipe.model.options) == ("my_nets:build", {"width": 24})
    code = (
        "import saccade\ntry:\n    saccade.load('study/se/seed0')\nexcept saccade.UserError as e:\n    print(e)\n"
        "print(saccade.load('study/se/seed0', trust=['my_nets:build']).head)"
    )
    said = warm_python(["-c", code], tmp_path).stdout
    assert "names the host 'my_nets:build', which is not one of Saccade's" in said
    assert "Linear(in_features=24" in said
    (tmp_path / "my_nets.py").write_text((tmp_path / "my_nets.py").read_text().replace("3, 2, 1", "5, 2, 2"))
    changed = warm_python([*words, "--set", "model.options.width=24"], tmp_path)
    assert changed.returncode == 2
    assert "the code of the function that builds the host changed" in changed.stderr


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def plain(num_classes, in_chans):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(num_classes))


def test_keywords_are_those_of_the_command_line(desk):
    design = _design(
        "digits", {"name": "resnet18", "options": {"drop_rate": 0.1}}, ["se", "das:alpha=0.5"], seeds=[4, 2],
        controls=["extra:se"], arms={"wide": {"model": "resnet34", "attention": "se"}, "mine": {"model": plain}},
        settings={"training.epochs": 3}, margin=2.0, out="here", slots=2, skip_bad=True, task="classify",
    )  # fmt: skip
    study = design.study
    assert [arm.name for arm in study.arms] == ["none", "se", "das:alpha=0.5", "wide", "mine", "extra for se"]
    assert (study.seeds, study.margin, study.folder) == ((4, 2), 2.0, Path("here"))
    base = study.base
    assert (base.model.name, base.model.options, base.training.epochs) == ("resnet18", {"drop_rate": 0.1}, 3)
    assert (base.data.skip_bad, base.task.name) == (True, "classify")
    assert study.arms[3].recipe(base, 0).model.model_dump(exclude_none=True)["options"] == {}
    own = study.arms[4].recipe(base, 0).model
    assert builders.find_builder((own.name, own.code)) is plain
    assert list(design.events) == [
        StudyPlanned(
            Path("here"), "none, se, das:alpha=0.5, wide, mine, extra for se × 2 seeds = 12 runs, 2 at a time -> here"
        )
    ]
    assert own.name in design.trust
    assert not list(desk.iterdir())


def test_lists_and_texts_mean_the_same(desk):
    one = _design(attention="se,das", seeds="3", arms=["a: training.lr=0.1"])
    two = _design(attention=["se", "das"], seeds=3, arms={"a": {"training.lr": 0.1}})
    assert one.study == two.study


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"model": torch.nn.Linear(2, 2)}, "model is a Linear; every run needs a network of its own"),
        ({"model": "nowhere_to_be_found:build"}, "importing nowhere_to_be_found failed: ModuleNotFoundError"),
        ({"model": "torch.nn:Linaer"}, "no function or class 'Linaer'. Did you mean 'Linear'"),
        ({"model": {"nmae": "resnet18"}}, "Did you mean 'name'"),
        ({"arms": {"wide": "resnet50"}}, "the arm 'wide' is 'resnet50'; a dictionary is needed"),
        ({"arms": {"wide": {"modle": "resnet50"}}}, "the arm 'wide': 'modle' is not a recipe key. Did you mean"),
        ({"arms": {"none": {"model": "resnet50"}}}, "is the name of the plain network"),
        ({"attention": ["cbma"]}, "Did you mean 'cbam'"),
        ({"seeds": [1, 1]}, "the seed 1 is given twice"),
        ({"seeds": []}, "at least one seed"),
        ({"engine": "local", "address": "auto"}, "only a Ray cluster"),
    ],
)
def test_a_wrong_use_says_so_and_writes_nothing(asked, words, desk):
    with pytest.raises(UserError, match=words):
        saccade.compare(**{"attention": ["se"], **asked}, notify=lambda event: None)
    assert not list(desk.iterdir())


EVIL = "from pathlib import Path\nPath('ran').touch()\ndef build(num_classes): pass\n"


def test_a_recipe_file_imports_no_network(desk):
    (desk / "evil_nets.py").write_text(EVIL)
    (desk / "r.toml").write_text('[model]\nname = "evil_nets:build"\n')
    for call in (saccade.compare, saccade.train):
        with pytest.raises(UserError, match=r"r\.toml names the host 'evil_nets:build'.*would import and run"):
            call(recipe="r.toml", notify=lambda event: None)
    with pytest.raises(UserError, match="would import and run"):
        saccade.forecast(recipe="r.toml", trust=["evil_nets:other"])
    assert not (desk / "ran").exists()
    assert _design(recipe="r.toml", model="resnet18").study.base.model.name == "resnet18", "what is typed replaces it"
    assert not (desk / "ran").exists()
    design = _design(recipe="r.toml", trust=["evil_nets:build"])
    assert (desk / "ran").exists()
    assert {"evil_nets:build"} < design.trust


def test_a_forecast_writes_nothing(desk):
    seen = []
    settings = {**TINY, "model.options": {"width": 4}}
    found = saccade.forecast(
        "digits", attention="se:rd_ratio=0.5", seeds=2, device="cpu", settings=settings, notify=seen.append
    )
    assert (found.runs, set(found.step_ms)) == (4, {"none", "se:rd_ratio=0.5"})
    assert [type(event) for event in seen] == [StudyPlanned]
    assert not list(desk.iterdir())
    with pytest.raises(UserError, match="--slots"):
        saccade.forecast("digits", engine="ray")
