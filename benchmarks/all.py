"""All hot paths beside the published way: the table of docs/performance.md, and its figures as JSON.

    python benchmarks/all.py [--quick] [--json FILE]

Each benchmark is a process of its own, and so is each measurement of memory in it. `--quick` looks only whether all of
them run, in small sizes, and leaves the page alone. A benchmark that fails is named, and the others go on.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import tyro
from figures import machine, publish

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
VIT = "timm:vit_small_patch14_dinov2.lvd142m"
TINY = "timm:test_vit"

# A benchmark, its arguments, and those with which it is quick.
SUITE = (
    ("inference.py", [], ["--backbone", "conformer_tiny", "--sizes", "64", "96", "--rounds", "1"]),
    ("inference.py", ["--backbone", VIT], ["--backbone", TINY, "--sizes", "160", "--rounds", "1"]),
    ("training.py", [], ["--backbone", "conformer_tiny", "--side", "64", "--rounds", "1"]),
    ("bas.py", [], ["--backbone", "timm:test_resnet", "--side", "64", "--rounds", "1"]),
    ("crf.py", [], ["--labels", "2", "--size", "100", "75", "--rounds", "1"]),
    (
        "random_walk.py",
        [],
        ["--height", "24", "--width", "32", "--dense-height", "8", "--dense-width", "8", "--rounds", "1"],
    ),
    ("evaluation.py", [], ["--images", "12"]),
    ("masks.py", [], ["--images", "4", "--rounds", "1"]),
    ("loading.py", [], ["--images", "8", "--rounds", "1"]),
    ("coco.py", [], ["--images", "4", "--rounds", "1"]),
    ("localization.py", [], ["--maps", "6", "--rounds", "1"]),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    quick: bool = False
    threads: int = torch.get_num_threads()
    page: Path = PAGE
    json: Path | None = None


def measure(script: str, arguments: list[str], *, threads: int) -> dict[str, Any]:
    """The results of a benchmark; none where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        command = [sys.executable, str(HERE / script), *arguments, "--json", str(path)]
        process = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=False)
        return json.loads(path.read_text(encoding="utf-8")) if process.returncode == 0 else {}


def table(paths: dict[str, Any]) -> str:
    lines = [
        "| path | ours, s | published way, s | ratio | memory, MB: ours / published | of the rate | also, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in paths.items():
        seconds, peak = figures["seconds"], figures["peak_mb"]
        also = [f"{way} {value:.3g}" for way, value in seconds.items() if way not in ("ours", "published")]
        shares = [f"{share:.0%} ({kind})" for kind, share in figures["shares"].items()]
        cells = (
            name,
            f"{seconds['ours']:.3g}",
            f"{seconds['published']:.3g}",
            f"{figures['ratio']:.2f}",
            f"{peak['ours']:,.0f} / {peak['published']:,.0f}",
            ", ".join(shares),
            ", ".join(also),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def described(about: dict[str, Any], paths: dict[str, Any]) -> str:
    measured = [figures["rates"] for figures in paths.values()]
    product, copy = (max(rates[key] for rates in measured) for key in ("gflop_per_second", "gigabytes_per_second"))
    return (
        f"{about['date']}, {about['machine']}, {about['threads']} thread(s), load before and after "
        f"{about['load'][0]:.1f} and {about['load'][1]:.1f}; at best {product:.0f} GFLOP/s in a float32 matrix product "
        f"and {copy:.0f} GB/s in copying.\n\n    {about['command']}\n"
    )


def write_page(page: Path, text: str) -> None:
    """Put the text between the two marks of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main(options: Options) -> None:
    about: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "threads": options.threads,
        "command": "python benchmarks/all.py" + (" --quick" if options.quick else ""),
    }
    load, paths, failed = os.getloadavg()[0], {}, []
    for script, arguments, quick in SUITE:
        found = measure(script, quick if options.quick else arguments, threads=options.threads)
        if not found:
            failed.append(script)
            continue
        paths |= found
        about["load"] = [load, os.getloadavg()[0]]
        publish({**about, "paths": paths}, options.json)  # after each, so that a run that is stopped leaves what it has
        if not options.quick:
            write_page(options.page, f"{described(about, paths)}\n{table(paths)}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(tyro.cli(Options))
