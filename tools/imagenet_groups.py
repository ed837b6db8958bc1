"""Writes baoseg/predict/imagenet_groups.json: names of groups of ImageNet's 1,000 classes, from WordNet 3.0.

    python tools/imagenet_groups.py /usr/share/wordnet        (Debian: package wordnet-base)

ImageNet's classes are WordNet's noun synsets, in the order of timm's `imagenet_synsets.txt`. A name stands for
all classes at or below its synset in the tree of hypernyms. Where a name has several senses it is the first one, in
WordNet's order of frequency, that has classes; each of them is also listed with the name of what is above it: crane is
the machine, and "crane (wading bird)" the bird.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

MOST = 500  # classes of a group: "object" or "artifact" tells nothing from its background
LICENCE = "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. https://wordnet.princeton.edu/license-and-commercial-use"


def main(wordnet: Path) -> None:
    text = files("timm").joinpath("data/_info/imagenet_synsets.txt").read_text(encoding="utf-8")
    classes = {synset: index for index, synset in enumerate(text.split())}
    parents, definitions, first_names = _synsets(wordnet / "data.noun")
    below = defaultdict(set)
    for synset, index in classes.items():
        for above in _closure(synset, parents):
            below[above].add(index)
    names = {}
    for name, senses in _senses(wordnet / "index.noun"):
        useful = [synset for synset in senses if 0 < len(below[synset]) <= MOST]
        if useful:
            names[name] = useful[0]
        if len({frozenset(below[synset]) for synset in useful}) > 1:
            names |= {f"{name} ({first_names[parents[synset][0]]})": synset for synset in useful}
    groups = {synset: [definitions[synset], _ranges(below[synset])] for synset in sorted(set(names.values()))}
    target = Path(__file__).parents[1] / "baoseg" / "predict" / "imagenet_groups.json"
    content = {"licence": LICENCE, "names": names, "groups": groups}
    target.write_text(json.dumps(content, indent=0, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{target}: {len(names)} names, {target.stat().st_size} bytes")


def _ranges(numbers: set[int]) -> str:
    """Numbers as text, e.g. 0-5 9 for those from 0 to 5, and 9."""
    starts = sorted(number for number in numbers if number - 1 not in numbers)
    ends = sorted(number for number in numbers if number + 1 not in numbers)
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _synsets(path: Path) -> tuple[dict[str, list[str]], dict[str, str], dict[str, str]]:
    """Hypernyms of each noun synset, its definition without the examples, and its first name."""
    parents, definitions, first_names = {}, {}, {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence at the head of the file
            continue
        data, _, gloss = line.partition(" | ")
        words = data.split()
        start = 4 + 2 * int(words[3], 16)
        pointers = words[start + 1 : start + 1 + 4 * int(words[start])]
        kinds, targets = pointers[::4], pointers[1::4]
        synset = f"n{words[0]}"
        parents[synset] = [f"n{to}" for kind, to in zip(kinds, targets, strict=True) if kind in {"@", "@i"}]
        definitions[synset] = gloss.split('; "')[0].strip()
        first_names[synset] = words[4].replace("_", " ").lower()
    return parents, definitions, first_names


def _closure(synset: str, parents: dict[str, list[str]]) -> set[str]:
    """The synset and all above it."""
    found, waiting = set(), [synset]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += parents[one]
    return found


def _senses(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each noun and its synsets, the most frequent sense first."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            words = line.split()
            count = int(words[2])
            yield words[0].replace("_", " "), [f"n{offset}" for offset in words[-count:]]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
