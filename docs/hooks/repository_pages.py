"""Pages made of the repository's own files, and links that lead out of ``docs/``.

``README.md`` becomes the front page; ``CONTRIBUTING.md`` and ``CHANGELOG.md`` become pages. Links in the Markdown files
are relative to the repository, so that they work on GitHub; here they are turned into links of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Maps file of the repository to page of the site."""

_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):<code>~?\.?([^<]*)</code>")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are files of the repository."""
    for file, page in PAGES.items():
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        head = "---\nhide:\n  - navigation\n---\n" if page == "index.md" else ""
        files.append(File.generated(config, page, content=head + site_links(text, file)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links of a page in ``docs/`` that leave the folder into links of the site."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return site_links(markdown, f"docs/{page.file.src_uri}")


def on_page_content(html: str, **_: Any) -> str:
    """Show reStructuredText roles of docstrings as code."""
    return _ROLE.sub(r"<code>\1</code>", html)


def site_links(text: str, source: str) -> str:
    """Return ``text`` with its relative links changed from the repository to the site.

    Args:
        text: Markdown.
        source: path of its file in the repository.
    """

    def changed(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, anchor, section = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        page = PAGES.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if page is None:  # a file that is no page
            return label if label.startswith("`") else f"{label} (`{file}`)"
        start = posixpath.dirname("" if source in PAGES else source.removeprefix("docs/"))
        return f"{mark}[{label}]({posixpath.relpath(page, start or '.')}{anchor}{section})"

    parts = _FENCE.split(text)
    return "".join(part if i % 2 else _LINK.sub(changed, part) for i, part in enumerate(parts))
