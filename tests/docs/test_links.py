"""No link of README and docs leads nowhere, on the site or in the checkout. Nothing is fetched."""

import re
import unicodedata

import pytest
from pages import DOCS, PAGES, ROOT, SITE, name_of, text_of

LINKING = [*map(name_of, PAGES), "CONTRIBUTING.md", "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^()\s]+)\)")


def without_fences(text):
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)


def github(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def on_site(title):
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def anchors(page):
    """What a link may name on a page: its headings, where both renderers agree, and its objects."""
    text = page.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.+)", without_fences(text).replace("`", ""), re.M)
    agreed = {github(title) for title in titles if github(title) == on_site(title)}
    return agreed | {*re.findall(r"^::: (\S+)", text, re.M)}


@pytest.mark.parametrize("name", LINKING)
def test_a_link_leads_somewhere(name):
    page, text = ROOT / name, without_fences(text_of(name))
    for target in LINK.findall(text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), f"{name} links to {target}"
        if page.is_relative_to(DOCS):
            assert aim.is_relative_to(DOCS), f"{target} is no part of the site"
        if anchor:
            assert anchor in anchors(aim), f"{name} links to {target}"


def test_the_site_lists_every_page_once():
    listed = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", text_of("mkdocs.yml"), re.M)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in SITE)


def test_no_page_is_beyond_reach_of_the_readme():
    reached = {(ROOT / target).resolve() for target in LINK.findall(text_of("README.md"))}
    assert {*SITE} <= reached
