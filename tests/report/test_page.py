import csv
import html
import json
import re
import shutil
from io import BytesIO, StringIO
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from reports import EVIL, Scenes, seed_of, write_report, write_run
from rich.console import Console

from baoseg import report, seeds
from baoseg.core.errors import DataError, RecipeError, RunError
from baoseg.core.files import read_json, write_json
from baoseg.core.run_folder import RunFolder
from baoseg.seeds import SeedMaps

CLASSES = ("dog", "sofa", "train")


def gallery(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def cells(page: str, table: str) -> list[list[str]]:
    """The text of a table's body."""
    found = re.search(rf'<table id="{table}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert found
    rows = re.findall(r"<tr>(.*?)</tr>", found[1], re.DOTALL)
    text = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<.*?>", "", cell)) for cell in row] for row in text]


def decode(uri: str) -> np.ndarray:
    with urlopen(uri) as file:
        return np.asarray(Image.open(BytesIO(file.read())))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    return write_report(tmp_path_factory.mktemp("report"), Scenes(5, CLASSES))


def test_summary_says_what_the_metrics_say(written: tuple[RunFolder, str]) -> None:
    run, page = written
    fixed, learned = (read_json(run.stage(name).metrics) for name in ("transcam", "bao"))
    for row, own, oracle in zip(
        cells(page, "summary"),
        (fixed["fixed"], learned["threshold_free"]),
        (fixed["oracle"], learned["oracle"]),
        strict=True,
    ):
        assert row[2:7] == [f"{own[key]:.1f}" for key in ("miou", "fp", "fn", "precision", "recall")]
        assert row[7:] == [
            f"{oracle['miou']:.1f}",
            f"{oracle['threshold']:.2f}",
            f"{own['miou'] - oracle['miou']:+.1f}",
        ]
    assert [row[0] for row in cells(page, "summary")] == ["transcam", "bao"]
    assert "0.30" in cells(page, "summary")[0][1]
    assert "learned" in cells(page, "summary")[1][1]


def test_classes_say_what_the_metrics_say(written: tuple[RunFolder, str]) -> None:
    run, page = written
    fixed, learned = (read_json(run.stage(name).metrics) for name in ("transcam", "bao"))
    columns = (fixed["fixed"], learned["threshold_free"], fixed["oracle"], learned["oracle"])
    expected = [
        [name, *(f"{column['iou'][i]:.1f}" for column in columns)] for i, name in enumerate(("background", *CLASSES))
    ]
    assert cells(page, "per-class") == expected


SIX = ("cam", "transcam", "bnr", "bas", "bao", "cam+bas")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    return write_report(tmp_path_factory.mktemp("compared"), Scenes(4, CLASSES), SIX, measured=True)


def test_costs_are_minutes_megabytes_and_seconds_an_image(
    compared: tuple[RunFolder, str], written: tuple[RunFolder, str]
) -> None:
    _, page = compared
    rows = cells(page, "summary")
    assert [row[10:] for row in rows] == [
        *([f"{1.5 * (i + 1):.1f}", "1500", "0.25"] for i in range(5)),
        ["–"] * 3,  # nothing was trained for a sum
    ]
    assert "Time and memory" in page and "Time and memory" not in written[1]
    assert {len(row) for row in cells(written[1], "summary")} == {10}


def test_costs_of_a_run_of_version_0_1(tmp_path: Path) -> None:
    """Their number of images is called otherwise: 3 seconds for 12 images are 0.25 each."""
    run = write_run(tmp_path, Scenes(1, CLASSES), ["cam"])
    write_json(run.stage("cam").costs, {"maps": {"seconds": 3.0, "peak_mb": None, "pictures": 12}})
    (row,) = report.summary(run, ["cam"])
    assert row.cells()[2][-1] == "0.25"


def test_costs_that_were_not_measured_are_dashes(tmp_path: Path) -> None:
    run = write_run(tmp_path, Scenes(1, CLASSES), ["cam"])
    write_json(run.stage("cam").costs, {"train": {"seconds": 30.0, "peak_mb": None}})
    (row,) = report.summary(run, ["cam"])
    assert row.cells()[2] == ["0.5", "–", "–"]


def test_eight_methods_fit_a_terminal_of_80_columns(tmp_path: Path) -> None:
    methods = ["cam", "transcam", "bnr", "amn", "transcam+amn", "bas", "bao", "cam+bas"]
    run = write_run(tmp_path, Scenes(2, CLASSES), methods, measured=True)
    for width in (80, 132):
        out = StringIO()
        Console(file=out, width=width).print(report.table(run, methods))
        lines = out.getvalue().splitlines()
        assert max(map(len, lines)) <= width and "…" not in out.getvalue()
        first = [line.split()[0] for line in lines if line.strip()]
        assert [word for word in first if word in methods] == 2 * methods  # scores, and below them the costs
        for row in report.summary(run, methods):
            own, oracle, costs = row.cells()
            for row_cells in (own + oracle, [row.method, *costs]):
                assert " ".join(row_cells) in {" ".join(line.split()) for line in lines}


def test_a_long_name_is_broken_in_the_terminal_and_no_number_is(tmp_path: Path) -> None:
    name = "the-seeds-of-another-tool"
    run = write_run(tmp_path, Scenes(1, CLASSES), [name])
    out = StringIO()
    Console(file=out, width=80).print(report.table(run, [name]))
    own, oracle, _ = report.summary(run, [name])[0].cells()
    assert " ".join(own[1:] + oracle) in " ".join(out.getvalue().split())


def test_results_without_a_common_threshold_are_lines_across(compared: tuple[RunFolder, str]) -> None:
    run, page = compared
    assert [row[1] for row in cells(page, "summary")][3:5] == ["per image", "learned"]
    found = re.search(r'id="curve">.*?(<svg.*?</svg>)(.*?)</figure>', page, re.DOTALL)
    assert found
    drawing, legend = found.groups()
    line = r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" clip[^>]*stroke-dasharray: [^>]*stroke: (#\w+)'
    across = {colour: float(top) for _, top, _, end, colour in re.findall(line, drawing) if top == end}
    bas, bao = (report.COLOURS[SIX.index(name)] for name in ("bas", "bao"))
    assert set(across) == {bas, bao}
    own = {name: read_json(run.stage(name).metrics) for name in ("bas", "bao")}
    higher = own["bas"]["image_specific"]["miou"] > own["bao"]["threshold_free"]["miou"]
    assert (across[bas] < across[bao]) == higher  # y goes down in an image
    assert "a threshold for each image" in legend and "background learned" in legend and "fixed beforehand" in legend


def test_legend_explains_only_what_is_drawn(written: tuple[RunFolder, str]) -> None:
    _, page = written
    assert "background learned" in page and "a threshold for each image" not in page


def test_epochs_are_drawn_where_they_were_evaluated(
    compared: tuple[RunFolder, str], written: tuple[RunFolder, str]
) -> None:
    run, page = compared
    assert 'id="epochs"' not in written[1]
    found = re.search(r'id="epochs">.*?(<svg.*?</svg>)(.*?)</figure>', page, re.DOTALL)
    assert found
    drawing, legend = found.groups()
    assert re.findall(r"</i>(.*?)</li>", legend) == [name for name in SIX if name != "cam+bas"]
    point = r"([\d.]+) ([\d.]+) \n"
    lines = re.findall(rf'<path d="M {point}L {point}L {point}" clip[^>]*stroke: (#\w+)', drawing)
    assert len(lines) == 2 * 5  # as decided, and at the oracle threshold
    rise = {}
    for name, i in (("cam", 0), ("bao", 4)):
        rows = list(csv.DictReader(StringIO(run.stage(name).epochs.read_text())))
        own = [float(line[1]) for line in lines if line[6] == report.COLOURS[i]]
        rise[name] = (float(rows[0]["miou"]), own[0])
    per_point = (rise["cam"][1] - rise["bao"][1]) / (rise["bao"][0] - rise["cam"][0])
    first, last = float(lines[0][1]), float(lines[0][5])
    assert (first - last) / per_point == pytest.approx(6, rel=1e-3)  # cam rises by 3 points an epoch


def test_a_sum_has_no_curves_of_training(compared: tuple[RunFolder, str]) -> None:
    _, page = compared
    training = page[page.index('id="losses-title"') :]
    assert re.findall(r"<h3><i[^>]*></i>(.*?)</h3>", training) == [name for name in SIX if name != "cam+bas"]


def test_gallery_holds_the_threshold_of_each_image(compared: tuple[RunFolder, str]) -> None:
    _, page = compared
    thresholds = [[method["threshold"] for method in picture["methods"]] for picture in gallery(page)["images"]]
    assert thresholds == [[None, None, None, pytest.approx(0.35 + 0.1 * i), None, None] for i in range(4)]


def test_terminal_shows_the_rows_of_the_page(written: tuple[RunFolder, str]) -> None:
    run, page = written
    out = StringIO()
    Console(file=out, width=200).print(report.table(run, ["transcam", "bao"]))
    rows = [" ".join(row) for row in cells(page, "summary")]
    assert [row for row in rows if row in {" ".join(line.split()) for line in out.getvalue().splitlines()}] == rows


def test_brackets_in_names_are_no_markup_in_the_terminal(tmp_path: Path) -> None:
    run = write_run(tmp_path, Scenes(1, CLASSES), ["[bold]cam"])
    out = StringIO()
    Console(file=out, width=200).print(report.table(run, ["[bold]cam"]))
    assert "[bold]cam" in out.getvalue()


def test_gap_is_positive_where_no_threshold_is_as_good() -> None:
    row = report.Row(method="bao", background="", scores={"miou": 60.0}, oracle={"miou": 57.5, "threshold": 0.4})
    assert row.gap == 2.5
    assert row.cells()[1] == ["57.5", "0.40", "+2.5"]


def test_page_refers_to_nothing_outside_itself(written: tuple[RunFolder, str]) -> None:
    _, page = written
    addresses = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"https?:|//[a-z]+\.|@import|<link|<iframe", addresses)
    assert all(source.startswith("data:") for source in re.findall(r'\bsrc="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))
    assert "default-src 'none'" in page


def test_names_cannot_become_html(tmp_path: Path) -> None:
    scenes = Scenes(2, (EVIL, "<b>&amp;"))
    run = write_run(tmp_path, scenes, ["cam", "<i>bao"])
    manifest = read_json(run.manifest)
    manifest["recipe"]["name"] = EVIL
    write_json(run.manifest, manifest)
    run.stage("cam").losses.write_text(f"epoch,step,seconds,{EVIL},$x_{{\n1,1,1,0.5,0.6\n")
    path = report.build(run, stages=["cam", "<i>bao"], dataset=scenes, config=report.Config(), title=EVIL)
    page = path.read_text()
    assert page.count("</script>") == 2  # the data and the code
    assert "<img" not in page and "<i>bao" not in page and "<b>&amp;" not in page
    assert gallery(page)["classes"] == ["background", EVIL, "<b>&amp;"]
    assert [row[0] for row in cells(page, "per-class")] == ["background", EVIL, "<b>&amp;"]


def test_without_ground_truth_the_page_says_so(tmp_path: Path) -> None:
    _, page = write_report(tmp_path, Scenes(3, CLASSES, masks=False))
    assert "No ground truth was given" in page
    assert '<table id="summary">' not in page and 'id="curve"' not in page
    assert 'id="losses-title"' in page
    assert [picture["truth"] for picture in gallery(page)["images"]] == [None] * 3


def test_one_method_evaluated_and_one_not(tmp_path: Path) -> None:
    scenes = Scenes(2, CLASSES)
    run = write_run(tmp_path, scenes, ["cam", "bao"])
    run.stage("bao").metrics.unlink()
    run.stage("bao").losses.unlink()
    run.stage("cam").losses.write_text("epoch,step,seconds,cls\n")  # interrupted in its first epoch
    page = report.build(run, stages=["cam", "bao"], dataset=scenes, config=report.Config(), title="t").read_text()
    assert cells(page, "summary")[1] == ["bao", "not evaluated", *["–"] * 8]
    assert "no record of its training" in page
    run.stage("cam").metrics.unlink()
    page = report.build(run, stages=["cam", "bao"], dataset=scenes, config=report.Config(), title="t").read_text()
    assert "have not been evaluated yet" in page and "No ground truth" not in page


def test_scores_that_are_undefined_are_dashes(tmp_path: Path) -> None:
    scenes = Scenes(1, CLASSES)  # the image shows a dog, and no sofa or train
    run = write_run(tmp_path, scenes, ["cam"])
    assert read_json(run.stage("cam").metrics)["fixed"]["iou"][2] is None
    page = report.build(run, stages=["cam"], dataset=scenes, config=report.Config(), title="t").read_text()
    assert cells(page, "per-class")[2] == ["sofa", "–", "–"]


def test_gallery_holds_maps_masks_and_truth(written: tuple[RunFolder, str]) -> None:
    _, page = written
    scenes = Scenes(5, CLASSES)
    data = gallery(page)
    assert [picture["name"] for picture in data["images"]] == scenes.names
    picture, seed = data["images"][1], seed_of(scenes, 1, decision="threshold_free")
    assert decode(picture["image"]).shape == (48, 64, 3)
    assert (decode(picture["truth"]) == scenes.truth(1).numpy()).all()
    cam, bao = picture["methods"]
    assert cam["background"] is None
    assert bao["classes"] == picture["labels"] == [2]
    half = seed.scores.half().float()
    np.testing.assert_allclose(decode(bao["maps"][0]) / 255, half[0], atol=0.5 / 255 + 1e-6)
    assert (decode(bao["background"]) == (255 * seed.background).numpy()).all()
    assert set(np.unique(decode(bao["mask"]))) == {0, 2}
    assert data["methods"][0]["fixed"] == 0.3 and data["methods"][1]["fixed"] is None


def test_images_are_shrunk_but_never_grown(tmp_path: Path) -> None:
    scenes = Scenes(1, CLASSES)
    _, page = write_report(tmp_path / "small", scenes, config=report.Config(image_size=8))
    picture = gallery(page)["images"][0]
    assert (picture["width"], picture["height"]) == (8, 6)
    assert decode(picture["truth"]).shape == decode(picture["methods"][1]["maps"][0]).shape == (6, 8)
    assert (decode(picture["truth"])[2] == [0, 0, 1, 1, 1, 0, 0, 0]).all()  # the rectangle's columns 16..39 of 64
    _, page = write_report(tmp_path / "large", scenes, config=report.Config(image_size=1000))
    assert gallery(page)["images"][0]["width"] == 64


def test_gallery_is_spread_over_the_split(tmp_path: Path) -> None:
    _, page = write_report(tmp_path, Scenes(9, CLASSES, masks=False), config=report.Config(gallery=3))
    assert [picture["name"] for picture in gallery(page)["images"]] == ["scene_1", "scene_4", "scene_7"]


def test_gallery_can_be_left_out(tmp_path: Path) -> None:
    _, page = write_report(tmp_path, Scenes(1, CLASSES, masks=False), config=report.Config(gallery=0))
    assert 'id="gallery"' not in page


def test_masks_may_be_absent_but_maps_may_not(tmp_path: Path) -> None:
    scenes = Scenes(1, CLASSES)
    run = write_run(tmp_path, scenes, ["cam"])
    run.stage("cam").mask("val", "scene_0").unlink()
    options = {"stages": ["cam"], "dataset": scenes, "config": report.Config(), "title": "t"}
    page = report.build(run, **options).read_text()
    assert gallery(page)["images"][0]["methods"][0]["mask"] is None
    run.stage("cam").maps("val", "scene_0").unlink()
    with pytest.raises(DataError, match="bao maps"):
        report.build(run, **options)
    assert run.report.read_text() == page  # the earlier page stands


def test_what_has_no_maps_needs_its_masks(tmp_path: Path) -> None:
    scenes = Scenes(2, CLASSES)
    run = write_run(tmp_path, scenes, ["cam"])
    shutil.rmtree(run.stage("cam").root / "maps")
    run.stage("cam").mask("val", "scene_0").unlink()
    with pytest.raises(
        DataError, match=r"scene_0\.png: no such mask; make it again with the command that made the run"
    ):
        report.build(run, stages=["cam"], dataset=scenes, config=report.Config(), title="t")


def test_many_classes_and_methods(tmp_path: Path) -> None:
    classes = [f"class number {i} of a very long list" for i in range(40)]
    methods = [f"method{i}" for i in range(len(report.COLOURS) + 1)]
    _, page = write_report(tmp_path, Scenes(1, classes), methods)
    assert len(cells(page, "per-class")) == 1 + len(classes)
    assert [row[0] for row in cells(page, "summary")] == methods


def test_loss_curves_go_through_the_recorded_losses(written: tuple[RunFolder, str]) -> None:
    run, page = written
    rows = list(csv.DictReader(StringIO(run.stage("bao").losses.read_text())))
    training = page[page.index('id="losses-title"') :]
    figures = re.findall(r"<svg.*?</svg>", training, re.DOTALL)
    assert len(figures) == 2
    lines = re.findall(r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" clip[^>]*stroke: (#\w+)', figures[1])
    drops = {colour: float(end) - float(start) for _, start, _, end, colour in lines}
    fall = {key: float(rows[0][key]) - float(rows[1][key]) for key in ("cls", "pcl")}
    blue, orange = (drops[colour] for colour in report.COLOURS[:2])
    assert orange / blue == pytest.approx(fall["pcl"] / fall["cls"], rel=1e-3)


@pytest.mark.parametrize(
    "text", ["epoch,step,seconds,cls\n1,1,1,half\n", "loss\n1\n", "epoch,cls\n1\n", "epoch\n1,2\n"]
)
def test_damaged_losses_are_named(tmp_path: Path, text: str) -> None:
    scenes = Scenes(1, CLASSES)
    run = write_run(tmp_path, scenes, ["cam"])
    run.stage("cam").losses.write_text(text)
    with pytest.raises(RunError, match=r"losses\.csv: not a table of losses"):
        report.build(run, stages=["cam"], dataset=scenes, config=report.Config(), title="t")


@pytest.mark.parametrize("text", ["epoch,miou,oracle_miou\n1,half,2\n", "epoch,oracle_miou\n1,2\n"])
def test_damaged_epochs_are_named(tmp_path: Path, text: str) -> None:
    scenes = Scenes(1, CLASSES)
    run = write_run(tmp_path, scenes, ["cam"])
    run.stage("cam").epochs.write_text(text)
    with pytest.raises(RunError, match=r"epochs\.csv: not a table of epochs"):
        report.build(run, stages=["cam"], dataset=scenes, config=report.Config(), title="t")


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(RecipeError, match="at least 0 images"):
        report.Config(gallery=-1)


def test_page_stays_small(tmp_path: Path) -> None:
    """Incompressible images and maps at the sizes of VOC: 24 of them from two methods stay below 6 MB."""

    class Photographs(Scenes):
        def truth(self, index: int) -> torch.Tensor:
            return torch.zeros(375, 500, dtype=torch.uint8)

    scenes = Photographs(24, CLASSES, masks=False)
    run = write_run(tmp_path, scenes, ["cam", "bao"])
    noise = SeedMaps(torch.tensor([1, 3]), torch.rand(2, 94, 125), torch.rand(94, 125), (375, 500))
    for name in scenes.names:
        for stage in ("cam", "bao"):
            seeds.save(run.stage(stage).maps("val", name), noise)
    page = report.build(run, stages=["cam", "bao"], dataset=scenes, config=report.Config(), title="t")
    assert page.stat().st_size < 6e6


def test_the_page_names_the_command_that_reviews_its_masks(written: tuple[RunFolder, str]) -> None:
    run, page = written
    assert f"<code>bao review {run.root}</code>" in html.unescape(page)
