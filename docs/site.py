"""Says to mkdocs which files of the repository are pages of the site: `hooks` in mkdocs.yml.

mkdocs takes pages from one folder. Those of this site are the repository's own files, also above docs/, so that a link
between two of them leads to the right place in the site and on the repository's host.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/*.md",
    "docs/**/*.md",
    "docs/**/*.svg",
    "docs/*.css",
    "notebooks/*.ipynb",
)


def sources() -> Iterator[str]:
    """Yield the paths of the site's files, from the repository's root."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            yield path.relative_to(ROOT).as_posix()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by those of the repository; the theme's stay."""
    pages = (
        # docs/usage.md is usage/ in the site; docs/README.md, the list of all pages, stays docs/.
        File(
            path,
            str(ROOT),
            config.site_dir,
            config.use_directory_urls,
            dest_uri=None if not path.endswith(".md") or path.endswith("README.md") else address(path),
        )
        for path in sources()
    )
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *pages])


def address(path: str) -> str:
    """Return the file in the site of a page."""
    return f"{path.removeprefix('docs/').removesuffix('.md').lower()}/index.html"
