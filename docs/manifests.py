"""Checks the Kubernetes manifests of the pages against Kubernetes' own schemas: `make docs`.

    python -m docs.manifests            # from the repository's root, in the environment of `make docs`

A field that the schema does not know is an error, as is one of another type.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml

ROOT: Final = Path(__file__).parents[1]
VERSION: Final = "1.37"
BLOCK: Final = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def manifests() -> Iterator[tuple[str, Any]]:
    """Yield the manifests of all pages, each with its page and line."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            where = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 2}"
            for manifest in yaml.safe_load_all(match[1]):
                if isinstance(manifest, dict) and "apiVersion" in manifest:
                    yield where, manifest


def main() -> int:
    """Return the exit code: 1 if a manifest is wrong, or if there is none."""
    failures, count = [], 0
    for where, manifest in manifests():
        count += 1
        try:
            kubernetes_validate.validate(manifest, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            failures.append(f"{where}: {manifest['kind']}: {'.'.join(map(str, error.path))}: {error.message}")
    sys.stderr.writelines(f"{each}\n" for each in failures or ([] if count else ["no page has a manifest"]))
    return int(bool(failures) or not count)


if __name__ == "__main__":
    sys.exit(main())
