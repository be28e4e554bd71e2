"""The page at `/`: one document with its style and script inside, and a policy that lets nothing else run or load."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def document() -> tuple[str, str]:
    """The page.

    Returns:
        The HTML, and the Content-Security-Policy that belongs to it.
    """
    folder = files(__name__)
    script = "\n" + (folder / "page.js").read_text("utf-8")
    html = (folder / "index.html").read_text("utf-8")
    style = "\n" + (folder / "page.css").read_text("utf-8")
    html = html.replace('<script src="page.js"></script>', f"<script>{script}</script>")
    html = html.replace('<style src="page.css"></style>', f"<style>{style}</style>")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
