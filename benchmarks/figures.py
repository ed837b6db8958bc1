"""How a benchmark hands over its figures."""

import json
from pathlib import Path
from typing import Any


def publish(figures: dict[str, Any], path: Path | None) -> None:
    """Print the figures as JSON and, where a path is given, write them there."""
    text = json.dumps(figures, indent=1)
    print(text)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")
