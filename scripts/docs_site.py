"""What `make docs` adds to Zensical: equations without JavaScript, docstrings as Markdown."""

import re
import textwrap

from griffe import Extension, Object
from latex2mathml.converter import convert

_FIXED = "Assumes|Attributes|Error|Source|Units"
"""What a line of a docstring begins with where it opens a paragraph of its own."""


def equation(source: str, *_: object, **__: object) -> str:
    """The LaTeX of a fence `math` as MathML, which browsers draw by themselves."""
    return f'<div class="equation">{convert(source, display="block")}</div>'


def as_markdown(docstring: str) -> str:
    """A docstring of this project, with a paragraph for each fixed line and the example as code.

    Example: as_markdown("It adds.\\nError: none.") == "It adds.\\n\\n**Error:** none."
    """
    prose, label, example = docstring.partition("\nExample:")
    prose = re.sub(rf"\n({_FIXED}): ", r"\n\n**\1:** ", prose)
    prose = re.sub(r"(?<=[.:])\n(?=[a-z]\w*(?:, \w+)*: )", "\n\n", prose)
    code = textwrap.dedent(example).strip()
    return f"{prose}\n\n```python\n{code}\n```" if label else prose


class Paragraphs(Extension):
    """Gives mkdocstrings every docstring as Markdown."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
