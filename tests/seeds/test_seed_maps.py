import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg import seeds
from baoseg.core.errors import DataError, RunError
from baoseg.seeds import SeedMaps


def make_seed(*, size=(6, 9), grid=(3, 4), classes=(2, 5), background=True, threshold=None):
    generator = torch.Generator().manual_seed(0)
    return SeedMaps(
        classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.rand(len(classes), *grid, generator=generator),
        background=torch.rand(*grid, generator=generator) if background else None,
        size=size,
        threshold=threshold,
    )


def bilinear(row, position):
    """Value at a position of samples at cell centres 0.5, 1.5, ..., constant beyond the outermost ones."""
    return np.interp(position, np.arange(len(row)) + 0.5, row)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("classes", [(), (3,), (2, 5)])
def test_a_seed_survives_the_disk_up_to_half_precision(tmp_path, classes, background):
    seed = make_seed(classes=classes, background=background)
    path = tmp_path / "maps" / "a.npz"
    seeds.save(path, seed)
    loaded = seeds.load(path)
    assert loaded.size == seed.size
    assert torch.equal(loaded.classes, seed.classes)
    assert torch.equal(loaded.scores, seed.scores.half().float())
    assert loaded.scores.dtype == torch.float32
    if background:
        assert torch.equal(loaded.background, seed.background.half().float())
    else:
        assert loaded.background is None
    seeds.save(path, loaded)  # and again without any loss
    assert torch.equal(seeds.load(path).scores, loaded.scores)


@pytest.mark.parametrize("threshold", [0.0, 1 / 3, 1.0])
def test_a_threshold_survives_the_disk_exactly_and_upsampling(tmp_path, threshold):
    seed = make_seed(background=False, threshold=threshold)
    path = tmp_path / "a.npz"
    seeds.save(path, seed)
    loaded = seeds.load(path)
    assert loaded.threshold == threshold
    assert type(loaded.threshold) is float
    assert loaded.background is None
    assert loaded.upsample().threshold == threshold
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["classes", "scores", "size", "threshold"]
        assert (arrays["threshold"].dtype, arrays["threshold"].shape) == (np.float64, ())


def test_a_seed_without_a_threshold_says_so(tmp_path):
    seeds.save(tmp_path / "a.npz", make_seed(background=False))
    assert seeds.load(tmp_path / "a.npz").threshold is None


def test_a_seed_that_knows_its_background_needs_no_threshold_of_others():
    assert make_seed(background=True).decided
    assert make_seed(background=False, threshold=0.0).decided
    assert not make_seed(background=False).decided


def test_the_file_holds_plain_arrays(tmp_path):
    path = tmp_path / "a.npz"
    seeds.save(path, make_seed())
    with np.load(path, allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype for name in arrays} == {
            "classes": np.int16,
            "scores": np.float16,
            "background": np.float16,
            "size": np.int32,
        }
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in zipfile.ZipFile(path).infolist())


def test_10_000_images_of_two_classes_stay_below_3_gigabytes(tmp_path):
    grid = (-(-375 // 4), -(-500 // 4))
    path = tmp_path / "a.npz"
    seeds.save(path, make_seed(size=(375, 500), grid=grid))
    size = path.stat().st_size
    assert size < 300_000
    assert 10_000 * size < 3e9
    values = 2 * 3 * grid[0] * grid[1]  # two classes and the background in two bytes each
    assert values <= size < values + 2_000


@settings(deadline=None, max_examples=20)
@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    background=st.booleans(),
)
def test_upsampling_interpolates_between_cell_centres(grid, size, background):
    seed = make_seed(grid=grid, size=size, background=background)
    full = seed.upsample()
    rows = [(y + 0.5) * grid[0] / size[0] for y in range(size[0])]
    columns = [(x + 0.5) * grid[1] / size[1] for x in range(size[1])]
    pairs = list(zip(full.scores, seed.scores, strict=True))
    if background:
        pairs.append((full.background, seed.background))
    for upsampled, cells in pairs:
        expected = [
            [bilinear([bilinear(row, column) for row in cells.numpy()], position) for column in columns]
            for position in rows
        ]
        np.testing.assert_allclose(upsampled.numpy(), expected, atol=1e-6)
    assert full.upsample() is full


def test_upsampling_a_seed_without_classes_keeps_the_images_size():
    assert make_seed(classes=(), size=(6, 9)).upsample().scores.shape == (0, 6, 9)


def test_missing_maps_say_which_step_makes_them(tmp_path):
    with pytest.raises(DataError, match=r"a\.npz: no such maps; run `bao maps`"):
        seeds.load(tmp_path / "a.npz")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path):
    content = bytearray(path.read_bytes())
    position = content.index(b"NUMPY", content.index(b"scores.npy")) + 200
    content[position] ^= 0xFF
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not an archive")


def other_arrays(path):
    np.savez(path, something=np.zeros(3))


def single_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled(path):
    np.savez(path, classes=np.array([{"a": 1}], dtype=object), scores=np.zeros((1, 1, 1)), size=np.array([1, 1]))


def wrong_dimensions(path):
    np.savez(path, classes=np.array([1]), scores=np.zeros((1, 2, 2)), size=np.array([1, 2, 3]))


@pytest.mark.parametrize(
    "damage", [truncated, flipped, empty, text, other_arrays, single_array, pickled, wrong_dimensions]
)
def test_damaged_maps_are_one_line_with_a_remedy(tmp_path, damage):
    path = tmp_path / "a.npz"
    seeds.save(path, make_seed(grid=(10, 10)))
    damage(path)
    with pytest.raises(DataError, match=r"a\.npz: not a file of maps .*; delete it and run `bao maps` again") as caught:
        seeds.load(path)
    assert "\n" not in str(caught.value)


def test_a_failed_write_keeps_the_old_maps(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    seeds.save(path, make_seed(classes=(1,)))

    def savez(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(RunError, match="no space left"):
        seeds.save(path, make_seed(classes=(2,)))
    assert seeds.load(path).classes.tolist() == [1]
    assert list(tmp_path.iterdir()) == [path]
