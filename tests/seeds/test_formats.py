import builtins
import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baoseg import seeds
from baoseg.core.errors import DataError
from baoseg.seeds import SeedMaps, formats
from baoseg.seeds.fusion import scaled

SIZE = (9, 14)
GRID = (3, 4)
LABELS = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])  # classes 2 and 4 of 5


def read(folder, name="a", *, labels=LABELS, size=SIZE, allow_pickle=True, **more):
    return formats.read(folder, name, labels=labels, size=size, allow_pickle=allow_pickle, **more)


def random_maps(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def on_grid(maps):
    return scaled(torch.from_numpy(np.stack(maps).astype(np.float32)), GRID)


def psa(maps=None):
    maps = random_maps(2, *SIZE) if maps is None else maps
    return {3: maps[1], 1: maps[0]}


def irn(maps=None):
    maps = random_maps(2, *SIZE) if maps is None else maps
    return {"keys": np.array([1, 3]), "cam": np.ascontiguousarray(maps[:, ::4, ::4]), "high_res": maps}


def header(content=None):
    """What numpy.save writes before a dict."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    return file.getvalue()


def write(folder, content, name="a.npy"):
    (folder / name).write_bytes(header() + content)


def pickled(content, protocol=4):
    return pickle.dumps(np.array(content, dtype=object), protocol=protocol)


# formats


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("key", [int, np.int64, np.uint8])
def test_a_dict_of_maps(tmp_path, dtype, key):
    maps = random_maps(2, *SIZE, dtype=dtype)
    np.save(tmp_path / "a.npy", {key(3): maps[1], key(1): maps[0]}, allow_pickle=True)
    seed = read(tmp_path)
    assert seed.classes.tolist() == [2, 4]
    assert (seed.size, seed.background, seed.threshold) == (SIZE, None, None)
    assert torch.equal(seed.scores, on_grid(maps))
    assert seed.scores.amin((1, 2)).tolist() == [0, 0] and seed.scores.amax((1, 2)).tolist() == [1, 1]


@pytest.mark.parametrize("keys", [np.array([3, 1]), np.array([3, 1], np.uint8), [3, 1], (3, 1), [np.int64(3), 1]])
def test_a_dict_of_irn_with_maps_of_the_images_size(tmp_path, keys):
    maps = random_maps(2, *SIZE)
    content = {"keys": keys, "cam": np.zeros((2, 3, 4), np.float32), "high_res": maps}
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    seed = read(tmp_path)
    assert seed.classes.tolist() == [2, 4]
    assert torch.equal(seed.scores, on_grid(maps[::-1]))


def test_a_dict_of_irn_with_coarse_maps_only(tmp_path):
    maps = random_maps(2, *GRID)
    np.save(tmp_path / "a.npy", {"keys": np.array([1, 3]), "cam": maps}, allow_pickle=True)
    clipped = np.clip(maps.astype(np.float64), 0, None)
    expected = [(each - each.min()) / np.ptp(each) for each in clipped]
    np.testing.assert_allclose(read(tmp_path).scores.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("make", [psa, irn])
def test_files_of_older_versions_of_numpy(tmp_path, protocol, module, make):
    content = pickled(make(), protocol)
    name = np.array(0).__reduce__()[0].__module__.encode()
    if protocol < 4:
        content = content.replace(name, module)
    else:  # the name has its length in front, and the frame around it
        length = bytes([len(name)])
        content = content[:2] + content[11:].replace(length + name, bytes([len(module)]) + module)
    write(tmp_path, content)
    assert torch.equal(read(tmp_path).scores, on_grid(random_maps(2, *SIZE)))


def test_maps_in_another_order_of_memory(tmp_path):
    maps = np.asfortranarray(random_maps(2, *SIZE))
    np.save(tmp_path / "a.npy", irn(maps), allow_pickle=True)
    assert torch.equal(read(tmp_path).scores, on_grid(maps))


@pytest.mark.parametrize("background", [None, torch.linspace(0, 1, 12).view(GRID)])
def test_a_seed_of_ours_survives(tmp_path, background):
    scores = on_grid(random_maps(2, *SIZE)).half().float()
    threshold = 0.25 if background is None else None
    seeds.save(tmp_path / "a.npz", SeedMaps(torch.tensor([2, 4]), scores, background, SIZE, threshold))
    seed = read(tmp_path, allow_pickle=False)
    assert (seed.classes.tolist(), seed.size, seed.threshold) == ([2, 4], SIZE, threshold)
    assert torch.equal(seed.scores, scores)
    if background is None:
        assert seed.background is None
    else:
        torch.testing.assert_close(seed.background, background, atol=1e-3, rtol=0)


def test_a_seed_of_ours_on_another_grid_comes_to_a_quarter_of_the_sides(tmp_path):
    fine = torch.from_numpy(random_maps(2, *SIZE)).clamp(min=0).half().float()
    seeds.save(tmp_path / "a.npz", SeedMaps(torch.tensor([2, 4]), fine, fine[0], SIZE))
    seed = read(tmp_path)
    assert torch.equal(seed.scores, scaled(fine, GRID))
    assert torch.equal(seed.background, scaled(fine[:1], GRID)[0])


@settings(deadline=None, max_examples=30)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    held=st.sets(st.integers(0, 4)),
    named=st.sets(st.integers(0, 4)),
)
def test_all_formats_say_the_same(tmp_path_factory, size, held, named):
    """The classes are those of the image; what a file lacks is zero, what it has beyond them is dropped.

    A file that has only others is refused.
    """
    folder = tmp_path_factory.mktemp("seeds")
    maps = {index: random_maps(5, *size)[index] for index in sorted(held)}
    stack = np.stack([*maps.values()]) if maps else np.zeros((0, *size), np.float32)
    np.save(folder / "psa.npy", maps, allow_pickle=True)
    np.save(folder / "irn.npy", {"keys": np.array(sorted(held), np.int64), "high_res": stack}, allow_pickle=True)
    classes = torch.tensor(sorted(held), dtype=torch.int64) + 1
    seeds.save(folder / "ours.npz", SeedMaps(classes, torch.from_numpy(stack), None, size))
    labels = torch.tensor([float(index in named) for index in range(5)])
    if held and named and not held & named:
        for name in ("psa", "irn", "ours"):
            with pytest.raises(DataError, match=r"has maps of the class indices [\d, ]+, but its image has the labels"):
                read(folder, name, labels=labels, size=size)
        return
    found = [read(folder, name, labels=labels, size=size) for name in ("psa", "irn", "ours")]
    for seed in found:
        assert seed.classes.tolist() == [index + 1 for index in sorted(named)]
        assert seed.scores.shape == (len(named), -(-size[0] // 4), -(-size[1] // 4))
        for index, scores in zip(sorted(named), seed.scores, strict=True):
            assert index in held or not scores.any()
    assert torch.equal(found[0].scores, found[1].scores)
    if labels.any() and max(size) <= 4:
        assert not found[0].scores.any()  # one cell has no range
    else:
        torch.testing.assert_close(found[0].scores, found[2].scores, atol=2e-2, rtol=0)


def test_a_background_in_front_of_the_keys_has_no_map(tmp_path):
    maps = random_maps(2, *SIZE)
    np.save(tmp_path / "a.npy", {"keys": np.array([-1, 1, 3]), "high_res": maps}, allow_pickle=True)
    assert torch.equal(read(tmp_path).scores, on_grid(maps))


def test_a_class_without_evidence_is_a_map_of_zeros(tmp_path):
    np.save(tmp_path / "a.npy", psa(np.stack([-np.ones(SIZE), np.full(SIZE, 7)])), allow_pickle=True)
    assert not read(tmp_path).scores.any()


def test_values_of_any_size_are_brought_to_0_and_1(tmp_path):
    maps = np.tile(np.repeat([[0, 3e38]], 7, axis=1), (9, 1)).astype(np.float32)
    np.save(tmp_path / "a.npy", psa(np.stack([maps, maps / 1e38])), allow_pickle=True)
    torch.testing.assert_close(*read(tmp_path).scores)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.float16])
def test_the_type_and_the_unit_of_values_do_not_count(tmp_path, dtype):
    """A disc of 0 and 1, of 0 and 255, or of -5 and 37 is one seed."""
    disc = (np.add.outer((np.arange(9) - 4) ** 2, (np.arange(14) - 7) ** 2) <= 9).astype(float)
    for name, values in {"one": disc, "bytes": disc * 255, "logits": disc * 42 - 5}.items():
        kept = values if dtype is not bool else disc
        np.save(tmp_path / f"{name}.npy", irn(np.stack([kept, kept]).clip(0, 255).astype(dtype)), allow_pickle=True)
    expected = on_grid([disc, disc])
    for name in ("one", "bytes", "logits"):
        torch.testing.assert_close(read(tmp_path, name).scores, expected, atol=1e-3, rtol=0)


# classes of another order


def saved(folder, classes, size=SIZE):
    """A file for each image, with the classes from 0 that are listed for it."""
    for number, keys in enumerate(classes):
        np.save(folder / f"{number}.npy", {key: random_maps(*size) for key in keys}, allow_pickle=True)
    return [str(number) for number in range(len(classes))]


def survey(folder, held, labels, **more):
    vectors = [torch.tensor([float(index in present) for index in range(5)]) for present in labels]
    return formats.survey(folder, saved(folder, held), vectors.__getitem__, allow_pickle=True, **more)


def test_seeds_counted_from_1_are_refused_one_by_one(tmp_path):
    np.save(tmp_path / "a.npy", {"keys": np.array([2]), "high_res": random_maps(1, *SIZE)}, allow_pickle=True)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    path = tmp_path / "a.npy"
    assert str(caught.value).startswith(
        f"{path}: has maps of the class indices 2, but its image has the labels 1, 3; indices count from 0"
    )
    assert read(tmp_path, labels=torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0])).classes.tolist() == [3, 4]
    assert read(tmp_path, labels=torch.zeros(5)).classes.tolist() == []


def test_seeds_counted_from_1_are_refused_by_the_folder_where_images_have_several_labels(tmp_path):
    """Each file has one of its image's classes, so none of them is odd by itself."""
    labels = [{0, 1}, {1, 2}, {0, 1, 2}]
    with pytest.raises(DataError, match=r"3 of 3 seeds lack .* \(0.npy has the class indices 1, 2 for 0, 1\); indices"):
        survey(tmp_path, [{index + 1 for index in present} for present in labels], labels)
    assert survey(tmp_path, labels, labels) == ""


def test_a_tool_that_finds_the_classes_itself_may_err(tmp_path):
    labels = [{0, 1}, {1, 2}, {0, 1}, {3}, {2}]
    assert survey(tmp_path, [{0, 2}, {1, 2}, {0, 1}, {3, 4}, {2}], labels).startswith(
        f"{tmp_path}: 1 of 5 seeds lack a class"
    )
    assert survey(tmp_path, [set(range(5))] * 5, labels) == ""
    assert survey(tmp_path, [set()] * 5, labels).startswith(f"{tmp_path}: 5 of 5 seeds lack")


def test_seeds_that_are_missing_are_counted(tmp_path):
    saved(tmp_path, [{0}, {0}])
    names = ["0", "p/1", "2", "3"]
    labels = torch.tensor([1.0])
    with pytest.raises(DataError, match=rf"{tmp_path}: 3 of 4 images have no seed, p/1 for one \(.npz or .npy\)"):
        formats.survey(tmp_path, names, lambda number: labels, allow_pickle=True)
    with pytest.raises(DataError, match="2 of 4 images have no seed, 2 for one"):
        formats.survey(tmp_path, names, lambda number: labels, allow_pickle=True, flat=True)


def test_of_a_large_folder_so_many_files_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LOOKED_AT", 3)
    seen = []
    vectors = [torch.tensor([0.0, 1.0])] * 7
    formats.survey(
        tmp_path, saved(tmp_path, [{1}] * 7), lambda number: seen.append(number) or vectors[number], allow_pickle=True
    )
    assert seen == [0, 3, 6]


def test_the_survey_names_a_file_that_cannot_be_read(tmp_path):
    names = saved(tmp_path, [{1}, {7}])
    with pytest.raises(DataError, match=r"1\.npy: class index 7 is outside 0\.\.1"):
        formats.survey(tmp_path, names, lambda number: torch.tensor([0.0, 1.0]), allow_pickle=True)


# which file


def test_the_name_may_have_folders(tmp_path):
    (tmp_path / "b.c").mkdir()
    np.save(tmp_path / "b.c" / "a.1.npy", psa(), allow_pickle=True)
    assert read(tmp_path, "b.c/a.1").classes.tolist() == [2, 4]


def test_a_flat_folder_is_read_where_the_caller_says_so(tmp_path):
    np.save(tmp_path / "a.npy", psa(), allow_pickle=True)
    assert read(tmp_path, "b/a", flat=True).classes.tolist() == [2, 4]
    with pytest.raises(DataError, match=r"b/a\.npz, \S*b/a\.npy: no such seed; check the folder"):
        read(tmp_path, "b/a")


def test_the_whole_name_goes_first(tmp_path):
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "a.npy", {0: np.zeros(3)}, allow_pickle=True)
    np.save(tmp_path / "b" / "a.npy", psa(), allow_pickle=True)
    assert read(tmp_path, "b/a", flat=True).scores.any()


def test_a_missing_seed_names_all_paths(tmp_path):
    with pytest.raises(DataError, match=r"b/a\.npz, \S*b/a\.npy, \S*/a\.npz, \S*/a\.npy: no such seed"):
        read(tmp_path, "b/a", flat=True)


def test_two_seeds_of_one_image_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", psa(), allow_pickle=True)
    (tmp_path / "a.npz").touch()
    with pytest.raises(DataError, match=r"a\.npz: there is also a\.npy; remove"):
        read(tmp_path)


# mistakes

MISTAKES = {
    "index too high": ({5: np.zeros(SIZE)}, r"class index 5 is outside 0\.\.4"),
    "indices too high": ({1: np.zeros(SIZE), 7: np.zeros(SIZE), 5: np.zeros(SIZE)}, r"class index 5, 7 is outside"),
    "another class": (
        {0: np.zeros(SIZE), 2: np.zeros(SIZE)},
        "indices 0, 2, but its image has the labels 1, 3; ",
    ),
    "background as a key": ({-1: np.zeros(SIZE), 1: np.zeros(SIZE)}, r"class index -1 is outside 0\.\.4"),
    "size of another picture": ({1: np.zeros((14, 9))}, r"maps of 14 x 9 pixels for an image of 9 x 14 pixels"),
    "no plane": ({1: np.zeros(9)}, r"maps of 9 pixels for an image of"),
    "names as keys": ({"dog": np.zeros(SIZE)}, "holds neither"),
    "fractions as keys": ({1.0: np.zeros(SIZE)}, "neither integers nor strings"),
    "truth values as keys": ({True: np.zeros(SIZE)}, "neither integers nor strings"),
    "lists as maps": ({1: [[0.0]]}, "holds neither"),
    "no numbers": ({1: np.full(SIZE, np.nan)}, "class index 1 has values that are NaN or infinite"),
    "infinity": ({1: np.full(SIZE, np.inf)}, "values that are NaN or infinite"),
    "beyond single precision": ({1: np.full(SIZE, 1e300)}, "values that are NaN or infinite"),
    "complex": ({1: np.zeros(SIZE, complex)}, "an array of 'c16'"),
    "text": ({1: np.full(SIZE, "a")}, "an array of 'U1'"),
    "objects": ({1: np.full(SIZE, None)}, "a state that no array has"),
    "one object": ({1: np.array(None)}, "holds neither"),
    "records": ({1: np.zeros(SIZE, "f4,f4")}, "holds more than plain arrays"),
    "a set": ({1: {2}}, "opcode EMPTY_SET"),
    "an array class": ({1: np.ma.zeros(SIZE)}, "it names 'numpy.ma"),
    "no keys": ({"cam": np.zeros((1, 3, 4))}, "holds neither"),
    "no maps": ({"keys": np.array([1])}, "holds neither"),
    "keys that are no indices": ({"keys": np.array([1.0]), "cam": np.zeros((1, 3, 4))}, "not a list of class indices"),
    "a key alone": ({"keys": np.array(1), "cam": np.zeros((1, 3, 4))}, "not a list of class indices"),
    "fewer keys than maps": ({"keys": [1], "cam": np.zeros((2, 3, 4))}, "1 class indices for 2 maps"),
    "0 in front": (
        {"keys": [0, 2], "cam": np.zeros((1, 3, 4))},
        "2 class indices for 1 maps; .* without the background",
    ),
    "a map of the background": ({"keys": [-1, 2], "cam": np.zeros((2, 3, 4))}, r"class index -1 is outside"),
    "a class twice": ({"keys": [1, 1], "cam": np.zeros((2, 3, 4))}, "a class has two maps"),
    "one plane": ({"keys": [1], "cam": np.zeros((3, 4))}, r"maps of shape \(3, 4\)"),
    "no cells": ({"keys": [1], "cam": np.zeros((1, 0, 4))}, r"maps of shape \(1, 0, 4\)"),
    "rows and columns exchanged": (
        {"keys": [1], "cam": np.zeros((1, 4, 3))},
        "maps of 4 x 3 cells for an image of 9 x 14 pixels: rows and columns are exchanged; ",
    ),
    "high_res of another size": ({"keys": [1], "high_res": np.zeros((1, 3, 4))}, "maps of 3 x 4 pixels for an image"),
    "a tensor": ({1: torch.zeros(SIZE)}, r"it names 'torch.* \(of a torch tensor, \.numpy\(\)\)"),
    "keys of a tensor": ({"keys": torch.tensor([1]), "cam": np.zeros((1, 3, 4))}, r"torch tensor, \.numpy\(\)"),
}


@pytest.mark.parametrize(("content", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line_that_names_the_file(tmp_path, content, message):
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(DataError, match=rf"a\.npy: .*{message}") as caught:
        read(tmp_path)
    assert "; " in str(caught.value) and "\n" not in str(caught.value)


def test_an_array_that_is_no_dict_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(SIZE))
    np.save(tmp_path / "b.npy", [{1: np.zeros(SIZE)}], allow_pickle=True)
    np.save(tmp_path / "c.npy", np.array(None), allow_pickle=True)
    for name in "abc":
        for allow_pickle in (True, False):
            with pytest.raises(DataError, match=rf"{name}\.npy: "):
                read(tmp_path, name, allow_pickle=allow_pickle)


def test_seeds_of_ours_of_another_image_or_other_classes_are_refused(tmp_path):
    maps = torch.zeros(1, 3, 4)
    seeds.save(tmp_path / "a.npz", SeedMaps(torch.tensor([2]), maps, None, (14, 9)))
    seeds.save(tmp_path / "b.npz", SeedMaps(torch.tensor([6]), maps, None, SIZE))
    seeds.save(tmp_path / "c.npz", SeedMaps(torch.tensor([2, 2]), maps.expand(2, -1, -1), None, SIZE))
    for name, message in {
        "a": "for an image of 14 x 9 pixels, not 9 x 14",
        "b": "class index 5",
        "c": "two maps",
    }.items():
        with pytest.raises(DataError, match=rf"{name}\.npz: .*{message}"):
            read(tmp_path, name)


def test_a_damaged_seed_of_ours_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, classes=np.array([2]), scores=random_maps(1, *GRID), size=np.array(SIZE))
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            read(tmp_path)
        except DataError as error:
            assert "a.npz" in str(error)


# hostile files


def test_a_pickle_is_read_only_where_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", psa(), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy: the file is a pickle; .* --allow-pickle"):
        formats.read(tmp_path, "a", labels=LABELS, size=SIZE)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("where", ["alone", "as a map", "as keys", "in an array"])
@pytest.mark.parametrize(
    "make",
    [
        lambda target: Call(os.system, f"echo > {target}"),
        lambda target: Call(builtins.eval, f"open({target!r}, 'w')"),
        lambda target: Call(builtins.exec, f"open({target!r}, 'w')"),
        lambda target: Call(open, target, "w"),
        lambda target: Call(np.save, target, 0),
        lambda target: Call(np.ndarray.tofile, np.zeros(1), target),
        lambda target: Call(getattr(np, "memmap"), target, "u1", "w+", 0, (1,)),  # noqa: B009
    ],
    ids=["system", "eval", "exec", "open", "save", "tofile", "memmap"],
)
def test_nothing_that_a_pickle_names_is_called(tmp_path, make, where, protocol):
    target = tmp_path / "made"
    call = make(str(target))
    content = {
        "alone": call,
        "as a map": {1: call},
        "as keys": {"keys": call, "cam": np.zeros((1, 3, 4))},
        "in an array": {1: np.array([call], dtype=object)},
    }[where]
    write(tmp_path, pickle.dumps(content if where == "alone" else np.array(content, dtype=object), protocol=protocol))
    with pytest.raises(DataError, match=r"a\.npy: "):
        read(tmp_path)
    assert not target.exists()


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module, name):
    return text(module) + text(name) + b"\x93"  # STACK_GLOBAL


def called(module, name, *arguments):
    return named(module, name) + b"(" + b"".join(arguments) + b"tR"


NDARRAY, RECONSTRUCT = named("numpy", "ndarray"), ("numpy._core.multiarray", "_reconstruct")
EMPTY = called(*RECONSTRUCT, NDARRAY, b"K\x00\x85", b"C\x01b")
NUMBERS = called("numpy", "dtype", text("u1"), b"\x89\x88")
OBJECTS = called("numpy", "dtype", text("O8"), b"\x89\x88")
DOUBLED = b")\x94" + b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(60))  # ((t, t), (t, t)), 60 levels of it
DECODE = named("_codecs", "encode") + b"h\x00" + text("latin1") + b"\x86R"
REPEATED = b"(" + text("a" * 200) + b"\x94" + DECODE * 60 + b"t"
LARGE = b"\x8a\x06" + (10**13).to_bytes(6, "little")  # LONG1


def state(shape, dtype, content):
    return b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"  # BUILD


def wrapped(dictionary):
    """A dict in the array of one object around it."""
    return EMPTY + state(b")", OBJECTS, b"(" + dictionary + b"l") + b"."


def with_map(program):
    """{1: program} as numpy.save writes it."""
    return EMPTY + state(b")", OBJECTS, b"](}(K\x01" + program + b"ue") + b"."


ATTACKS = {
    "method by a dotted name": with_map(called("numpy", "ndarray.tofile", EMPTY, text("made"))),
    "module by a dotted name": with_map(called("numpy", "lib.npyio.load", text("made"))),
    "module of numpy": with_map(called("numpy.f2py.crackfortran", "myeval", text("1"))),
    "loader of numpy": with_map(called("numpy.lib.npyio", "load", text("made"))),
    "runstring": with_map(called("numpy.testing._private.utils", "runstring", text("1"), b"}")),
    "getattr": with_map(called("builtins", "getattr", NDARRAY, text("tofile"))),
    "another encoding": with_map(called("_codecs", "encode", text("a"), text("rot13"))),
    "one text decoded often": with_map(REPEATED),
    "a class called": with_map(NDARRAY + LARGE + b"\x85R"),
    "a class made": with_map(NDARRAY + LARGE + b"\x85\x81"),  # NEWOBJ
    "an instance": b"(ios\nsystem\n.",  # INST
    "an object": b"(" + named("os", "system") + text("echo") + b"o.",  # OBJ
    "attributes of a class": with_map(NDARRAY + b"}" + text("tofile") + b"Nsb"),
    "attributes of a function": with_map(named("_codecs", "encode") + b"N}" + text("__doc__") + b"Ns\x86b"),
    "an extension": b"\x82\x01.",
    "a persistent id": text("a") + b"Q.",
    "a persistent line": b"Pa\n.",
    "large from the start": with_map(called(*RECONSTRUCT, NDARRAY, LARGE + b"\x85", b"C\x01b")),
    "large afterwards": with_map(EMPTY + state(LARGE + b"\x85", NUMBERS, b"C\x01a")),
    "larger than 64 bits": with_map(EMPTY + state((LARGE * 3 + b"\x87"), NUMBERS, b"C\x01a")),
    "a shape of words": with_map(EMPTY + state(text("a") + b"\x85", NUMBERS, b"C\x01a")),
    "a large dtype": with_map(called("numpy", "dtype", text("V2000000000"), b"\x89\x88")),
    "a dtype in an order": with_map(EMPTY + state(b")", NUMBERS + b"(K\x03" + text("(1000,1000)") + b"tb", b"C\x01a")),
    "objects that are not there": with_map(EMPTY + state(b"M\xff\xff\x85", OBJECTS, b"]")),
    "a scalar of objects": with_map(called("numpy._core.multiarray", "scalar", OBJECTS, b"C\x08" + bytes(8))),
    "a deep key": b"}" + b")" + b"\x85" * 1_000_000 + b"Ns.",
    "a key of exponential cost": DOUBLED + b"}h\x3cNs.",
    "a deep list": b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "a deep map": with_map(b"]" * 1_000_000 + b"a" * 999_999),
    "a list in itself": with_map(b"]\x94h\x00a"),
    "a dict in itself": EMPTY + state(b")", OBJECTS, b"]}\x94(K\x01h\x00ua") + b".",
    "a memo of gigabytes": b"Nr\xff\xff\xff\xff.",
    "bytes of gigabytes": b"\x8e" + struct.pack("<Q", 2**62) + b".",
    "text of gigabytes": b"\x8d" + struct.pack("<Q", 2**62) + b".",
    "a bytearray of gigabytes": b"\x96" + struct.pack("<Q", 2**36) + b".",
    "a frame of gigabytes": b"\x95" + struct.pack("<Q", 2**62) + b"N.",
    "a number of gigabytes": b"\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "a number of many digits": with_map(b"I" + b"9" * 5000 + b"\n"),
    "a large class": EMPTY + state(b")", OBJECTS, b"](}(\x8a\xff" + b"\x7f" * 255 + EMPTY + b"ue") + b".",
    "a key twice": EMPTY + state(b")", OBJECTS, b"](}(K\x01NK\x01Nue") + b".",
    "a key without a value": EMPTY + state(b")", OBJECTS, b"](}(K\x01ue") + b".",
    "nothing on the stack": b"\x86.",
    "no mark": b"t.",
    "nothing left": b"\x80\x04.",
    "two things left": pickled(psa())[:-1] + b"N.",
    "bytes after the end": pickled(psa()) + b"\x00",
    "no end": pickled(psa())[:-1],
    "no pickle": b"\x00\xff\x00",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("program", ATTACKS.values(), ids=ATTACKS.keys())
def test_hostile_and_broken_pickles_are_refused(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, program)
    with pytest.raises(DataError, match=r"a\.npy: ") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_the_attacks_are_built_as_numpy_builds_its_files(tmp_path):
    """The same bytes with nothing hostile in them are read, so that what is refused above is the attack."""
    shape = b"K" + bytes([SIZE[0]]) + b"K" + bytes([SIZE[1]]) + b"\x86"
    content = bytes(range(126))
    write(tmp_path, with_map(EMPTY + state(shape, NUMBERS, b"C\x7e" + content)))
    expected = np.arange(126, dtype=np.float32).reshape(1, *SIZE)
    assert torch.equal(read(tmp_path).scores[:1], on_grid(expected))


@pytest.mark.parametrize("make", [psa, irn])
def test_no_part_of_a_file_is_taken_for_the_whole(tmp_path, make):
    np.save(tmp_path / "a.npy", make(), allow_pickle=True)
    whole = (tmp_path / "a.npy").read_bytes()
    for length in range(0, len(whole), 29):
        (tmp_path / "a.npy").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.npy: "):
            read(tmp_path)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(make=st.sampled_from([psa, irn]), protocol=st.sampled_from([2, 4]), data=st.data())
def test_a_file_with_changed_bytes_is_read_or_refused(tmp_path, make, protocol, data):
    content = bytearray(header() + pickled(make(random_maps(2, *SIZE, dtype=np.float16)), protocol))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.npy").write_bytes(content)
    try:
        seed = read(tmp_path)
    except DataError as error:
        assert "a.npy: " in str(error) and "\n" not in str(error)
    else:
        assert seed.scores.isfinite().all()
        assert seed.scores.min() >= 0 and seed.scores.max() <= 1
