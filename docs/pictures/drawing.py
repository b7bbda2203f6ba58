"""What the pictures share: shapes as SVG, in colours that fit light pages and dark ones.

A picture has no background of its own. Its colours are classes of one style sheet, with a second set for readers whose
system is dark: the repository's host and the site show it as an image, which follows the reader's system.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

FOLDER: Final = Path(__file__).parent

_STYLE: Final = """\
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:13px;fill:#1d2433}
.small{font-size:11.5px}.bold{font-weight:600}.dim{fill:#59637a}.end{text-anchor:end}.middle{text-anchor:middle}
rect{rx:6px}.bar{rx:2px}
.on{fill:#fff}.ours{fill:#2f6fde}.other{fill:#78839a}.third{fill:#b9751a}.mark{stroke:#1d2433;stroke-width:2}
.box{fill:#f4f6fa;stroke:#aeb6c6}.blue{fill:#e5effd;stroke:#7ea9ea}.green{fill:#e6f6eb;stroke:#7fbf95}
.amber{fill:#fdf1dc;stroke:#dcae62}.grid{stroke:#d7dce6}.arrow{stroke:#6b7488;stroke-width:1.6;fill:none}.tip{fill:#6b7488}
@media (prefers-color-scheme:dark){text{fill:#e4e8f1}.dim{fill:#a3adc2}
.on{fill:#10131a}.ours{fill:#6ea3ff}.other{fill:#98a2b8}.third{fill:#e5a850}.mark{stroke:#e4e8f1}
.box{fill:#2b3040;stroke:#667088}.blue{fill:#1f3355;stroke:#5783c6}.green{fill:#1e3b2b;stroke:#579a70}
.amber{fill:#443419;stroke:#a8823f}.grid{stroke:#414859}.arrow{stroke:#a3adc2}.tip{fill:#a3adc2}}
"""
_TIP: Final = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>'
)


def picture(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Return a whole picture. The title is read aloud by screen readers."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style>",
            _TIP,
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, classes: str = "") -> str:
    """Words whose line stands on `y`."""
    return f'<text x="{x:g}" y="{y:g}" class="{classes}">{escape(words)}</text>'


def block(x: float, y: float, width: float, height: float, classes: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="{classes}"/>'


def box(x: float, y: float, width: float, height: float, name: str, what: str = "", classes: str = "box") -> str:
    """A rectangle with a name, and below it what it is."""
    middle, centre = y + height / 2, x + width / 2
    lines = [block(x, y, width, height, classes)]
    if what:
        lines.append(text(centre, middle - 3, name, "bold middle"))
        lines.append(text(centre, middle + 14, what, "small dim middle"))
    else:
        lines.append(text(centre, middle + 4.5, name, "bold middle"))
    return "\n".join(lines)


def line(x: float, y: float, to_x: float, to_y: float, classes: str = "grid") -> str:
    """A straight line."""
    return f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" class="{classes}"/>'


def arrow(*points: tuple[float, float], both: bool = False, dashed: bool = False) -> str:
    """An arrow along the points."""
    way = "L".join(f"{x:g} {y:g}" for x, y in points)
    extra = ' stroke-dasharray="5 4"' if dashed else ""
    start = ' marker-start="url(#tip)"' if both else ""
    return f'<path class="arrow" d="M{way}"{extra}{start} marker-end="url(#tip)"/>'
