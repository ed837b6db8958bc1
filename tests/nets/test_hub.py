"""Weights from the hub, where there is no way to it. Local servers stand for it: no test leaves the machine."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from baoseg import nets
from baoseg.core.errors import CheckpointError
from baoseg.nets import hub, segmentation

MODEL = "test_resnet"  # of timm, with weights of a megabyte on the hub


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub has been asked yet, and nothing is in its cache."""
    monkeypatch.setattr(hub, "_silence", hub._Silence())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(hub, "PATIENCE", 0.3)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield constants.ENDPOINT


@pytest.fixture(params=[200, 404, 503])
def answering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(request.param)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.server_port}")
        yield request.param
        listening.shutdown()
        thread.join()


def cached(model: str) -> dict[str, torch.Tensor]:
    """Put weights of the model into the hub's cache, as its client lays them down."""
    state = timm.create_model(model, num_classes=1000).state_dict()
    repository = timm.get_pretrained_cfg(model).hf_hub_id
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    safetensors.torch.save_file(state, folder / "snapshots" / commit / "model.safetensors")
    return state


def fetch(model: str = f"timm:{MODEL}") -> nets.Network:
    return nets.build(nets.Config(backbone=model, pretrained=True), 2)


def test_a_hub_that_does_not_answer_is_one_line_within_seconds(silent: str, capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    names = {
        f"timm:{MODEL}": fetch,
        "smp:unet/resnet18": lambda: segmentation.build("smp:unet/resnet18", 2, pretrained=True),
    }
    for name, ask in names.items():
        with pytest.raises(CheckpointError) as caught:
            ask()
        line = str(caught.value)
        assert line.startswith(
            f"{name}: its pretrained weights are not on this machine, and 127.0.0.1 cannot be reached"
        )
        assert "fetch them elsewhere and give --weights FILE" in line and "\n" not in line
    assert time.monotonic() - start < 10
    assert capfd.readouterr() == ("", "")


def test_the_hub_is_not_asked_again_at_once(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "_asked", lambda: asked.append("once") or "no answer")
    for _ in range(3):
        with hub.quick() as reason:
            assert reason == "no answer"
    assert asked == ["once"]
    monkeypatch.setattr(hub, "REMEMBERED", 0.0)
    with hub.quick():
        assert asked == ["once", "once"]


def test_what_is_in_the_cache_is_taken_without_the_hub(silent: str) -> None:
    state = cached(MODEL)
    found = fetch().backbone.model.state_dict()
    assert all(torch.equal(found[key], state[key]) for key in found)
    assert not constants.HF_HUB_OFFLINE  # as before


def test_what_the_user_says_about_the_hub_holds(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_asked", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(CheckpointError, match=r"cannot be reached \(HF_HUB_OFFLINE is set\)"):
        fetch()
    cached(MODEL)
    assert fetch().num_classes == 2
    assert constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_left_to_its_client(answering: int) -> None:
    """Whatever it answers to the question whether it is there, but for an error of its own."""
    timeout = socket.getdefaulttimeout()
    with hub.quick() as reason:
        assert reason == ("it answers 503" if answering == 503 else "")
        assert (answering == 503) == constants.HF_HUB_OFFLINE
        assert socket.getdefaulttimeout() == hub.PATIENCE
    assert not constants.HF_HUB_OFFLINE
    assert socket.getdefaulttimeout() == timeout


def test_a_network_that_nobody_has_weights_of_is_not_put_down_to_the_hub(silent: str) -> None:
    with pytest.raises(CheckpointError, match=r"mobilenetv2_035: .*cannot be loaded \(No pretrained weights exist"):
        fetch("timm:mobilenetv2_035")


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PATIENCE", -0.8)
    done = threading.Event()
    monkeypatch.setattr(hub, "get_session", done.wait)
    assert hub._asked() == "no answer in -0.8 seconds"
    done.set()
