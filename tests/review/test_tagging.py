"""Labels for a folder of images: labels.csv as one goes, and a run that outlives the server."""

import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from baoseg.core import files
from baoseg.core.errors import DataError, RecipeError
from baoseg.data.folder import Folder
from baoseg.review import starting
from baoseg.review.server import application
from baoseg.review.starting import DONE, FAILED
from baoseg.review.tagging import Tagging

CHANGES = {"X-Bao-Review": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / "photos" / ("JPEGImages" if number % 2 else "trip") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (600, 300), (40 * number, 90, 200)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(application(Tagging(folder)), base_url="http://127.0.0.1:8080") as client:
        yield client


def text(folder: Path) -> str:
    return (folder / "labels.csv").read_text(encoding="utf-8")


def test_labels_are_written_as_one_goes_and_read_again(client: TestClient, folder: Path) -> None:
    about = client.get("/api/about").json()
    assert (about["mode"], about["images"], about["tagged"], about["classes"]) == ("tag", 6, 0, [])
    names = [item["name"] for item in client.get("/api/items", params={"start": 0, "count": 500}).json()]
    assert names == [
        "JPEGImages/1.jpg",
        "JPEGImages/3.jpg",
        "JPEGImages/5.jpg",
        "trip/0.jpg",
        "trip/2.jpg",
        "trip/4.jpg",
    ]
    content = {"classes": ["fire hydrant", "dog"], "tags": {"trip/2.jpg": ["dog", "fire hydrant"], "trip/0.jpg": []}}
    assert client.put("/api/tags", json=content, headers=CHANGES).json()["tagged"] == 2
    client.put("/api/tags", json={"tags": {"JPEGImages/3.jpg": ["fire hydrant"]}}, headers=CHANGES)
    assert text(folder) == "image,labels\nJPEGImages/3.jpg,fire hydrant\ntrip/0.jpg,\ntrip/2.jpg,fire hydrant; dog\n"
    opened = Folder(folder)
    assert opened.classes.names == ("fire hydrant", "dog")
    assert [opened.classes.decode(opened.labels(index)) for index in range(3)] == [
        ("fire hydrant",),
        (),
        ("fire hydrant", "dog"),
    ]
    again = Tagging(folder)
    assert again.classes == ["fire hydrant", "dog"] and again.items(3, 2) == [
        {"index": 3, "name": "trip/0.jpg", "tags": []},
        {"index": 4, "name": "trip/2.jpg", "tags": ["fire hydrant", "dog"]},
    ]
    client.put("/api/tags", json={"tags": {"trip/0.jpg": None}}, headers=CHANGES)
    assert "trip/0.jpg" not in text(folder)


def test_thumbnails_are_small(client: TestClient) -> None:
    answer = client.get("/api/items/3/thumb")
    assert np.asarray(Image.open(io.BytesIO(answer.content))).shape == (128, 256, 3)
    assert client.get("/api/items/6/thumb").status_code == 400


def test_masks_are_no_images_to_label_and_lines_of_absent_images_stay(folder: Path) -> None:
    for name in ("masks/0.png", "SegmentationClass/trip/0.png", "review/run/bao/masks/val/0.png"):
        (folder / name).parent.mkdir(parents=True)
        Image.new("L", (6, 3)).save(folder / name)
    (folder / "labels.csv").write_text("image,labels\nelsewhere/9.jpg,dog\ntrip/0.jpg,cat dog\n", encoding="utf-8")
    work = Tagging(folder)
    assert len(work.names) == 6 and work.about()["tagged"] == 1
    work.tag({"tags": {"trip/2.jpg": ["cat"]}})
    assert text(folder) == "image,labels\ntrip/0.jpg,cat; dog\ntrip/2.jpg,cat\nelsewhere/9.jpg,dog\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "no JSON"),
        (b'{"tags": []}', "give {"),
        (b'{"tags": {"../secret.jpg": ["dog"]}}', "../secret.jpg: no image of this folder"),
        (b'{"tags": {"trip/0.jpg": ["cow"]}}', "'cow': no class; the classes are dog"),
        (b'{"tags": {"trip/0.jpg": "dog"}}', "'dog': no class"),
        (b'{"tags": {"trip/2.jpg": ["dog"], "trip/0.jpg": [["dog"]]}}', "no class"),
        (b'{"classes": ["a;b"]}', "no name of a class"),
        (b'{"classes": ["Dog"]}', "there is the class dog"),
        (b'{"classes": [" "]}', "no name of a class"),
        (b'{"classes": ["a\\u0007b"]}', "no name of a class"),
    ],
)
def test_what_cannot_be_right_changes_nothing(client: TestClient, folder: Path, content: bytes, problem: str) -> None:
    client.put("/api/tags", json={"classes": ["dog"], "tags": {"trip/4.jpg": ["dog"]}}, headers=CHANGES)
    before = text(folder)
    answer = client.put("/api/tags", content=content, headers=CHANGES)
    assert answer.status_code == 400 and problem in answer.text and len(answer.text.splitlines()) == 1
    assert text(folder) == before
    about = client.get("/api/about").json()
    assert (about["classes"], about["tagged"]) == (["dog"], 1)


def test_a_full_disk_is_said_and_nothing_is_half_known(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put("/api/tags", json={"classes": ["dog"], "tags": {"trip/4.jpg": ["dog"]}}, headers=CHANGES)
    before = text(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.tempfile, "mkstemp", full)
        answer = client.put("/api/tags", json={"tags": {"trip/2.jpg": ["dog"]}}, headers=CHANGES)
    assert answer.status_code == 507 and "no space left on the disk" in answer.text
    assert text(folder) == before and client.get("/api/about").json()["tagged"] == 1


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images"):
        Tagging(tmp_path)


def until(condition: object, *, limit: float = 20) -> None:
    end = time.monotonic() + limit
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def slow(program: str) -> str:
    return f"import json, os, sys, time\nprint(os.getpid(), *json.loads(sys.argv[1]), flush=True)\n{program}"


def test_a_run_outlives_the_server_and_is_known_to_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = folder / "stop"
    program = f"while not os.path.exists({str(stop)!r}): time.sleep(0.05)\nprint({DONE!r}, flush=True)"
    monkeypatch.setattr(starting, "WORKER", slow(program))
    work = Tagging(folder, classes=["dog"])
    with pytest.raises(RecipeError, match="give labels to some images first"):
        work.start()
    work.tag({"tags": {"trip/0.jpg": ["dog"]}})
    work.start()
    until(lambda: work.about()["log"])
    (line,) = work.about()["log"]
    assert line.split()[1:] == [str(folder), str(folder / "review" / "run")]
    with pytest.raises(RecipeError, match="a run is at work"):
        work.start()
    other = Tagging(folder)  # as after a new start
    assert other.about()["running"]
    with pytest.raises(RecipeError, match="a run is at work"):
        other.start()
    stop.touch()
    until(lambda: not work.about()["running"])
    assert not other.about()["running"] and other.about()["ended"]


def test_a_run_that_was_killed_is_not_at_work_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "WORKER", slow("time.sleep(60)"))
    work = Tagging(folder, classes=["dog"])
    work.tag({"tags": {"trip/0.jpg": ["dog"]}})
    work.start()
    until(lambda: work.about()["log"])
    os.kill(int(work.about()["log"][0].split()[0]), signal.SIGKILL)
    until(lambda: not work.about()["running"])
    assert not Tagging(folder).about()["running"] and not work.about()["ended"]


def test_new_labels_begin_a_new_run_and_old_ones_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "WORKER", slow(f"print({FAILED!r}, flush=True)"))
    work = Tagging(folder, classes=["dog"])
    work.tag({"tags": {"trip/0.jpg": ["dog"]}})
    review = folder / "review"

    def begun(name: str) -> None:
        work.start()
        until(lambda: not work.about()["running"])
        assert work.about()["log"][0].endswith(str(review / name)) and not work.about()["ended"]
        (review / name).mkdir(exist_ok=True)
        (review / name / "run.json").touch()

    begun("run")
    begun("run")
    time.sleep(0.02)
    work.tag({"tags": {"trip/2.jpg": ["dog"]}})
    begun("run-2")
    begun("run-2")
    assert work.about()["run"] == str(review / "run-2")
