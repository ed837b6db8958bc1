"""Small images and archives."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from baoseg.data.prepare.archives import Archive, Config

QUICK = Config(pause=0.0, timeout=5.0)


def jpeg(width: int, height: int, *, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG")
    return file.getvalue()


def png(rows: object) -> bytes:
    image = Image.fromarray(np.array(rows, dtype=np.uint8))
    image.putpalette(bytes(768))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def pack(path: Path, files: dict[str, bytes], **options: str) -> Archive:
    """A tar (also gz) or zip file, by its suffix, and its description."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in files.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as file:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
    return Archive(name=path.name, md5=hashlib.md5(path.read_bytes()).hexdigest(), **options)
