"""Which recipes read which published weights, and all that is known about these for a person."""

import json

from rich.table import Table

from baoseg import recipes
from baoseg.core import settings
from baoseg.nets import embedded
from baoseg.nets.catalogue import checkpoint, checkpoints, converted
from baoseg.recipes.schema import Recipe


def needed(recipe: Recipe) -> list[str]:
    """Those that a recipe reads."""
    words = json.dumps(settings.to_json(recipe))
    return [name for name in checkpoints() if f'"{converted(name).as_posix()}"' in words]


def _readers() -> dict[str, list[str]]:
    """The names of the recipes that read each official checkpoint and each of the embedded weights."""
    words = {name: json.dumps(settings.to_json(make())) for name, make in recipes.known().items()}
    known = {name: converted(name).as_posix() for name in checkpoints()}
    known |= {f"{embedded.PREFIX}{name}": f"{embedded.PREFIX}{name}" for name in embedded.WEIGHTS}
    return {name: [recipe for recipe in words if f'"{read}"' in words[recipe]] for name, read in known.items()}


def table() -> Table:
    """A table of all weights: name, how to get them, licence, recipes that read them, and title."""
    known, readers = checkpoints(), _readers()
    doubt = "Some facts about these weights could not be verified; `bao weights show NAME` names them."
    rows = Table("name", "get by", "licence", "recipes", "what it is", caption=doubt, caption_justify="left")
    for name, own in embedded.WEIGHTS.items():
        reference = f"{embedded.PREFIX}{name}"
        rows.add_row(reference, "installed", own.licence, "\n".join(readers[reference]), own.title)
    for name, entry in known.items():
        rows.add_row(name, "download" if entry.url else "hand", entry.licence, "\n".join(readers[name]), entry.title)
    return rows


def show(name: str) -> str:
    """All that is known about the weights `name`, one fact per line. Raises RecipeError or CheckpointError."""
    if embedded.is_embedded(name):
        return _show_embedded(name)
    entry = checkpoint(name)
    checksums = [f"{kind} {value}" for kind, value in (("SHA-256", entry.sha256), ("MD5", entry.md5)) if value]
    lines = [
        ("file", f"{entry.file} ({entry.format}, kind {entry.kind})"),
        ("for", entry.purpose),
        ("network", entry.network),
        ("recipes", ", ".join(_readers()[name]) or "none"),
        ("page", entry.page),
        ("download", entry.url or f"by hand: {entry.by_hand}"),
        *(("elsewhere", place) for place in entry.elsewhere),
        ("licence", entry.licence),
        ("checksum", ", ".join(checksums) or "none is public"),
        *(("note", note) for note in entry.notes),
        *(("unverified", doubt) for doubt in entry.unverified),
    ]
    return "\n".join([f"{entry.name}: {entry.title}", *(f"  {key:<10}  {value}" for key, value in lines)])


def _show_embedded(name: str) -> str:
    entry = embedded.find(name)
    lines = [
        ("network", f"timm:{entry.network}"),
        ("recipes", ", ".join(_readers()[name]) or "none"),
        ("package", f"{entry.package}, installed with baoseg"),
        ("file", str(embedded.locate(name))),
        ("licence", entry.licence),
        ("checksum", f"SHA-256 {entry.sha256}"),
    ]
    return "\n".join([f"{name}: {entry.title}", *(f"  {key:<10}  {value}" for key, value in lines)])
