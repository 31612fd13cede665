"""Pages outside docs/ are pages of the site, and links that lead out of docs/ work there as they do on GitHub.

Such a link leads to a page, to the reference of a package, or to the file itself, which becomes a part of the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md"} | {p: p for p in ("CONTRIBUTING.md", "CHANGELOG.md", "examples/streaming.md")}


def on_files(files, config):
    """Adds the pages."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown, page, config, files):
    """Turns each link to a file of the repository into one to its place in the site."""
    if page.file.abs_src_path is None:
        return markdown
    here = Path(page.file.abs_src_path).parent

    def turned(match):
        before, target = match.groups()
        file = (here / target).resolve()
        if not file.exists():
            return match[0]
        uri = _uri(file)
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(file)))
        return before + posixpath.relpath(uri, posixpath.dirname(page.file.src_uri))

    return re.sub(r'(\]\(|(?:src|href)=")([^)#"\s:]+)', turned, markdown)


def _uri(file: Path) -> str:
    """The place of a file of the repository in the site."""
    path = file.relative_to(ROOT).as_posix()
    if (file / "__init__.py").exists():
        return f"api/{path.replace('/', '.')}.md"
    if path.startswith("examples/"):
        return path.removesuffix(".py").removesuffix(".md") + ".md"
    return PAGES.get(path, path.removeprefix("docs/"))
