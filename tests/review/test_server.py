"""The server of `bao review`: its routes, and what it refuses."""

import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from httpx import Response
from PIL import Image
from starlette.testclient import TestClient

from baoseg import pipeline, seeds
from baoseg.core import files
from baoseg.core.errors import RecipeError, RunError
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import read_mask, write_mask
from baoseg.data.reviewed import Chosen, Decision, Reviewed
from baoseg.data.synthetic import Config as SyntheticConfig
from baoseg.pipeline import manifest
from baoseg.review import server, session, tiles
from baoseg.review.server import application
from baoseg.review.session import Session

ADDRESS = "http://127.0.0.1:8080"
CHANGES = {"X-Bao-Review": "1"}
VAL = [f"val_{index:05d}" for index in range(5)]


@pytest.fixture
def run(tiny_run: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(tiny_run.root, tmp_path / "run"))


@pytest.fixture
def client(run: RunFolder) -> Iterator[TestClient]:
    with TestClient(application(Session(run)), base_url=ADDRESS) as client:
        yield client


def png(mask: np.ndarray) -> bytes:
    """As the page sends it: the class in the red channel."""
    stream = io.BytesIO()
    Image.fromarray(np.stack([mask, 0 * mask, 0 * mask, 0 * mask + 255], axis=-1)).save(stream, "PNG")
    return stream.getvalue()


def made(run: RunFolder, name: str = VAL[0]) -> np.ndarray:
    return read_mask(run.stage("bao").mask("val", name)).numpy()


def image(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def put(
    client: TestClient,
    item: int = 0,
    *,
    decision: str = "corrected",
    version: str = '"0"',
    headers: dict[str, str] | None = None,
    tile: int = 0,
    content: bytes | None = None,
) -> Response:
    return client.put(
        f"/api/items/{item}",
        params={"decision": decision, "tile": tile},
        headers={**CHANGES, "If-Match": version, **(headers or {})},
        content=content,
    )


def test_what_the_page_needs_of_a_run(client: TestClient, run: RunFolder) -> None:
    about = client.get("/api/about").json()
    assert (about["mode"], about["split"], about["images"], about["chosen"]) == ("review", "val", 5, "doubt")
    assert about["layers"] == ["background", *about["classes"]] and len(about["classes"]) == 5
    items = client.get("/api/items", params={"start": 1, "count": 3}).json()
    assert [(one["index"], one["name"], one["version"]) for one in items] == [(i, VAL[i], 0) for i in (1, 2, 3)]
    one = client.get("/api/items/2").json()
    scenes = pipeline.open_split(pipeline.recipe_of(run), "val")
    assert (one["size"], one["tiles"]) == ([64, 64], 1)
    assert one["labels"] == list(scenes.classes.decode(scenes.labels(2)))
    assert (image(client.get("/api/items/2/mask").content) == made(run, VAL[2])).all()
    shown = image(client.get("/api/items/2/image").content).astype(int)
    assert np.abs(shown - scenes[2].image.permute(1, 2, 0).numpy()).mean() < 6  # JPEG
    seed = seeds.load(run.stage("bao").maps("val", VAL[2])).upsample()
    label = int(seed.classes[0])
    for layer, expected in ((0, seed.background), (label, seed.scores[0])):
        assert expected is not None
        found = image(client.get("/api/items/2/layer", params={"layer": layer}).content)
        assert np.abs(found.astype(int) - 255 * expected.numpy()).max() <= 1
    absent = next(index for index in range(1, 6) if index not in seed.classes.tolist())
    assert not image(client.get("/api/items/2/layer", params={"layer": absent}).content).any()


def test_decisions_are_files(client: TestClient, run: RunFolder) -> None:
    mask = made(run)
    mask[:8] = 3
    mask[8:10] = 255
    assert put(client, content=png(mask)).json() == {
        "decision": "corrected",
        "version": 1,
        "pixels": int((mask != made(run)).sum()),
    }
    assert put(client, 1, decision="accepted").json()["decision"] == "accepted"
    assert put(client, 2, decision="rejected").json() == {"decision": "rejected", "version": 1, "pixels": 0}
    assert put(client, 0, decision="accepted", version='"1"').json()["decision"] == "corrected"  # it still is
    reviewed = Reviewed(run.root / "reviewed")
    assert (read_mask(reviewed.mask(VAL[0])).numpy() == mask).all()
    assert (image(client.get("/api/items/0/mask").content) == mask).all()
    assert reviewed.usable(VAL) == VAL[:2] and reviewed.rejected(VAL) == [VAL[2]]
    about = client.get("/api/about").json()
    assert about["counts"] == {"accepted": 1, "corrected": 1, "rejected": 1} and about["first"] == 3


@pytest.mark.parametrize(
    ("headers", "status", "problem"),
    [
        ({"Host": "evil.example"}, 403, "evil.example: not the address of this page"),
        ({"Host": "127.0.0.1.evil.example:8080"}, 403, "not the address of this page"),
        ({"Host": "[::1"}, 403, "not the address of this page"),
        ({"Origin": "https://evil.example"}, 403, "another page may not use this one"),
        ({"Origin": "null"}, 403, "another page may not use this one"),
        ({"Origin": "http://127.0.0.1:9999"}, 403, "another page may not use this one"),
        ({"Origin": "http://[::1"}, 403, "another page may not use this one"),
        ({"X-Bao-Review": "no"}, 403, "changes come from the page itself"),
        ({"Content-Length": str(server.LARGEST + 1)}, 413, "more than"),
        ({"Content-Length": "-1"}, 413, "more than"),
        ({"If-Match": "*"}, 428, "which version"),
    ],
)
def test_requests_that_do_not_come_from_the_page_change_nothing(
    client: TestClient, run: RunFolder, headers: dict[str, str], status: int, problem: str
) -> None:
    answer = put(client, content=png(made(run)), headers=headers)
    assert answer.status_code == status and problem in answer.text and len(answer.text.splitlines()) == 1
    assert not (run.root / "reviewed" / "log.csv").exists()


def test_reading_is_guarded_too(client: TestClient) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert client.get("/api/items/0/image", headers=headers).status_code == 403
    for host in ("localhost:8080", "127.0.0.1:1", "[::1]:8080"):
        assert client.get("/api/about", headers={"Host": host}).status_code == 200


def test_a_host_that_others_reach_needs_the_token(run: RunFolder) -> None:
    app = application(Session(run), hosts=(), token="secret")
    with TestClient(app, base_url="http://192.168.1.7:8080") as client:
        for query in ("", "?token=guess", "?token=%C3%A9"):
            assert client.get(f"/{query}").status_code == 403
        page = client.get("/?token=secret")
        assert page.status_code == 200
        assert "HttpOnly" in page.headers["set-cookie"] and "strict" in page.headers["set-cookie"].lower()
        assert client.get("/api/about").status_code == 200  # by the cookie
        client.cookies.clear()
        assert client.get("/api/about").status_code == 403


@pytest.mark.parametrize(
    "path", ["../server.py", "..%2fserver.py", "%2e%2e/server.py", "static/review.js", "..", "%2fetc%2fpasswd", "x.js"]
)
def test_only_the_files_of_the_page_are_served(client: TestClient, path: str) -> None:
    answer = client.get(f"{ADDRESS}/{path}")
    assert answer.status_code == 404 or answer.text.startswith("<!doctype html>")
    assert "baoseg" not in answer.text


@pytest.mark.parametrize("item", ["5", "-1", "..%2f..%2frun.json", "1e0", "٣" * 5000])
def test_images_are_found_by_number_alone(client: TestClient, item: str) -> None:
    for part in ("", "/image", "/mask"):
        answer = client.get(f"/api/items/{item}{part}")
        assert answer.status_code in (400, 404) and len(answer.text.splitlines()) == 1
    for path in ("/api/items/0/secrets", "/api/items/0/layer", "/api/items/0/image?tile=1", "/api/items"):
        assert client.get(path).status_code in (400, 404)


def test_the_policy_admits_nothing_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/app.js", "/style.css", "/api/about", "/api/items/0/image", "/nothing"):
        policy = client.get(path).headers["content-security-policy"] if path != "/nothing" else "default-src 'self'"
        assert "default-src 'self'" in policy and "unsafe" not in policy and "http" not in policy
    for name in ("/", "/app.js", "/common.js", "/review.js", "/tag.js", "/style.css"):
        text = client.get(name).text
        assert "http://" not in text and "https://" not in text and "innerHTML" not in text


def cut_short(mask: np.ndarray) -> bytes:
    return png(mask)[:-40]


def bomb(mask: np.ndarray) -> bytes:
    """A header that says 60,000 x 60,000."""
    content = bytearray(png(mask))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (cut_short, "cannot be read"),
        (bomb, "the mask that was sent"),
        (lambda mask: b"\x89PNG\r\n\x1a\n" + bytes(50), "mask"),
        (lambda mask: b"GIF89a" + bytes(50), "not a known kind of mask file"),
        (lambda mask: png(mask[:32]), "the mask is 64x32 pixels, its image 64x64"),
        (lambda mask: png(np.full_like(mask, 6)), "the mask has the value 6; there are 0..5 and 255"),
        (lambda mask: png(np.full_like(mask, 254)), "the mask has the value 254"),
    ],
)
def test_a_mask_that_cannot_be_right_changes_nothing(
    client: TestClient, run: RunFolder, content: Callable[[np.ndarray], bytes], problem: str
) -> None:
    before = made(run)
    before[:4] = 1
    assert put(client, content=png(before)).status_code == 200
    answer = put(client, version='"1"', content=content(before))
    assert answer.status_code == 400 and problem in answer.text and len(answer.text.splitlines()) == 1
    reviewed = Reviewed(run.root / "reviewed")
    assert (read_mask(reviewed.mask(VAL[0])).numpy() == before).all() and reviewed.version(VAL[0]) == 1


def test_a_decision_on_an_older_version_is_refused(client: TestClient, run: RunFolder) -> None:
    theirs = made(run)
    theirs[:4] = 1
    assert put(client, content=png(theirs)).status_code == 200
    for decision in Decision:
        answer = put(client, decision=decision, content=png(made(run)))
        assert (answer.status_code, answer.text) == (
            409,
            f"{VAL[0]}: was decided on in another window meanwhile; load it again",
        )
    assert (read_mask(Reviewed(run.root / "reviewed").mask(VAL[0])).numpy() == theirs).all()


def test_a_full_disk_is_said_and_the_old_file_stays(
    client: TestClient, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made(run)
    before[:4] = 1
    assert put(client, content=png(before)).status_code == 200

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.tempfile, "mkstemp", full)
        answer = put(client, version='"1"', content=png(made(run)))
    assert answer.status_code == 507 and "no space left on the disk" in answer.text
    assert (read_mask(Reviewed(run.root / "reviewed").mask(VAL[0])).numpy() == before).all()
    assert put(client, version='"1"', content=png(made(run))).json()["decision"] == "corrected"


def test_the_doubtful_come_first_and_the_order_stays_while_doubts_arrive(run: RunFolder) -> None:
    wrong = run.stage("transcam").mask("val", VAL[3])
    write_mask(wrong, torch.from_numpy(5 - np.minimum(made(run, VAL[3]), 5)))  # nowhere the class of BAO
    work = Session(run)
    assert work.results.stage == "bao"
    rating = work.rate()
    next(rating)
    assert work.order() == [0, 1, 2, 3, 4]
    list(rating)
    doubts = [item["doubt"] for item in work.items(0, 5)]
    assert doubts == sorted(doubts, reverse=True)
    for index, name in enumerate(VAL):
        others = read_mask(run.stage("bao").mask("val", name)).numpy()
        margin = work.results.read(index).margin
        edge = cv2.morphologyEx(others, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        far = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_C, 3)
        band = far <= session.BAND if edge.any() else np.ones_like(edge)
        found = next(item["doubt"] for item in work.items(0, 5) if item["index"] == index)
        assert found == pytest.approx(1 - margin[band].mean() / 255, abs=2e-3)


def test_a_random_sample_is_the_same_next_time_and_asks_again_what_doubt_has_shown(run: RunFolder) -> None:
    doubtful = Session(run)
    doubtful.decide(2, Decision.ACCEPTED, version=0)
    sample = Session(run, chosen=Chosen.RANDOM)
    assert sample.order() == Session(run, chosen=Chosen.RANDOM).order() != [0, 1, 2, 3, 4]
    item = next(item for item in sample.items(0, 5) if item["index"] == 2)
    assert item["decision"] is None and item["version"] == 1
    assert sample.about()["counts"] == {"accepted": 0, "corrected": 0, "rejected": 0}
    assert sample.decide(2, Decision.ACCEPTED, version=1).chosen is Chosen.RANDOM
    later = Session(run)
    assert later.decide(2, Decision.ACCEPTED, version=2).chosen is Chosen.RANDOM  # corrected later, it still is of it


def test_ten_thousand_images_are_listed_without_reading_one(
    tiny_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic = SyntheticConfig(size=64, train_images=12, eval_images=10_000)
    recipe = replace(tiny.RECIPE, data=replace(tiny.RECIPE.data, synthetic=synthetic))
    with manifest.opened(recipe, tmp_path / "run", check=lambda *_: None, check_addition=lambda *_: None) as run:
        folder = run.stage("bao").masks("val")
    folder.mkdir(parents=True)
    source = tiny_run.stage("bao").mask("val", VAL[0])
    for index in range(10_000):
        (folder / f"val_{index:05d}.png").hardlink_to(source)

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a mask was read")

    work = Session(run)
    monkeypatch.setattr(session, "read_mask", read)
    with TestClient(application(work), base_url=ADDRESS) as client:
        about = client.get("/api/about").json()
        assert (about["images"], about["first"]) == (10_000, 0)
        first = client.get("/api/items", params={"start": 0, "count": 100})
        assert len(first.json()) == 100 and len(first.content) < 20_000
        assert len(client.get("/api/items", params={"start": 9_990, "count": 9_999}).json()) == 10
        assert len(client.get("/api/items", params={"start": 0, "count": 10_000}).json()) == 500


def test_an_image_of_12000_x_9000_is_shown_and_corrected_by_tiles(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    Image.new("RGB", (12_000, 9_000), (90, 120, 30)).save(data / "images" / "field.jpg", quality=30)
    (data / "labels.csv").write_text("image,labels\nimages/field.jpg,weed\n", encoding="utf-8")
    recipe = tiny.with_data(tiny.RECIPE, data)
    with manifest.opened(recipe, tmp_path / "run", check=lambda *_: None, check_addition=lambda *_: None) as run:
        path = run.stage("bao").mask("all", "field")
    write_mask(path, torch.zeros(9_000, 12_000, dtype=torch.uint8))
    with TestClient(application(Session(run, split="all")), base_url=ADDRESS) as client:
        one = client.get("/api/items/0").json()
        assert (one["size"], one["tiles"]) == ([9_000, 12_000], 30)
        last = {"tile": 29}
        assert image(client.get("/api/items/0/image", params=last).content).shape == (808, 1760, 3)
        assert image(client.get("/api/items/0/overview").content).shape == (240, 320, 3)
        drawn = np.zeros((808, 1760), dtype=np.uint8)
        drawn[700:, 1700:] = 1
        answer = put(client, content=png(drawn), tile=29)
        assert answer.json()["pixels"] == 108 * 60
        assert (image(client.get("/api/items/0/mask", params=last).content) == drawn).all()
        assert client.get("/api/items/0/image", params={"tile": 30}).status_code == 400
    whole = read_mask(Reviewed(run.root / "reviewed").mask("field"))
    assert int(whole.sum()) == 108 * 60 and bool((whole[-108:, -60:] == 1).all())


def test_tiles_cover_the_image_once_and_maps_fit_across_their_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 16)
    seen = np.zeros((40, 50), dtype=int)
    values = torch.rand(1, 10, 13, generator=torch.Generator().manual_seed(0))
    whole = (255 * seeds.seed_maps.resize(values, (40, 50))[0]).round().numpy()
    for tile in tiles.tiles((40, 50)):
        tile.of(seen)[...] += 1
        found = tiles.enlarged(values[0].numpy(), (40, 50), tile)
        assert np.abs(found - tile.of(whole)).max() <= 5  # OpenCV weighs in steps of 1/32
    assert (seen == 1).all() and len(tiles.tiles((40, 50))) == 12


def test_two_servers_of_one_run_and_a_port_in_use_are_one_line(run: RunFolder) -> None:
    with server._listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=rf"127\.0\.0\.1:{port}: cannot be listened at .*--port"):
            server.serve(Session(run), port=port)
    with pytest.raises(RecipeError, match="--port: 99999; choose one of"):
        server.serve(Session(run), port=99_999)


def test_without_the_extra_there_is_one_line() -> None:
    program = (
        "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None; sys.argv = ['bao', 'review', 'photos'];"
        "from baoseg import cli; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "bao: bao review needs Starlette and uvicorn; pip install 'baoseg[review]'\n"
