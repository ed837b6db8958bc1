"""Writes a folder in one of many ways, some of them with faults."""

import posixpath
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import event
from hypothesis import strategies as st
from nothing_silent.meant import (
    BACKGROUNDS,
    CLASSES,
    STEMS,
    VOID,
    Collected,
    Draw,
    Meant,
    image_file,
    mask_file,
    mask_of,
    odd_mask_file,
    picture,
    plain,
)

# ---------------------------------------------------------------------------------------------------- the written

ODD = ("cells", "spelling", "table", "paths", "classes", "mask values", "class order", "mask names", "splits")


class Writer:
    """Writes what was meant, in ways that are drawn; those of the kinds in `odd` need not be understood."""

    def __init__(self, draw: Draw, odd: set[str]) -> None:
        self.draw = draw
        self.odd = odd

    def one(self, *ways: Any) -> Any:
        return self.draw(st.sampled_from(ways))

    def often(self) -> bool:
        return bool(self.draw(st.booleans()))

    def whole(self) -> Collected:
        classes = tuple(self.draw(CLASSES))
        count = self.draw(st.integers(3, 6))
        stems = self.draw(st.permutations(STEMS))[:count]
        sets = st.lists(st.sampled_from(classes), max_size=len(classes), unique=True)
        labels = [self.draw(sets) for _ in stems]
        labels[0] = labels[0] or [classes[0]]
        self.listed = self.often() or "class order" in self.odd
        if not self.listed:  # then the classes are those that occur, in their order
            classes = tuple(sorted({name for row in labels for name in row}))
        self.masks = self.often() or bool({"mask values", "class order", "mask names"} & self.odd)
        images = [
            Meant(stem, tuple(sorted(row, key=classes.index)), picture(number))
            for number, (stem, row) in enumerate(zip(stems, labels, strict=True))
        ]
        for image in images if self.masks else []:
            shown = [classes.index(name) + 1 for name in image.labels]
            image.mask = mask_of(self.draw, image.pixels.shape[:2], shown)
        data = Collected(classes, images)
        self.write_images(data)
        self.write_labels(data)
        self.write_classes(data)
        self.write_masks(data)
        self.write_splits(data)
        return data

    # names, as they are spelt ------------------------------------------------------------------------------------

    def spelt(self, name: str) -> str:
        """A name in other letters for the same."""
        way = self.one("as it is", "as it is", "NFD", "space", "inside", "zero width", "around")
        if way == "NFD":
            return unicodedata.normalize("NFD", name)
        if way == "space":
            return name.replace(" ", self.one("  ", "\u00a0", "\u3000", " \u00a0"))
        if way == "zero width":
            place = self.draw(st.integers(0, len(name)))
            return name[:place] + self.one("\u200b", "\ufeff", "\u200e", "\u2060", "\u00ad") + name[place:]
        return f"{self.one(' ', '')}{name} " if way == "around" else name

    def odd_name(self, name: str) -> str:
        way = self.one("upper", "title", "swap", "quoted", "dash", "plural", "joiner", "kc", "wide")
        event(f"odd name: {way}")
        return {
            "upper": name.upper(),
            "title": name.title(),
            "swap": name.swapcase(),
            "quoted": f"'{name}'",
            "dash": name.replace(" ", "_"),
            "plural": name,
            "joiner": f"{name[:1]}\u200d{name[1:]}",
            "kc": unicodedata.normalize("NFKC", name),
            "wide": "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in name),
        }[way]

    # labels.csv --------------------------------------------------------------------------------------------------

    def write_images(self, data: Collected) -> None:
        self.below = self.one("", "images/", "JPEGImages/")
        self.paths = []
        for image in data.images:
            suffix, content = image_file(self.draw, image.pixels)
            path = f"{self.below}{image.name}{suffix}"
            self.paths.append(path)
            data.files[self.spelt_path(path)] = content

    def spelt_path(self, path: str) -> str:
        """On disk or in the table: the same file."""
        way = self.one("as it is", "as it is", "NFD", "space")
        if way == "NFD":
            return unicodedata.normalize("NFD", path)
        return path.replace(" ", self.one("  ", "\u00a0")) if way == "space" else path

    def odd_path(self, path: str) -> str:
        way = self.one("upper", "lower", "suffix", "none", "absolute", "escaped", "drive", "up", "title", "stem")
        event(f"odd path: {way}")
        stem, suffix = posixpath.splitext(path)
        return {
            "upper": path.upper(),
            "lower": path.lower(),
            "suffix": stem + (suffix.upper() if suffix.islower() else suffix.lower()),
            "none": stem,
            "absolute": f"/{path}",
            "escaped": path.replace(" ", "%20"),
            "drive": f"C:\\data\\{path}".replace("/", "\\"),
            "up": f"../{path}",
            "title": path.title(),
            "stem": f"{stem}x{suffix}",
        }[way]

    def write_labels(self, data: Collected) -> None:
        separators = (";", "; ", ";\u00a0") if any(" " in name for name in data.classes) else (";", " ", "\t")
        self.separator = self.one(*separators)
        strange = self.draw(st.sets(st.integers(0, len(data.images) - 1), min_size=1, max_size=2))
        whole = [image.labels for image in data.images]
        # what is nowhere written as it should be is the class's name, as far as anybody can know
        usual = {name for number, labels in enumerate(whole) if number not in strange for name in labels}
        rows = []
        for number, (image, path) in enumerate(zip(data.images, self.paths, strict=True)):
            odd = usual if "spelling" in self.odd and number in strange else set()
            names = [
                self.odd_name(self.spelt(name)) if name in odd else self.spelt(name)
                for name in self.draw(st.permutations(image.labels))
            ]
            cell = self.odd_cell(names, whole) if "cells" in self.odd and number in strange else None
            if cell is None:
                cell = self.cell(names)
            written = self.spelt_path(path)
            if "paths" in self.odd and number in strange:
                written = self.odd_path(path)
            elif self.often():
                written = self.one(f"./{written}", written.replace("/", "\\"), f" {written} ")
            rows.append((written, cell))
        data.files["labels.csv"] = self.table(rows)

    def cell(self, names: Sequence[str]) -> str:
        """Labels with the separator of the whole table. With semicolons, a name that is alone has one, too."""
        separator = self.separator
        if "cells" in self.odd and self.often():
            separator = self.one(";", " ")
        if separator.isspace():
            return separator.join(names)
        return "".join(name + separator for name in names) if len(names) == 1 else separator.join(names)

    def odd_cell(self, names: Sequence[str], whole: Sequence[Sequence[str]]) -> str | None:
        """Several labels or one in a way of other programs. None where that cannot be told from a name.

        `cat,dog` is a name unless one of its parts is a class: classes.txt has it, or it stands alone elsewhere.
        """
        known = self.listed or any(len(row) == 1 and plain(row[0]) in map(plain, names) for row in whole)
        if len(names) > 1 and known:
            way = self.one(",", ", ", "|", " | ", "/", "+", " & ", "，", "\n", "\\", "、")
            event(f"odd cell: {way!r}")
            return way.join(names)
        way = self.one("['{}']", '["{}"]', "[{}]", "('{}',)", "{{'{}'}}", '"{}"', "'{}'", "{},", ",{}", "{}|", "“{}”")
        event(f"odd cell: {way}")
        return way.format("', '".join(names)) if names else self.one("[]", "None", "nan", "background", "-", ",", '""')

    def table(self, rows: list[tuple[str, str]]) -> bytes:
        def quoted(text: str) -> str:
            needed = any(mark in text for mark in ',"\n') or text != text.strip()
            return '"' + text.replace('"', '""') + '"' if needed or self.often() else text

        header = self.one("image,labels", '"image","labels"', "Image, LABELS ")
        lines = [header, *(f"{quoted(path)},{quoted(cell)}" for path, cell in rows)]
        ways = ("unclosed", "NUL", "twice", "column", "semicolons", "utf-16", "latin", "no header")
        way = self.one(*ways) if "table" in self.odd else "none"
        event(f"table: {way}")
        place = self.draw(st.integers(1, len(rows)))
        if way == "unclosed":
            lines[place] = self.one(lines[place].replace(",", ',"', 1), f'"{lines[place]}', lines[place] + '"')
        if way == "NUL":
            lines[place] = lines[place][:-1] + self.one("\0", "\x07", "\x1b") + lines[place][-1:]
        if way == "twice":
            lines.append(lines[place])
        if way == "column":
            lines[place] += self.one(",", ",cat", ",1")
        if way == "no header":
            del lines[0]
        end = self.one("\n", "\r\n", "\r")
        text = self.one("", "\ufeff") + end.join(lines) + self.one("", end, end + end, f"{end},{end}")
        if way == "semicolons":
            text = text.replace(",", ";")
        coding = {"utf-16": "utf-16", "latin": "cp1252"}.get(way, "utf-8")
        return text.encode(coding, errors="replace" if coding == "cp1252" else "strict")

    # classes.txt -------------------------------------------------------------------------------------------------

    def write_classes(self, data: Collected) -> None:
        if not self.listed:
            return
        lines = [self.spelt(name) for name in data.classes]
        file = "classes.txt"
        if "classes" in self.odd:
            place = self.draw(st.integers(0, len(lines)))
            way = self.one("background", "numbers", "line", "case", "twice", "less", "file", "comma", "from 0", "lower")
            event(f"odd classes: {way}")
            if way == "background":
                lines.insert(place, self.one(*BACKGROUNDS))
            elif way == "numbers":
                lines = [f"{number}{self.one(': ', ' ', ',', '. ')}{name}" for number, name in enumerate(lines, 1)]
            elif way == "from 0":
                lines = [f"{number}: {name}" for number, name in enumerate(["background", *lines])]
            elif way == "line":
                lines = [self.one(", ", " ", ";").join(lines)]
            elif way == "case":
                lines[place - 1] = lines[place - 1].swapcase()
            elif way == "twice":
                lines.insert(place, lines[place - 1])
            elif way == "less":
                del lines[place - 1]
            elif way == "comma":
                lines = [f"{name}," for name in lines]
            elif way == "file":
                file = self.one("Classes.txt", "CLASSES.TXT", "classes.TXT")
            else:
                lines = [name.lower() for name in lines]
        end = self.one("\n", "\r\n", "\n\n")
        data.files[file] = (self.one("", "\ufeff") + end.join(lines) + self.one("", end)).encode()

    # masks -------------------------------------------------------------------------------------------------------

    def write_masks(self, data: Collected) -> None:
        if not self.masks:
            return
        folder = self.one("masks/", "SegmentationClass/")
        if "mask names" in self.odd and self.one(*range(6)) == 0:
            folder = self.one("Masks/", "MASKS/", "segmentationclass/")
        strange = self.draw(st.sets(st.integers(0, len(data.images) - 1), min_size=1))
        order = self.order(data) if "class order" in self.odd else None
        for number, (image, path) in enumerate(zip(data.images, self.paths, strict=True)):
            mask = image.mask if order is None else order[image.mask]
            if "mask values" in self.odd and number in strange:
                content = odd_mask_file(self.draw, mask, len(data.classes))
            else:
                content = mask_file(self.draw, mask)
            if "mask names" in self.odd and number in strange:
                name = self.odd_mask_name(image.name)
            else:
                file = path.removeprefix(self.below)
                name = self.one(
                    *(image.name + suffix for suffix in (".png", ".png", ".PNG", ".bmp", ".tif", ".TIFF")),
                    *(f"{file}.png", f"{image.name}_mask.png"),
                )
            data.files[folder + self.spelt_path(name)] = content

    def order(self, data: Collected) -> np.ndarray | None:
        """By index, that of another class list; None where nothing could tell: the masks show what labels name."""
        count = len(data.classes)
        order = np.arange(256, dtype=np.uint8)
        way = self.one("classes", "classes", "from 0", "from 0 and the background last", "from 2", "all one")
        event(f"order: {way}")
        indices = {
            "classes": [0, *self.draw(st.permutations(range(1, count + 1)))],
            "from 0": [VOID, *range(count)],
            "from 0 and the background last": [count, *range(count)],
            "from 2": range(1, count + 2),
            "all one": [0] + [1] * count,
        }
        order[: count + 1] = indices[way]
        named = [{data.classes.index(name) + 1 for name in image.labels} for image in data.images]
        shown = [{int(order[index]) for index in (0, *of_image)} - {0, VOID} for of_image in named]
        judged = [of_image for of_image, seen in zip(named, shown, strict=True) if seen and of_image]
        more = any(of_image and seen - of_image for of_image, seen in zip(named, shown, strict=True))
        return order if more or set().union(*judged) - set().union(*shown) else None

    def odd_mask_name(self, name: str) -> str:
        folder, slash, file = name.rpartition("/")
        way = self.one("letter", "end", "case", "suffix", "flat", "word", "folder", "space")
        event(f"odd mask name: {way}")
        return {
            "letter": f"{folder}{slash}{file[:-1]}{'y' if len(file) > 1 else 'yy'}.png",
            "end": f"{name}x.png",
            "case": f"{folder}{slash}{file.swapcase()}.png",
            "suffix": name + self.one(".gif", ".jpg", ".webp", ".npy", ".jp2", ".jpeg", ".mat"),
            "flat": f"{file}.png",
            "word": name + self.one("_seg.png", "-mask.png", "_labels.png", "_Mask.png", "_MASK.PNG", "_gt.png"),
            "folder": f"{name}/mask.png",
            "space": f"{folder}{slash}{file} (1).png",
        }[way]

    # splits ------------------------------------------------------------------------------------------------------

    def write_splits(self, data: Collected) -> None:
        data.splits["all"] = list(range(len(data.images)))
        if not self.often() and "splits" not in self.odd:
            return
        folder = self.one("splits/", "ImageSets/Segmentation/")
        labelled = next(number for number, image in enumerate(data.images) if image.labels)
        train = [labelled, *(number for number in range(len(data.images)) if number != labelled and self.often())]
        val = [number for number in range(len(data.images)) if number not in train] or [0]
        for split, numbers in (("train", train), ("val", val)):
            lines = []
            for number in numbers:
                path = self.paths[number]
                lines.append(self.spelt_path(self.one(data.images[number].name, path, path.replace("/", "\\"))))
            file = f"{folder}{self.one(split, split, split.title(), split.upper())}{self.one('.txt', '.txt', '.TXT')}"
            if "splits" in self.odd:
                way = self.one("misspelt", "twice", "empty", "number", "folder", "suffix", "case", "stem")
                event(f"odd splits: {way}")
                if way == "misspelt":
                    lines[0] += "x"
                elif way == "twice":
                    lines.append(lines[0])
                elif way == "empty":
                    lines = []
                elif way == "number":
                    lines = [f"{line} 1" for line in lines]
                elif way == "case":
                    lines = [line.swapcase() for line in lines]
                elif way == "folder":
                    file = self.one("Splits/", "SPLITS/", "imagesets/segmentation/") + f"{split}.txt"
                elif way == "stem":
                    lines[0] = lines[0].rpartition("/")[2]
                else:
                    file = f"{folder}{split}{self.one('', '.csv', '.lst')}"
            data.files[file] = self.one("\n", "\r\n").join([*lines, ""]).encode()
            data.splits[split] = numbers
