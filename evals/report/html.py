"""Pages that open from a disk or a mail: template, style, script and data in one file, without network or server.

Text from models and data reaches a page in two ways only: through Jinja2's escaping, or as JSON whose `<`, `>`
and `&` are written as escapes and which the script shows through `textContent`. Both show control characters and
bidirectional overrides as escapes. A content security policy allows the page's own script and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evals.records.json import Json, dumps
from evals.safe_text import plain_json, plain_text

FOLDER = Path(__file__).with_name("template")


def rendered(template: str, scripts: Sequence[str], data: Json, **values: object) -> str:
    """A page as text.

    template: its file. scripts: the parts of its script, joined to one element, whose hash the content security policy
    names. data: what the script gets. values: what the template gets.
    """
    env = Environment(
        loader=PackageLoader("evals.report", "template"), autoescape=True, undefined=StrictUndefined, finalize=visible
    )
    script = Markup("\n".join((FOLDER / "js" / f"{name}.js").read_text(encoding="utf-8") for name in scripts))
    return env.get_template(template).render(
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=script_json(data),
        **values,
    )


def visible(value: object) -> object:
    """What the template writes: text with its unsafe characters as escapes. Markup is ours and stays."""
    return plain_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def script_json(value: object) -> Markup:
    """JSON that is safe inside a script element."""
    text = plain_json(dumps(value))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
