"""A study of two arms and a network that was only saved, on one page."""

import threading

import httpx
import pytest
import uvicorn
from timm import create_model

import saccade
from saccade import Recipe
from saccade.contract.randomize import randomize
from saccade.study.arms import arms
from saccade.study.plan import Study
from saccade.training import train
from saccade.web.login import Login
from saccade.web.server import application, gradio_settings

TINY = Recipe().with_overrides(
    {
        "data.size": 24, "data.train_images": 480, "data.test_images": 40,
        "training.epochs": 2, "training.batch_size": 32, "training.lr": 0.01,
    }
)  # fmt: skip
HOSTILE = "</script><script>alert(1)</script>{{value}}${1+1}"
"""Name of a class that breaks out of HTML, JSON in HTML and two kinds of templates, if they let it."""
LOGIN = ("ana", "a long: password")


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Folder of a finished study of ``none`` and ``cbam`` with one seed."""
    plan = Study(TINY, arms(["cbam"]), (0,), tmp_path_factory.mktemp("page") / "study", 1.0)
    plan.write()
    for run in plan.runs():
        train(run.recipe, run.folder, device="cpu")
    return plan.folder


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folder of a network with colour images and a hostile name of a class, saved without a recipe."""
    network = saccade.plug(create_model("test_resnet", num_classes=2), "se", where="stage", input=(3, 48, 40))
    randomize(network, seed=3)
    folder = tmp_path_factory.mktemp("page") / "saved"
    saccade.save(network, folder, input=(3, 48, 40), classes=["<b>cat</b>", HOSTILE])
    return folder


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    """Private folder of Gradio while the tests of the page run, in a folder of its own for temporary files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("temporary")))
        with gradio_settings() as folder:
            yield folder


@pytest.fixture(scope="session")
def guard(study, saved, settings):
    """The application with a log-in and uploads of up to 1 MB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saccade.web.guard._REFUSAL_SECONDS", 0.1)
        yield application([study, saved], Login(*LOGIN), 1, ["127.0.0.1"])


@pytest.fixture(scope="session")
def address(guard):
    """Address of a server of the application in a thread."""
    config = uvicorn.Config(guard, port=0, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def visitor(address):
    """An HTTP client without a session."""
    with httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture
def client(visitor):
    """An HTTP client with a session."""
    answer = visitor.post("/login", data={"user": LOGIN[0], "password": LOGIN[1]})
    assert answer.status_code == 303
    return visitor
