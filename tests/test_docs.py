"""README and docs: every link leads somewhere, every command is one that this command line takes, every file named is there."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer

from temper.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^()\s]+)\)")
SHIPPED = ("temper", "tests", "docs", "recipes", "results", "examples", "bench", "tools", "scripts")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """What headings of a page are called in links to them, by the rule of GitHub; a repeated one is numbered."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?)#* *$", prose(page), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        plain = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.append(f"{plain}-{n}" if (n := found.count(plain)) else plain)
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        aim = (page.parent / file).resolve() if file else page
        assert aim.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(aim), f"{target}: no such heading; there are {sorted(anchors(aim))}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_of_ours_that_a_page_names_is_there(page: Path) -> None:
    for _, code in CODE.findall(prose(page)):
        if re.fullmatch(rf"(?:{'|'.join(SHIPPED)})/[\w./-]*(?:\.\w+|/)", code):
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_names_a_path_of_the_machine_it_was_written_on(page: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:work|root|home|Users|opt|mnt|tmp)/\S*", page.read_text(encoding="utf-8")) == []


KEYS = re.compile(r"TEMPER_\w+_KEY")


def test_every_key_that_is_read_from_the_environment_stands_on_a_page() -> None:
    read = {key for file in ROOT.glob("temper/**/*.py") for key in KEYS.findall(file.read_text(encoding="utf-8"))}
    told = {key for page in PAGES for key in KEYS.findall(page.read_text(encoding="utf-8"))}
    assert read == told


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `temper` wherever a page calls it: in blocks of code, fenced or indented by four, and within sentences."""
    text = page.read_text(encoding="utf-8")
    blocks = [body for _, _, body in FENCE.findall(text)] + re.findall(r"^ {4}.*$", FENCE.sub("", text), re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = [code.replace("\n", " ") for _, code in CODE.findall(FENCE.sub("", text))]
    for line in [*lines, *inline]:
        said = re.sub(r"\s#.*", "", line.strip().removeprefix("$ "))
        for part in said.split("; "):
            if call := re.match(r"(?:[A-Z_]+=\S+ )*temper ([a-z-].*)", part):
                yield shlex.split(call[1])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_of_a_page_is_one_with_options_that_it_has(page: Path) -> None:
    for words in commands(page):
        command, rest = typer.main.get_command(app), list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        command = getattr(command, "commands", {}).get("model", command)  # `prove MODEL`: what is no command is the model
        known = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)} | {"--help"}
        unknown = [word for word in rest if word.startswith("-") and word.partition("=")[0] not in known]
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        stray = rest and not rest[0].startswith("-") and not arguments
        assert words[0] == "--help" or (not unknown and not stray), f"temper {' '.join(words)}: has {sorted(known)}"
