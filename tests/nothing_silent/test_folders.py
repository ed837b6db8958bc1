"""Random folders with random faults of the kinds that people reported: all is read as it was meant, or it is said.

The generator knows what was meant: it writes the same images, labels and masks in one of many ways. Those among them
that the documentation allows have to be read without a word. Of the others it is enough that something is said.
BAOSEG_EXAMPLES=3000 looks at so many folders, drawn anew each time.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nothing_silent.meant import (
    TOLERANCE,
    Collected,
    Draw,
    of_many,
    plain,
    temporary,
    written,
)
from nothing_silent.writer import ODD, Writer

from baoseg.cli.prepare import folder as command
from baoseg.core.errors import DataError
from baoseg.data import Folder, prepare

# -------------------------------------------------------------------------------------------------------- what is read


def check(root: Path) -> list[str]:
    """The problems of a folder, each in one line that says where it is."""
    with contextlib.redirect_stdout(io.StringIO()):
        problems = prepare.folder(root)
    assert all(str(root) in line and ";" in line and "\n" not in line for line in problems), problems
    return problems


def differs(data: Collected, root: Path, *, training: bool) -> Iterator[str]:
    """What is not read as it was meant. Raises DataError for what is refused."""
    for split, numbers in data.splits.items():
        if training and not any(data.images[number].labels for number in numbers):
            continue
        found = Folder(root, split, training=training)
        meant = [data.images[number] for number in numbers]
        names = {plain(name).casefold(): name for name in found.classes.names}
        in_order = [*names] == [name.casefold() for name in data.classes]
        if len(names) != len(found.classes) or {*names} != {name.casefold() for name in data.classes}:
            yield f"{split}: classes {found.classes.names}"
            return
        if not in_order and any(image.mask is not None for image in data.images):
            yield f"{split}: order of classes {found.classes.names}"
            return
        if [*found.names] != [image.name for image in meant]:
            yield f"{split}: names {found.names}"
            return
        for index, image in enumerate(meant):
            shown = {plain(name).casefold() for name in found.classes.decode(found.labels(index))}
            if shown != {name.casefold() for name in image.labels}:
                yield f"{image.name}: labels {shown}, not {image.labels}"
            sample = found[index]
            pixels = sample.image.permute(1, 2, 0).numpy().astype(int)
            if pixels.shape != image.pixels.shape or np.abs(pixels - image.pixels).max() > TOLERANCE:
                yield f"{image.name}: pixels {pixels.shape}, not {image.pixels.shape}"
            for mask in () if training else (sample.mask, found.mask(index)):
                if (mask is None) != (image.mask is None):
                    yield f"{image.name}: mask {mask if mask is None else mask.shape}"
                elif mask is not None and not np.array_equal(mask.numpy(), image.mask):
                    yield f"{image.name}: mask {np.unique(mask)}, not {np.unique(image.mask)}"


@st.composite
def folders(draw: Draw, *, faults: int) -> Collected:
    odd = draw(st.sets(st.sampled_from(ODD), min_size=min(1, faults), max_size=faults))
    return Writer(draw, odd).whole()


@of_many(50)
@given(folders(faults=0))
def test_a_folder_without_fault_is_read_without_a_word(meant: Collected) -> None:
    with temporary() as root:
        written(root, meant.files)
        assert (problems := check(root)) == [], problems
        with contextlib.redirect_stdout(io.StringIO()):
            command(root)
        for training in (True, False):
            assert (wrong := list(differs(meant, root, training=training))) == [], wrong


@of_many(30)
@given(folders(faults=2))
def test_a_folder_with_faults_is_read_as_meant_or_it_is_said(meant: Collected) -> None:
    right_or_said(meant)


@pytest.mark.parametrize("kind", ODD)
@of_many(10)
@given(data=st.data())
def test_a_fault_of_each_kind_is_read_as_meant_or_it_is_said(kind: str, data: st.DataObject) -> None:
    right_or_said(Writer(data.draw, {kind}).whole())


def right_or_said(meant: Collected) -> None:
    """Training relies on what it is told when it opens the folder, not on what `bao prepare folder` says."""
    with temporary() as root:
        written(root, meant.files)
        problems = check(root)
        for training in (True, False):
            try:
                wrong = list(differs(meant, root, training=training))
            except DataError as error:
                assert problems, str(error)
                assert str(root) in str(error) and "\n" not in str(error)
            else:
                assert not wrong or (problems and not training), wrong
