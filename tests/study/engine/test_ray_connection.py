"""Start of Ray on this machine, and addresses where no cluster answers."""

import socket

import pytest

from saccade import Recipe, UserError
from saccade.study.arms import arms
from saccade.study.engine import execute
from saccade.study.plan import Study


@pytest.fixture
def study(tmp_path):
    return Study(Recipe(), arms(["se"]), (0,), tmp_path / "s")


def test_a_server_that_is_not_a_cluster_is_refused(study, monkeypatch):
    ray_connection = pytest.importorskip("saccade.study.engine.ray_connection", reason="ray is not installed")
    monkeypatch.setattr(ray_connection, "_REPLY_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address}: something takes connections there"):
            execute(study, engine="ray", address=address)
    assert not study.folder.exists()


@pytest.mark.parametrize(("failures", "starts"), [(0, 1), (2, 3), (3, 3)])
def test_a_failed_start_is_repeated(study, monkeypatch, failures, starts):
    ray_connection = pytest.importorskip("saccade.study.engine.ray_connection", reason="ray is not installed")
    begun = []

    def init(address, **options):
        begun.append((address, options))
        if len(begun) <= failures:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray_connection.ray, "init", init)
    if failures < 3:
        ray_connection.start_ray(num_cpus=1)
    else:
        with pytest.raises(
            UserError, match=r"in 3 attempts \(The current node timed out.*--engine local, which needs no Ray"
        ):
            ray_connection.start_ray(num_cpus=1)
    assert begun == [("local", {"num_cpus": 1})] * starts
