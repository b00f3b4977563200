"""The golden files: what they hold, and that README.md says where each comes from."""

import json
import re

import numpy as np
import pytest

from oracles import EACH_SET, HERE, counts, names, read, sets

NAMES = names(HERE)
README = (HERE / "README.md").read_text(encoding="utf-8")
# A path of a machine: from the root, a drive or a home. `models/bam.py` of a repository is none.
PATH = re.compile(r"""(?<![\w.)])(?:/|~/|[A-Za-z]:\\)[A-Za-z]""")


def test_the_small_files_need_no_variable(tmp_path):
    assert sets({}) == sets({"SACCADE_ORACLES": ""}) == {"golden": HERE}
    assert sets({"SACCADE_ORACLES": str(tmp_path)}) == {"golden": HERE, "large": tmp_path}
    with pytest.raises(NotADirectoryError, match="nowhere is no folder"):
        sets({"SACCADE_ORACLES": str(tmp_path / "nowhere")})


def test_the_folder_holds_numbers_their_reader_and_what_says_whence_they_are():
    others = {path.name for path in HERE.iterdir() if path.is_file()} - {f"{name}.npz" for name in NAMES}
    assert others == {"README.md", "counts_official.json", "oracles.py"}


def test_the_readme_has_the_source_of_each_file():
    rows = re.findall(
        r"^\| `(\w+)` \| ([\w./-]+) @ (\w+) \| (.*) : (.*?) \| (.*) \| (.*) \| (\w+) \|$", README, re.MULTILINE
    )
    assert [row[0] for row in rows] == NAMES
    licensed = re.findall(r"^\| ([\w-]+/[\w.-]+) \| [^@|]+ \|$", README, re.MULTILINE)
    assert sorted(licensed) == sorted({row[1] for row in rows})
    for name, repository, commit, file, kind, arguments, shapes, mode in rows:
        oracle = read(HERE, name)
        meta = oracle.meta
        x, y = ("×".join(map(str, oracle.arrays[key].shape)) for key in "xy")
        assert meta["mechanism"] == name
        assert meta["repo"].partition(" ")[0] == repository
        assert re.fullmatch(r"[0-9a-f]{40}", meta["commit"])
        assert meta["commit"][:10] == commit
        assert (meta["file"], meta["class"], meta["args"], meta["mode"]) == (file, kind, arguments, mode)
        assert shapes == (x if x == y else f"{x} → {y}")


@pytest.mark.parametrize("name", NAMES)
def test_results_are_rounded_as_the_readme_says(name):
    for key, array in read(HERE, name).arrays.items():
        scaled = array * 2.0**41
        assert scaled.equal(scaled.round()), key


@EACH_SET
def test_counts_are_names_and_numbers(folder):
    text = (folder / "counts_official.json").read_text(encoding="utf-8")
    assert json.loads(text)["nets"] == counts()
    for net, facts in counts().items():
        sizes = {key: value for key, value in facts.items() if key not in ("repo", "file", "note", "error")}
        assert sizes.keys() == (set() if "error" in facts else {"params", "trainable", "buffers"}), net
        assert [value for value in sizes.values() if type(value) is not int] == []


def test_nothing_names_a_machine():
    texts = {name: json.dumps(read(HERE, name).meta, ensure_ascii=False) for name in NAMES}
    texts |= {name: (HERE / name).read_text(encoding="utf-8") for name in ("README.md", "counts_official.json")}
    assert {name: PATH.findall(text) for name, text in texts.items() if PATH.search(text)} == {}


@pytest.mark.parametrize(
    "parts",  # joined here, so that this file names no machine either
    [("in ", "home", "me", "code"), ('"', "root", 'x.py"'), ("~", "code"), ("C:\\code",)],
)
def test_a_machine_is_found(parts):
    assert PATH.search("/".join(parts))
    assert not PATH.search("models/bam.py : BAM, 1/M, d=max(C/16,32), gate(C)/4, and the text wiring: encoding/nn")


@pytest.mark.parametrize("key", ["param:a.weight", "weights:a"])
def test_an_unexpected_array_is_refused(tmp_path, key):
    np.savez(tmp_path / "made.npz", **{key: np.zeros(1, np.float32), "meta": "{}"})
    with pytest.raises(ValueError, match=f"made.npz: unexpected array {key} of float32"):
        read(tmp_path, "made")
