"""Makes docs/review.jpg, the page of `bao review`.

    pip install -e '.[dev]' && python docs/review.py

The photographs come with scikit-image: Chelsea the cat (Stefan van der Walt, CC0), a cup of coffee (Pikolo Espresso
Bar / Rachel Michetti, public domain), astronaut Eileen Collins (NASA, public domain), a rocket (SpaceX, CC0). Their
masks are those of `bao try`, laid into a run folder as if `bao run photos` had made them.
"""

import contextlib
import io
import shutil
import tempfile
import threading
import time
from pathlib import Path

import skimage.data
import torch
import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

import baoseg
from baoseg import recipes, seeds
from baoseg.core.run_folder import RunFolder
from baoseg.data.images import as_image, write_mask
from baoseg.pipeline import manifest
from baoseg.recipes import override
from baoseg.review.server import application
from baoseg.review.session import Session

PHOTOS = {"chelsea": "cat", "coffee": "cup", "astronaut": "space shuttle", "rocket": "missile"}
SHOWN = "coffee"
HERE = Path(__file__).resolve()


def make_run() -> RunFolder:
    data, classes = Path("my_photos"), sorted(PHOTOS.values())
    data.mkdir()
    for name in PHOTOS:
        Image.fromarray(getattr(skimage.data, name)()).save(data / f"{name}.png")
    lines = [f"{name}.png,{label};\n" for name, label in PHOTOS.items()]
    (data / "labels.csv").write_text("image,labels\n" + "".join(lines), encoding="utf-8")
    recipe = override(recipes.named("photos"), data=str(data))
    with manifest.opened(recipe, Path("runs/mine"), check=lambda *_: None, check_addition=lambda *_: None) as run:
        stage = run.stage(recipe.names[-1])
    labeler = baoseg.load("imagenet")
    for name, label in PHOTOS.items():
        image = as_image(data / f"{name}.png")
        result = labeler(image, labels=[label])
        scores = torch.from_numpy(result.class_maps[label])[None]
        number, size = classes.index(label) + 1, tuple(image.shape[-2:])
        grid = seeds.seed_maps.resize(scores, (size[0] // 4, size[1] // 4))
        maps = seeds.SeedMaps(torch.tensor([number]), grid, 1 - grid[0], size)
        seeds.save(stage.maps("all", name), maps)
        write_mask(stage.mask("all", name), torch.from_numpy(number * (result.mask > 0)).to(torch.uint8))
    return run


def photograph(page: Page, address: str) -> bytes:
    page.goto(address)
    page.locator("#list button", has_text=SHOWN).click()
    page.locator("h1", has_text=SHOWN).wait_for()
    page.locator("#view").hover(position={"x": 420, "y": 260})
    page.wait_for_timeout(300)
    return page.screenshot()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), sync_playwright() as playwright:
        session = Session(make_run())
        list(session.rate())
        server = uvicorn.Server(uvicorn.Config(application(session), port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        shown = photograph(browser.new_page(viewport={"width": 1400, "height": 800}), address)
        browser.close()
        server.should_exit = True
        thread.join()
    with Image.open(io.BytesIO(shown)) as image:
        image.convert("RGB").save(HERE.with_name("review.jpg"), quality=82)


if __name__ == "__main__":
    main()
