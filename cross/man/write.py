"""Writes the manual pages. Most of their text comes from docs/, which the tests compare with the code.

python3 cross/man/write.py smolgate.conf.5 VERSION DATE
"""

import re
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
COLUMNS = 78


def escape(text: str) -> str:
    """Escapes text for roff: backslashes, and characters that roff would replace."""
    for plain, roff in ("\\", "\\e"), ("-", "\\-"), ("~", "\\(ti"), ("^", "\\(ha"), ("`", "\\(ga"):
        text = text.replace(plain, roff)
    return text


def line(text: str) -> str:
    """Marks a line that roff would take for a request."""
    return "\\&" + text if text[:1] in "'." else text


def inline(markdown: str) -> str:
    """Makes code bold, and keeps the text of links."""
    markdown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown)
    parts = [escape(part) for part in markdown.split("`")]
    return "".join(f"\\fB{part}\\fR" if number % 2 else part for number, part in enumerate(parts))


def paragraph(markdown: str) -> str:
    """Writes each sentence on a line of its own, as roff expects."""
    sentences = re.split(r"(?<=[a-z0-9)`]\.) (?=[A-Z`])", " ".join(markdown.split()))
    return "\n".join(line(part) for sentence in sentences for part in wrap(inline(sentence)))


def wrap(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, break_long_words=False, break_on_hyphens=False)


def names(cell: str) -> str:
    """Separates the names of a first cell by commas, in one line for roff."""
    return line("\\\n ".join(wrap(inline(cell.replace("` `", "`, `")))))


def table(lines: list[str]) -> list[str]:
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines]
    head, out = rows[0], []
    for row in rows[2:]:
        out += [".TP", names(row[0])]
        if len(row) == 2:
            out += [paragraph(row[1]) or "See above."]
        elif head[1] == "contexts":
            out += [f"\\fI{inline(row[1])}\\fR", ".br", paragraph(row[2])]
        else:
            shown = [paragraph(f"{title}: {cell}") for title, cell in zip(head[1:], row[1:]) if cell]
            out += ["\n.br\n".join(shown)]
    return out


def blocks(text: str) -> list[list[str]]:
    """Splits text into paragraphs, tables, items and code."""
    out, current, code = [], [], False
    for line in text.splitlines():
        starts = re.match(r"- |\d+\. ", line) and not code
        if line.startswith("```"):
            code = not code
            current.append(line)
        elif code or (line.strip() and not starts):
            current.append(line)
        else:
            out.append(current)
            current = [line] if starts else []
    return [block for block in [*out, current] if block]


def section(name: str, heading: str | None) -> str:
    """Returns what a page of docs/ has below a heading, or the whole page without its title."""
    text = (DOCS / name).read_text()
    level = re.search(rf"^(#+) {re.escape(heading)}$" if heading else r"\A(#) .*$", text, re.M)
    if not level:
        sys.exit(f"docs/{name} has no heading {heading!r}")
    rest = text[level.end() :]
    end = re.search(rf"^#{{1,{len(level[1])}}} ", rest, re.M)
    out = []
    for block in blocks(rest[: end.start()] if end else rest):
        first = block[0]
        if first.startswith("#"):
            out += [f".SS {inline(first.lstrip('# '))}"]
        elif first.startswith("|"):
            out += table(block)
        elif first.startswith(("```", "    ")):
            code = block[1:-1] if first[0] == "`" else [text[4:] for text in block]
            out += [".PP", ".RS", ".nf", *(line(escape(text)) for text in code), ".fi", ".RE"]
        elif mark := re.match(r"(- |\d+\. )", first):
            bullet = "\\(bu 2" if mark[1] == "- " else f"{mark[1].strip()} 4"
            out += [f".IP {bullet}", paragraph(" ".join([first[mark.end() :], *block[1:]]))]
        else:
            out += [".PP", paragraph(" ".join(block))]
    return "\n".join(out)


def page(name: str, version: str, date: str) -> str:
    text = (HERE / name).read_text().replace("@VERSION@", version).replace("@DATE@", date)
    text = re.sub(r"^@docs/(.*\.md)(?:: (.*))?@$", lambda found: section(found[1], found[2]), text, flags=re.M)
    # A paragraph after a heading needs no macro.
    return re.sub(r"^(\.S[HS] .*)\n\.PP$", r"\1", text, flags=re.M)


if __name__ == "__main__":
    print(page(*sys.argv[1:]), end="")
