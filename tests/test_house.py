"""The house rules that a reader cannot check by eye: imports point down, light floors stay light, names are public."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import saccade

SOURCE = Path(saccade.__file__).parent
FLOORS = [
    ["escaping"],
    ["errors"],
    ["code_digest"],
    [
        "architecture_files",
        "builders",
        "controls",
        "events",
        "files",
        "former_names",
        "hooks",
        "recipe_paths",
        "recipe_values",
        "source",
        "specs",
        "registry",
        "training_rules",
    ],
    ["recipe_sections"],
    [
        "heat_maps",
        "imagefiles",
        "metrics",
        "ops",
        "parent_class",
        "image_size",
        "recipe",
        "runfile_schemas",
        "stage_outputs",
        "tensors",
    ],
    ["bases", "decisions", "runfiles"],
    ["attention"],
    ["catalog"],
    ["trust"],
    ["graph"],
    ["cost"],
    ["surgery"],
    ["models", "data"],
    ["tasks"],
    ["saving"],
    ["exporting", "contract"],
    ["training"],
    ["explanation"],
    ["study"],
    ["defaults", "screen"],
    ["comparison", "one_run"],
    ["web"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def _home(path):
    part = path.relative_to(SOURCE).parts[0]
    return part.removesuffix(".py")


def _imported(path):
    """The parts of saccade that a file names in an import, wherever the import stands."""
    package = ["saccade", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names = [*base, *(node.module or "").split(".")] if node.module else base
            if names[:1] == ["saccade"]:
                yield from [names[1]] if len(names) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (n.name.split(".")[1] for n in node.names if n.name.startswith("saccade."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    here = _home(path)
    for there in _imported(path):
        if there != here and there in LEVEL:
            assert LEVEL[there] < LEVEL[here], f"{here} reaches up or sideways to {there}"


def test_every_floor_is_named():
    found = {_home(path) for path in FILES}
    assert found <= set(LEVEL), f"without a floor: {sorted(found - set(LEVEL))}"


def test_the_import_reader_sees_an_upward_import(tmp_path):
    file = SOURCE / "ops" / "imagined.py"
    tree = "from saccade.study import plan\nfrom ..cli import main\nimport saccade.web\n"
    reader = type("P", (), {"relative_to": file.relative_to, "read_text": lambda self: tree})()
    assert list(_imported(reader)) == ["study", "cli", "web"]


def _files_imported(path, tree, names):
    """The files of saccade, by module name, that a file imports: at its head and inside functions, not for types."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                child.body = []
    package = ["saccade", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            inside = [".".join([*base, alias.name]) for alias in node.names]
            yield from (name if name in names else ".".join(base) for name in inside)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _circles(trees):
    """The circles among files, given their syntax trees by path: each a sorted list of module names."""
    names = {}
    for path in trees:
        parts = path.relative_to(SOURCE).with_suffix("").parts
        names[".".join(["saccade", *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    edges = {
        name: {there for there in _files_imported(path, trees[path], names) if there in names and there != name}
        for name, path in names.items()
    }
    reached = {}
    for name in names:
        seen, waiting = set(), list(edges[name])
        while waiting:
            here = waiting.pop()
            if here not in seen:
                seen.add(here)
                waiting += edges[here]
        reached[name] = seen
    return sorted(
        {tuple(sorted({n for n in names if n in reached[name] and name in reached[n]})) for name in names} - {()}
    )


def test_no_circle_of_files():
    assert _circles({path: ast.parse(path.read_text()) for path in FILES}) == []


def test_a_circle_of_files_is_found():
    """One closed at the head of a file, one inside a function; an import for types alone closes none."""
    texts = {
        "a.py": "from saccade.b import f",
        "b.py": "def f():\n    import saccade.c",
        "c.py": "from saccade import a",
        "d.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from saccade.e import g",
        "e.py": "from saccade.d import g",
    }
    trees = {SOURCE / name: ast.parse(text) for name, text in texts.items()}
    assert _circles(trees) == [("saccade.a", "saccade.b", "saccade.c")]


def test_no_drawer_of_odds_and_ends():
    bad = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [p for p in SOURCE.rglob("*") if p.stem in bad]


def test_every_file_is_short():
    assert {str(p.relative_to(SOURCE)): n for p in FILES if (n := len(p.read_text().splitlines())) > 420} == {}


def test_public_names_survive_the_import_of_every_submodule():
    for module in pkgutil.walk_packages(saccade.__path__, "saccade."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in saccade.__all__:
        value = getattr(saccade, name)
        assert callable(value), f"saccade.{name} is {value!r}"
        assert not isinstance(value, type(saccade)), f"saccade.{name} is hidden by a module"


def test_public_names_are_the_agreed_ones():
    assert saccade.__all__ == [
        "Plug", "Recipe", "UserError", "check", "compare", "create", "explain", "export", "fold", "forecast", "judge",
        "list_mechanisms", "load", "measure", "one_call", "parameter_groups", "plug", "plugged_trainer", "plugs",
        "record", "replace", "replacements", "save", "sites", "spec", "train", "unplug",
    ]  # fmt: skip


BLOCK = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
"""
PLUG = """
import torch, saccade
net = torch.nn.Sequential(*(torch.nn.Conv2d(c, 64, 3, padding=1) for c in (3, 64, 64)))
x = torch.randn(2, 3, 12, 10)
before = net(x)
for mechanism in saccade.list_mechanisms("plug"):
    options = {"skip": (32, 64)} if "skip" in saccade.spec(mechanism).needs else {}
    saccade.plug(net, mechanism, where=["0", "2"], input=(3, 12, 10), **options)
    assert torch.equal(net(x), before)
    assert len(saccade.plugs(net)) == 2
    if mechanism in ("das", "se", "self_attention"):  # one of each way to count
        saccade.measure(net, (3, 12, 10))
    saccade.unplug(net)
for mechanism in saccade.list_mechanisms("replace"):
    saccade.replace(net, mechanism, where="2", input=(3, 12, 10))
    assert len(saccade.replacements(net)) == 1
    saccade.unplug(net)
assert torch.equal(net(x), before)
saccade.check(lambda c: saccade.create("se", c), saccade.spec("se"))
print("fine")
"""


def _python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_surgery_needs_torch_alone():
    blocked = ["lightning", "timm", "torchvision", "sklearn", "scipy", "pydantic", "rich", "matplotlib"]
    done = _python(BLOCK.format(blocked=blocked) + PLUG)
    assert done.stdout == "fine\n", done.stderr


def test_the_block_blocks():
    done = _python(BLOCK.format(blocked=["timm"]) + "import timm")
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize("arguments", [["list"], ["show", "das"], ["--help"], ["lsit"], ["show", "sas"]])
def test_light_verbs_import_nothing_heavy(arguments):
    code = (
        f"import sys\nsys.argv = ['saccade', *{arguments!r}]\nfrom saccade.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('\\nHEAVY', sorted({'torch', 'pydantic', 'rich', 'numpy', 'timm'} & set(sys.modules)))"
    )
    done = _python(code)
    assert done.stdout.endswith("HEAVY []\n"), done.stdout + done.stderr


def test_the_light_check_notices():
    code = "import sys, pydantic\nprint(sorted({'torch', 'pydantic'} & set(sys.modules)))"
    assert _python(code).stdout == "['pydantic']\n"


TESTS = Path(__file__).parent


def test_tests_import_nothing_from_benchmarks():
    """Tests of benchmarks are in benchmarks/tests."""
    modules = {path.stem for path in (TESTS.parent / "benchmarks").glob("*.py")}
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [f"{path.relative_to(TESTS)}: {name}" for name in names if name.partition(".")[0] in modules]
    assert found == []


def test_uninitialised_memory_is_nan_in_tests():
    made = [torch.empty(3), torch.empty_like(torch.ones(3)), torch.ones(3).new_empty(3)]
    assert [tensor.isnan().all().item() for tensor in made] == [True, True, True]


WHOLE_PACKAGE = {"test_distribution.py", "test_docstrings.py", "test_house.py", "test_warnings.py"}
NOT_MIRRORED = {"docs", "fuzz", "integration"}


def test_tests_mirror_the_source():
    """tests/a/test_b.py tests src/saccade/a/b.py, a/_b.py or a/b/; test_init.py tests a/__init__.py."""
    unmatched = []
    for path in sorted(TESTS.rglob("test_*.py")):
        relative = path.relative_to(TESTS)
        if relative.parts[0] in NOT_MIRRORED or str(relative) in WHOLE_PACKAGE:
            continue
        name = relative.stem.removeprefix("test_")
        names = {f"{name}.py", f"_{name}.py", name, "__init__.py" if name == "init" else name}
        if not any((SOURCE / relative.parent / candidate).exists() for candidate in names):
            unmatched.append(str(relative))
    assert unmatched == []
