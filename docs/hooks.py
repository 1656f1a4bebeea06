"""A MkDocs hook: writes ops.md from the op registry at each build, so the table is never out of date."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from backlit.ops.record import OPS


def code(text: object) -> str:
    """Text as code, every character an entity: a bar would end its table cell."""
    return "<code>" + "".join(f"&#{ord(char)};" for char in str(text)) + "</code>"


def op_table() -> str:
    """The registered ops as a Markdown table, by family and then by name."""
    rows = ["| op | family | notation | meaning |", "| --- | --- | --- | --- |"]
    for op in sorted(OPS.values(), key=lambda op: (op.family, op.name)):
        meaning = " ".join(op.doc.split()).replace("|", r"\|")
        rows.append(f"| {code(op.name)} | {op.family} | {code(op.notation.glyph)} | {meaning} |")
    return "\n".join(rows)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page to the files of the build."""
    text = f"{len(OPS)} ops, each one record. This page is generated from the registry."
    files.append(File.generated(config, "ops.md", content=f"# Ops\n\n{text}\n\n{op_table()}\n"))
    return files
