"""Published worked examples as worksheets, with the numbers that were printed."""

from pathlib import Path

HERE = Path(__file__).parent


def sheet(body: str) -> str:
    """A Markdown text with one worksheet, whose first line is line 2."""
    return f"```worksheet\n{body.strip()}\n```\n"


def published(name: str) -> str:
    """The text of a published example."""
    return (HERE / "published" / f"{name}.md").read_text(encoding="utf-8")
