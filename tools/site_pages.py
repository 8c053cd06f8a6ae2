"""Pages of the site that are not in docs/: files at the top of the repository, and the public names of the package.

A hook of mkdocs, named in mkdocs.yml.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "report.md",
         "CHANGELOG.md": "changes.md", "README.zh.md": "zh/index.md"}  # fmt: skip
LOADED_FROM_ELSEWHERE = re.compile(r'<(?:script|img|iframe)[^>]*src="(?:https?:)?//|<link[^>]*href="(?:https?:)?//')
GROUPS = {"Functions": str.islower, "Classes": lambda name: not name.islower()}
ENTRY = """::: {path}
    options:
      heading: sandglass.{name}
      toc_label: {name}"""
API = """# Python API

These names are public: `import sandglass` has them. They load on first use, so the import is fast and loads no
runtime. Arrays are numpy arrays. Unless an entry says otherwise, images are height x width x 3, uint8, RGB, and inputs
of networks are batch x 3 x height x width, float32. Every error of the package is a `SandglassError`, with one line
that says what is wrong and one that says what to do.
"""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages (called by mkdocs before it reads any)."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relative_to(page, text)))
    files.append(File.generated(config, "api.md", content=api_page()))
    return files


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that loads anything from another host (called by mkdocs for each finished page)."""
    if match := LOADED_FROM_ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_path} loads from another host: {match.group()}")
    return output


def relative_to(page: str, text: str) -> str:
    """A file at the top of the repository with its links as they are seen from a page of the site."""
    up = "../" * page.count("/")
    for source, target in PAGES.items():
        text = text.replace(f"]({source}", f"]({up}{target}")
    return text.replace("](docs/", f"]({up}")


def api_page() -> str:
    """One entry of mkdocstrings for each public name."""
    parts = [API]
    homes = public_names()
    for title, belongs in GROUPS.items():
        entries = [ENTRY.format(path=f"{homes[name]}.{name}", name=name) for name in homes if belongs(name)]
        parts += [f"## {title}", *entries]
    return "\n\n".join(parts) + "\n"


def public_names() -> dict[str, str]:
    """The module of each name that `import sandglass` offers, read from the imports of its __init__.py."""
    tree = ast.parse((ROOT / "src/sandglass/__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [node for node in imports if (node.module or "").startswith("sandglass.")]
    return dict(sorted((alias.name, str(node.module)) for node in own for alias in node.names))
