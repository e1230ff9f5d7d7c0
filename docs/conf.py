"""How the manual is built: `make docs`. What has one source, such as settings and help texts, is taken from there."""

import contextlib
import io
import os
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["COLUMNS"] = "100"  # of the help texts

import unify  # noqa: E402
from unify import cli  # noqa: E402
from unify._config import TABLE  # noqa: E402

project = "unify"
release = version = unify.__version__
project_copyright = "the authors of unify"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "_static"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # functions in a configuration cannot be pickled

html_theme = "furo"
html_title = f"unify {release}"
html_static_path = ["_static"]
html_show_copyright = html_show_sphinx = False

default_role = "literal"  # docstrings write `code`
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 100


class SettingsTable(SphinxDirective):
    """Every setting, from the table that the program itself reads."""

    def run(self):
        rows = ["| variable | default | meaning |", "|---|---|---|"]
        for name, setting in TABLE.items():
            default = "$XDG_CACHE_HOME/unify" if name == "cache_dir" else _shown(setting.default())
            rows.append(f"| `{setting.variable}` | {default} | {setting.meaning} |")
        return self.parse_text_to_nodes("\n".join(rows))


def _shown(default):
    return {True: "1", False: "0", (): ""}.get(default, str(default))


class CommandHelp(SphinxDirective):
    """What a command prints with --help."""

    optional_arguments = 2

    def run(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            cli.main([*self.arguments, "--help"])
        return [nodes.literal_block(out.getvalue(), out.getvalue(), language="text")]


_PARAGRAPH = re.compile(r"(Returns|Raises)\b|[a-z_]+(, [a-z_]+)*: ")


def split_docstring(app, what, name, obj, options, lines):
    """Arguments, what is returned and what is raised get paragraphs of their own, as they have lines in the source."""
    if what in ("attribute", "property") and len(lines) > 1 and (found := re.match(r"\w+ -> (.+)$", lines[0])):
        lines[:] = [f"``{found[1]}``: " + " ".join(lines[1:]).strip()]  # how the extension writes attributes
    spaced = []
    for line in lines:
        if spaced and spaced[-1].endswith((".", ";")) and _PARAGRAPH.match(line):
            spaced.append("")
        spaced.append(line)
    lines[:] = spaced


def tidy_signature(app, what, name, obj, options, signature, returns):
    """Names as users write them, in place of those of the extension."""

    def tidy(text):
        if text is None:
            return None
        text = text.replace("unify._core.", "").replace("unify::", "").replace("collections.abc.", "")
        text = text.replace("typing.SupportsFloat | typing.SupportsIndex", "float")
        text = text.replace("typing.SupportsInt | typing.SupportsIndex", "int")
        return re.sub(r"\(self(: \w+)?(, )?", "(", text)

    if what == "exception":
        return "", None  # all have the same
    return tidy(signature), tidy(returns)


def setup(app):
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-docstring", split_docstring)
    app.connect("autodoc-process-signature", tidy_signature)
