"""Layouts do not import torch until data is read, so that the process that starts a study stays small."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        (
            "from saccade.data import find_layout; find_layout(Data()).suggest_recipe('digits'); "
            "find_layout(Data(source='photos')).suggest_recipe('photos')",
            set(),
        ),
        ("from saccade.data import open_data; open_data(Data(train_images=2, test_images=2), 'label')", {"torch"}),
    ],
)
def test_only_reading_imports_torch(tmp_path, code, modules):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "0.png").touch()
    code = f"import sys; from saccade.recipe import Data; {code}; print({{'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == f"{modules}\n", done.stderr
