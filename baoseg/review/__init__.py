"""`bao review`: a page on this machine to look at masks, correct them and label images (docs/review.md).

Strokes stay in the browser; a finished mask travels. Files are the only state (`data.reviewed`, labels.csv).
"""

from baoseg.review.server import serve as serve
