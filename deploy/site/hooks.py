"""mkdocs hooks: one set of links for the repository and for the site, and lists as GitHub reads them. No network.

Pages link to files of the repository as GitHub does (`../protocol/FORMAT.md`, `../deploy/k3s/refresh.yaml`). On the
site a Markdown file outside docs/ that PAGES names is a page; every other file that a page links to becomes a page that
shows it. So no link depends on where the repository is hosted.
"""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "protocol/FORMAT.md": "format.md",
    "examples/README.md": "examples.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
}
"""Markdown outside docs/, by path in the repository, and the page that it is on the site; index.md is docs' own."""

SOURCES = "source"
DECISIONS = "adr"
_LINK = re.compile(r"(\]\(|href=\"|src=\")([^)\s#:\"]+)((?:#[^)\s\"]*)?[)\"])")
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)([\w-]*)")
_ITEM = re.compile(r"^ {0,3}([-*+]|\d+[.)]) ")
_RUN_IN = re.compile(r"<p>[^<]*(?:<(?!/p>)[^<]*)*\n(?:[-*] |\|)")
_LANGUAGES = {".py": "python", ".json": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".arm32v7": "docker"}
_log = logging.getLogger("mkdocs.hooks.modelsync")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """`adr` in the navigation stands for all decisions, in order of their numbers."""
    records = sorted(Path(config.docs_dir, DECISIONS).glob("[0-9]*.md"))
    for section in config.nav or ():
        for title, entries in section.items():
            if isinstance(entries, list):
                section[title] = [one for entry in entries for one in _expanded(entry, records)]
    return config


def _expanded(entry: object, records: list[Path]) -> list[object]:
    if entry != {"Decisions": DECISIONS}:
        return [entry]
    return [{"Decisions": [f"{DECISIONS}/{path.name}" for path in records]}]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of files outside docs/."""
    root = Path(config.docs_dir).parent
    for source, page in PAGES.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=(root / source).read_text(encoding="utf-8")))
    documents = [(_place(file.src_uri), file.content_string) for file in files if file.src_uri.endswith(".md")]
    wanted = {target for place, text in documents for target in _targets(place, text)}
    for target in sorted(wanted - PAGES.keys()):
        path = root / target
        if not target.startswith("docs/") and path.is_file():
            files.append(File.generated(config, _source_page(target), content=_shown(target, path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links lead to where things are on the site; lists begin where GitHub sees them begin."""
    if page.file.src_uri.startswith(SOURCES + "/"):
        return markdown
    place = _place(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        target = _resolved(place, found[2])
        uri = PAGES.get(target)
        if uri is None and target.startswith("docs/"):
            uri = target.removeprefix("docs/")
        if uri is None:
            uri = _source_page(target)
        if files.get_file_from_path(uri) is None:
            return found[0]  # mkdocs says that it leads nowhere
        return found[1] + posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".") + found[3]

    return "\n".join(_as_github_reads(_LINK.sub(link, markdown).split("\n")))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A list or table that ran into the paragraph before it is a warning, and so an error."""
    if found := _RUN_IN.search(html):
        _log.warning("%s: a list or a table ran into its paragraph: …%s", page.file.src_uri, found[0][-60:])
    return html


def _place(uri: str) -> str:
    """The path in the repository of the page `uri`."""
    return next((source for source, page in PAGES.items() if page == uri and uri != "index.md"), f"docs/{uri}")


def _resolved(place: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), target))


def _targets(place: str, text: str | None) -> Iterator[str]:
    for found in _LINK.finditer(text or ""):
        yield _resolved(place, found[2])


def _source_page(target: str) -> str:
    return f"{SOURCES}/{target}.md"


def _shown(target: str, path: Path) -> str:
    language = _LANGUAGES.get(path.suffix, "text")
    return f"# {target}\n\n``````{language}\n{path.read_text(encoding='utf-8').rstrip()}\n``````\n"


def _as_github_reads(lines: list[str]) -> Iterator[str]:
    """What GitHub reads and Python-Markdown does not: lists without a blank line before them, and more than a language
    behind a fence. Fenced code itself is left alone.
    """
    fence = ""
    before = ""
    for line in lines:
        if found := _FENCE.match(line):
            if not fence:
                fence = found[1]
                line = found[0]
            elif line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif not fence and _ITEM.match(line) and before.strip() and not _ITEM.match(before) and before[0] != " ":
            yield ""
        yield line
        before = line
