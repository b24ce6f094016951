"""Pages: one self-contained HTML file, which loads nothing and is allowed to load nothing.

Data stand in the page as JSON and scripts by their digest: a Content-Security-Policy forbids every
other script and every request.
"""

import base64
import hashlib
import html
import json
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any


def self_contained(
    package: str, template: str, title: str, scripts: Sequence[str], data: Mapping[str, Any]
) -> str:
    """The page that a template in a package makes: $policy, $title, $scripts, and every name in
    `data` as JSON that cannot end its script element.

    Raises a ValueError for numbers that are not finite."""
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return string.Template(text_in(package, template)).substitute(
        {name: _script_json(value) for name, value in data.items()},
        policy=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        title=html.escape(title),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def text_in(package: str, name: str) -> str:
    """A text file of a package."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _script_json(value: Any) -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
