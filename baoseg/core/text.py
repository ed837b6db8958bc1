"""One form of Unicode for the names that people write, in which names are stored and compared."""

import re
import unicodedata

# Invisible characters without meaning: zero-width spaces, marks of direction, variation selectors, fillers.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_JOINERS = "\u200c\u200d"  # between letters of some scripts and between emoji, joiners change what is shown
_LOOSE = re.compile(f"[{_JOINERS}]+(?![^\x00-\x7f{_JOINERS}])|(?<![^\x00-\x7f])[{_JOINERS}]+")

_PLAIN = re.compile("[!-~]+")


def tidy(text: str) -> str:
    """The text in NFC, without invisible characters, with single spaces inside and no space at its ends."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", _LOOSE.sub("", _INVISIBLE.sub("", text)))
    return " ".join(text.split())


def tidy_path(path: str) -> str:
    """A path with slashes, with each part in the form of `tidy`."""
    if _PLAIN.fullmatch(path):
        return path
    return "/".join(map(tidy, path.split("/")))


def folded(text: str) -> str:
    """The name without letter case and joiners: equal for names that a reader takes for the same name."""
    plain = text.translate(dict.fromkeys(map(ord, _JOINERS)))
    return unicodedata.normalize("NFC", plain.casefold())
