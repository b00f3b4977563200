"""The folder is the table; wrong names and options name their neighbours."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import saccade
from saccade import catalog
from saccade.errors import UserError

NAMES = [
    "a2", "bam", "cbam", "cc", "coord", "danet", "das", "dat", "dcn1", "dcn2", "dra", "eca", "emattn", "emca",
    "gala", "gated_channel", "gc", "ge", "gsop", "lka", "mhsa", "mpm", "nl", "ofdet", "polarized", "ran", "sa",
    "sasa", "sasa_stem", "scse", "se", "self_attention", "sge", "simam", "sk", "spm", "srm", "stn", "triplet", "vt",
]  # fmt: skip
STRANGER = '''
"""A stranger's gate."""
import torch
class Halve(torch.nn.Module):
    def __init__(self, channels, factor=0.5, *, shift=1 / 4):
        super().__init__()
        if channels == 7:
            raise RuntimeError("seven will not do")
        self.factor = factor
    def forward(self, x):
        return x * self.factor
'''


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    (tmp_path / "strange_module.py").write_text(STRANGER)
    (tmp_path / "strange_specced.py").write_text(
        STRANGER
        + 'SPEC = {"title": "H", "kind": "transform", "evidence": "reading"}\ndef parameters():\n    return 0\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "strange_module:Halve"
    for name in ("strange_module", "strange_specced"):
        sys.modules.pop(name, None)


def test_names():
    names = saccade.list_mechanisms()
    assert sorted(set(NAMES) - set(names)) == []
    assert names == sorted(set(names))


@pytest.mark.parametrize("name", NAMES)
def test_each_file_tells_its_whole_story(name):
    text, spec = catalog.module_docstring(name), saccade.spec(name)
    assert re.search(r"^ +([yY]|y_\w+|y\(.+?\)) += .+", text, re.MULTILINE)
    assert "Source:" in text
    if spec.paper is None:
        assert spec.evidence == "reading"
        assert "No paper" in text
        return
    assert (spec.paper.arxiv or f"{spec.paper.venue} {spec.paper.year}") in text
    assert spec.paper.title in " ".join(text.split())
    assert str(spec.paper.year) in text


@pytest.mark.parametrize("name", NAMES)
def test_options_read_from_source_are_those_of_the_class(name):
    import inspect

    signature = inspect.signature(catalog.load(name))
    assert catalog.options(name) == {k: p.default for k, p in list(signature.parameters.items())[1:]}


def test_every_spelling_means_one_mechanism():
    spellings, names = catalog.all_names(), saccade.list_mechanisms()
    files = [path.stem for path in Path(catalog.__file__).with_name("attention").glob("[!_]*.py")]
    assert set(files) <= set(spellings)
    assert sum(len({name, *spec.aliases}) for name in names for spec in [saccade.spec(name)]) == len(
        set(spellings) - (set(files) - set(names))
    )
    for spelt, name in spellings.items():
        assert name in names
        assert catalog.canonical(spelt) == saccade.spec(spelt).name == name
        assert catalog.load(spelt) is catalog.load(name)
        made = catalog.load(name)
        assert catalog.canonical(f"saccade.attention.{spelt}:{made.__name__}") == name


@pytest.mark.parametrize("spelt", ["se", "squeeze_excite", "saccade.attention.se:SqueezeExcite"])
def test_what_is_saved_keeps_the_short_name(spelt):
    assert catalog.parse(f"{spelt}:rd_ratio=0.5") == ("se", {"rd_ratio": 0.5})
    host = saccade.plug(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), spelt, where="0", input=(3, 8, 9), rd_ratio=0.5)
    assert [row.mechanism for row in saccade.plugs(host)] == ["se"]
    twin = saccade.plug(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), torch.nn.Identity, where="0", input=(3, 8, 9))
    assert [row.mechanism for row in saccade.plugs(twin)] != ["se"]


def test_a_class_of_ours_that_is_no_mechanism_keeps_its_name():
    assert catalog.canonical("saccade.attention.das:FusedSample") == "saccade.attention.das:FusedSample"
    with pytest.raises(UserError, match=r"no mechanism is called 'squeeze_exite'. Did you mean 'squeeze_excite'"):
        catalog.canonical("squeeze_exite")


def test_create_passes_options():
    assert saccade.create("se", 32, rd_ratio=0.25, bias=False).squeeze.weight.shape == (8, 32)
    assert saccade.create("eca", 256).conv.kernel_size == (5,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: saccade.create("cmab", 64), "no mechanism is called 'cmab'. Did you mean"),
        (lambda: saccade.create("se", 64, rd_ration=2), "se has no option 'rd_ration'. Did you mean 'rd_ratio'?"),
        (
            lambda: saccade.create("se", 8),
            "se: channels * rd_ratio must be at least 1, got 8 * 0.0625",
        ),
        (lambda: saccade.create("eca", 8, kernel_size=4), "kernel_size must be odd and positive, got 4"),
        (lambda: saccade.create("eca", 64, gamma=0), "gamma must be positive, got 0"),
        (
            lambda: saccade.create("cbam", 64, spatial_kernel_size=-1),
            "spatial_kernel_size must be odd and positive, got -1",
        ),
        (
            lambda: saccade.create("se", 64, rd_ratio="x"),
            "se: the option rd_ratio needs a finite number, found 'x'; its default is 0.0625",
        ),
        (lambda: saccade.create("se", 64, rd_ratio=True), "rd_ratio needs a finite number, found True"),
        (lambda: saccade.create("se", 64, bias=1), "bias needs True or False, found 1; its default is True"),
        (lambda: catalog.parse("gc:fuse_scale=true"), "fuse_scale needs True or False, found 'true'"),
        (lambda: saccade.create("gc", 64, rd_ratio=float("inf")), "rd_ratio needs a finite number, found inf"),
        (lambda: catalog.parse("gc:rd_ratio=nan"), "rd_ratio needs a finite number, found 'nan'"),
        (lambda: saccade.create("bam", 64, dilation=2.5), "dilation needs a whole number, found 2.5; its default is 4"),
        (lambda: saccade.create("bam", 64, dilation=None), "dilation needs a whole number, found None"),
        (lambda: saccade.create("triplet", 64, kernel_size=3.0), "kernel_size needs a whole number, found 3.0"),
        (lambda: saccade.create("eca", 64, kernel_size=3.0), "a whole number, found 3.0; its default is None"),
        (lambda: saccade.create("bam", 64, variant=1), "variant needs a word, found 1; its default is 'official'"),
        (lambda: catalog.parse("eca:kernel_size=[3,'x']"), "kernel_size needs a whole number, found [3, 'x']"),
        (
            lambda: saccade.create("triplet", 64, kernel_size=[3, 5]),
            "triplet with channels=64, {'kernel_size': [3, 5]}: '<' not supported between instances of 'list'",
        ),
        (lambda: saccade.create("bam", 64, variant="papers"), "variant must be 'paper' or 'official', got 'papers'"),
        (lambda: saccade.create("bam", 64, dilation=0), "dilation must be at least 1, got 0"),
        (lambda: saccade.create("gc", 64, fuse_add=False), "one of fuse_add and fuse_scale must be true"),
        (lambda: saccade.create("sa", 65), "channels must be even, got 65"),
        (lambda: saccade.create("sa", 64, groups=0), "2 * groups must divide channels, got 2 * 0 and 64"),
        (lambda: saccade.create("sa", 192, groups=64), "2 * groups must divide channels, got 2 * 64 and 192"),
        (lambda: saccade.create("simam", 64, e_lambda=0.0), "e_lambda must be positive, got 0.0"),
        (lambda: saccade.spec("math:A"), "module 'math' has no Python source"),
        (lambda: saccade.spec("nowhere.at.all:Class"), "nowhere"),
        (lambda: saccade.spec("json:Decoder"), "the module defines no class and no function 'Decoder'"),
        (lambda: saccade.spec("json:dunps"), "no function 'dunps'. Did you mean 'dumps'"),
        (
            lambda: saccade.create("mhsa", 64, size=4),
            "mhsa: the option size needs the height and the width of the map, found 4",
        ),
        (lambda: saccade.create("mhsa", 64, size=(4,)), r"height and the width of the map, found (4,)"),
        (lambda: saccade.create("mhsa", 64, size=(4, 1.5)), r"height and the width of the map, found (4, 1.5)"),
        (lambda: catalog.parse("se:rd_ratio"), "'rd_ratio' is not an option; write name:option=value"),
        (lambda: catalog.parse("das:where=block"), "das has no option 'where': only `saccade compare` takes das:where"),
        (
            lambda: catalog.parse("none:where=block"),
            "'none:where=block': none is the network without attention and has",
        ),
        (lambda: catalog.parse("eca:kernel=3"), "eca has no option 'kernel'. Did you mean 'kernel_size'?"),
    ],
)
def test_wrong_words(call, message):
    with pytest.raises(UserError) as caught:
        call()
    assert message in str(caught.value)


def test_values_of_the_right_kind_are_taken():
    assert catalog.resolve_options("eca", {"kernel_size": None, "gamma": 3, "beta": 1.5})["beta"] == 1.5
    assert catalog.resolve_options("eca", {"kernel_size": [3, 5, 5, 7]})["kernel_size"] == [3, 5, 5, 7]
    assert catalog.resolve_options("simam", {"e_lambda": 1}) == {"e_lambda": 1}
    assert catalog.resolve_options("se", {"rd_ratio": np.float32(0.25)})["rd_ratio"] == 0.25
    assert saccade.create("bam", 64, dilation=np.int64(2)) is not None


def test_a_stranger_who_annotates_nothing_may_mean_any_number(written):
    head = HEAD + "class A(nn.Module):\n    def __init__(self, channels, "
    name = written(head + "factor=1, norm=nn.BatchNorm2d, *, steps: int = 2):\n        super().__init__()\n" + BODY)
    assert catalog.resolve_options(f"{name}:A", {"factor": 0.5, "norm": torch.nn.Identity})["factor"] == 0.5
    for wrong in ({"factor": "x"}, {"steps": 0.5}):
        with pytest.raises(UserError, match="number, found"):
            catalog.resolve_options(f"{name}:A", wrong)


def test_whatever_a_strangers_class_raises_is_told(stranger):
    with pytest.raises(UserError, match=r"strange_module:Halve with channels=7.*: RuntimeError: seven will not do"):
        saccade.create(stranger, 7)
    saccade.create(stranger, 8)


def test_a_stranger_needs_no_registration(stranger):
    assert saccade.spec(stranger).kind == "transform"
    assert catalog.options(stranger) == {"factor": 0.5, "shift": 0.25}
    assert saccade.spec("strange_specced:Halve").parameters(8, {}) == 0
    assert saccade.spec(stranger).parameters(8, {}) is None
    x = torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(saccade.create(stranger, 3, factor=0.25)(x), x * 0.25, rtol=0, atol=0)
    assert catalog.parse(f"{stranger}:factor=2") == (stranger, {"factor": 2})
    with pytest.raises(UserError, match="no class and no function 'Halv'"):
        saccade.spec("strange_module:Halv")


def test_lists_split_outside_brackets_only():
    text = "none, se:rd_ratio=0.25,eca:kernel_size=[3,5,5,7]"
    assert catalog.split_list(text) == ["none", "se:rd_ratio=0.25", "eca:kernel_size=[3,5,5,7]"]
    assert catalog.parse("eca:kernel_size=3:gamma=1.5") == ("eca", {"kernel_size": 3, "gamma": 1.5})
    assert catalog.split_list(" , ") == []


HEAD = "import torch\nfrom torch import nn\n"
BODY = "    def forward(self, x):\n        return x + 1\n"
SPEC = 'SPEC = {"title": "H", "kind": "transform", "evidence": "reading", "neutral": True}\n'


@pytest.fixture
def written(tmp_path, monkeypatch):
    """written(text) -> the name of a new module that holds it."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def of(text):
        made.append(f"written_{len(made)}_{tmp_path.name}")
        (tmp_path / f"{made[-1]}.py").write_text(text)
        return made[-1]

    yield of
    for name in made:
        sys.modules.pop(name, None)


def test_a_function_stands_for_the_classes_it_makes(written):
    classes = "class H(nn.Module):\n" + BODY + "class K(H): ...\n"
    make = "def make(channels, *, kind: str = 'H', power: int = 2):\n    return {'H': H, 'K': K}[kind]()\n"
    name = written(HEAD + SPEC + "__all__ = ['make']\n" + classes + make) + ":make"
    assert catalog.options(name) == {"kind": "H", "power": 2}
    assert saccade.spec(name).title == "H"
    assert type(saccade.create(name, 8)).__name__ == "H"
    assert type(saccade.create(name, 8, kind="K")).__name__ == "K"
    with pytest.raises(UserError, match="power needs a whole number"):
        saccade.create(name, 8, power=2.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class A(:\n", "cannot be read: invalid syntax"),
        ("class A: ...\nSPEC = dict(title='A')\n", "SPEC must be a literal"),
        ("class A: ...\nSPEC = {'title': 'A', 'kind': 'gate', 'evidence': 'paper', 'limits': 'C'}\n", "must be a list"),
        ("class A: ...\n1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_mistakes_in_a_strangers_file_are_told(written, text, message):
    with pytest.raises(UserError) as caught:
        saccade.create(f"{written(text)}:A", 8)
    assert message in str(caught.value)


def test_a_module_that_fails_when_its_parent_is_imported(tmp_path, written):
    name = written("")
    (tmp_path / f"{name}.py").unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('no licence')\n")
    with pytest.raises(UserError, match="no licence"):
        saccade.spec(f"{name}.inner:A")


def test_a_spec_speaks_of_one_class(written):
    two = HEAD + f"class A(nn.Module):\n{BODY}\nclass B(nn.Module):\n{BODY}\n" + SPEC
    assert catalog.declared_spec(f"{written(two)}:A") is None
    named = written(two + '__all__ = ["B", "A"]\n')
    assert catalog.declared_spec(f"{named}:A") is None
    assert not saccade.spec(f"{named}:A").neutral
    assert saccade.spec(f"{named}:B").neutral
    assert saccade.spec(f"{written(HEAD + f'class A(nn.Module):{chr(10)}{BODY}' + SPEC)}:A").neutral
    assert saccade.spec("saccade.surgery.controls.extra:ExtraBottleneck").neutral


def test_a_default_that_is_no_literal_is_its_text(written):
    text = (
        HEAD
        + "class A(nn.Module):\n    def __init__(self, channels, norm=nn.BatchNorm2d, top=float('inf'), n=2 * 3):\n"
    )
    name = f"{written(text + '        super().__init__()' + chr(10) + BODY)}:A"
    assert catalog.options(name) == {"norm": "nn.BatchNorm2d", "top": "float('inf')", "n": 6}
    assert isinstance(saccade.create(name, 8), torch.nn.Module)


def test_options_that_are_inherited_or_open_are_known(written):
    base = "class Base(nn.Module):\n    def __init__(self, channels, width, depth=2):\n        super().__init__()\n"
    opened = (
        "class Open(Base):\n    def __init__(self, channels, **rest):\n        super().__init__(channels, **rest)\n"
    )
    name = written(HEAD + base + "class A(Base):\n" + BODY + opened + BODY)
    assert catalog.options(f"{name}:A") == {"width": ..., "depth": 2}
    assert isinstance(saccade.create(f"{name}:A", 8, width=3), torch.nn.Module)
    assert isinstance(saccade.create(f"{name}:Open", 8, width=3), torch.nn.Module)
    with pytest.raises(UserError, match=r"has no option 'widht'. Did you mean 'width'"):
        saccade.create(f"{name}:A", 8, widht=3)
    with pytest.raises(UserError, match="widht"):  # the class itself refuses it
        saccade.create(f"{name}:Open", 8, widht=3)


def test_each_mechanism_is_taken_by_one_verb(tmp_path, monkeypatch):
    assert sorted(saccade.list_mechanisms("plug") + saccade.list_mechanisms("replace")) == saccade.list_mechanisms()
    assert {saccade.spec(name).kind for name in saccade.list_mechanisms("replace")} == {"conv"}
    assert "se" in saccade.list_mechanisms("plug")
    with pytest.raises(UserError, match="'plug' or 'replace', got 'plugs'"):
        saccade.list_mechanisms("plugs")
    (tmp_path / "strange_conv.py").write_text(
        "import torch\nclass Still(torch.nn.Conv2d):\n    def __init__(self, channels: int):\n"
        "        super().__init__(channels, channels, 3, padding=1)\n"
        'SPEC = {"title": "Still", "kind": "conv", "evidence": "reading"}\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    host = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
    with pytest.raises(UserError, match=r"saccade\.replace\(host, 'strange_conv:Still'\)"):
        saccade.plug(host, "strange_conv:Still", where="0", input=(3, 8, 9))
    assert saccade.plugs(host) == []
