"""What all reports share: the templates, and a policy that lets pages ask for nothing."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent


def environment() -> Environment:
    """Templates that escape what comes from outside and know what they are given."""
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script(name: str) -> Markup:
    """Text of a script that lies beside this file, to be put into a page as it is."""
    return Markup((FOLDER / name).read_text(encoding='utf-8'))


def policy(name: str) -> str:
    """Content-Security-Policy of a page that runs one script and fetches nothing."""
    digest = hashlib.sha256(script(name).encode()).digest()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{base64.b64encode(digest).decode()}'"
    )
