"""HTML pages from the templates in templates/, each one file without scripts or anything to fetch.

Every value that a template shows is escaped; a name that it does not know is an error.
"""

import base64
import io
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure


@cache
def _environment() -> Environment:
    loader = PackageLoader(__package__, "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def write_page(path: str | Path, template: str, **values: object) -> None:
    """Fill in templates/`template`.html."""
    page = _environment().get_template(f"{template}.html").render(values)
    Path(path).write_text(page, encoding="utf-8")


def embedded(figure: Figure, *, dpi: int) -> str:
    """A picture as the address of an image that needs no other file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
