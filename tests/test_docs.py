"""The manual keeps its word: its programs run and print what it says, and what it names exists."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import triton.language

import unify
import unify.triton
from unify import cli
from unify._config import _OF_OTHERS, TABLE, environment
from unify.bench.cases import find_cases

from .installed import NEEDS_ASCEND

ROOT = Path(__file__).resolve().parents[1]
MANUAL = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *MANUAL]

_FENCE = re.compile(
    r"^```(?P<language>\w+|\{code-block\} python)\n(?::caption: (?P<name>\S+)\n)?(?P<text>.*?)^```\n",
    re.MULTILINE | re.DOTALL,
)
_SHOWN = re.compile(r"^ *print\(.*\)  # (.*)$", re.MULTILINE)
_CHECK = doctest.OutputChecker().check_output
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A ```python block of a page; `name` if it is a program of its own."""

    line: int
    text: str
    name: str | None
    expected: str  # what it prints: a ```text block after it, or the comments behind its print calls


def blocks(page: str) -> Iterator[Block]:
    content = (ROOT / page).read_text()
    found = list(_FENCE.finditer(content))
    for block, following in itertools.zip_longest(found, found[1:]):
        if not block["language"].endswith("python"):
            continue
        is_output = (
            following is not None
            and following["language"] == "text"
            and not content[block.end() : following.start()].strip()
        )
        expected = following["text"] if is_output and following else "\n".join(_SHOWN.findall(block["text"]))
        yield Block(content.count("\n", 0, block.start("text")), block["text"], block["name"], expected)


@pytest.mark.parametrize("page", [page for page in PAGES if any(not block.name for block in blocks(page))])
def test_the_blocks_of_a_page_run_in_order_and_print_what_it_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": Path(page).stem}
    for block in blocks(page):
        if block.name:
            continue
        # Compiled as lines of the page itself: Triton finds a kernel's source there, and errors name them.
        code = compile("\n" * block.line + block.text, ROOT / page, "exec", dont_inherit=True)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, namespace)
        if block.expected:
            wanted = block.expected.rstrip() + "\n"
            assert _CHECK(wanted, out.getvalue(), _FLAGS), f"{page}:{block.line} printed\n{out.getvalue()}"


def run(command: list[str], folder: Path, **variables: str) -> str:
    """Runs a command with this unify, wherever it is installed, and returns what it printed."""
    ours = {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{environment()['PATH']}"}
    variables = {**environment(), **ours, **variables}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=variables)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


NAMED = [
    pytest.param(block, id=f"{page}:{block.name}", marks=[NEEDS_ASCEND] if page == "docs/ascend.md" else [])
    for page in PAGES
    for block in blocks(page)
    if block.name
]


@pytest.mark.parametrize("program", NAMED)
def test_programs_that_pages_show_run(program: Block, tmp_path: Path) -> None:
    assert program.name is not None
    (tmp_path / program.name).write_text(program.text)
    triton = {"TRITON_DEFAULT_BACKEND": "cpu", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    said = run([sys.executable, program.name], tmp_path, **triton)
    assert program.name != "story.py" or "Paris" in said


SAID_BY_EXAMPLES = {
    "vector_add.py": r"10,000,000 elements on cpu: [\d.]+ ms, [\d.]+ GB/s",
    "softmax.py": r"unify +[\d.]+ ms\nNumPy +[\d.]+ ms",
    "streams.py": r"two streams\na step of 4 launches, one by one: +[\d.]+ µs\nthe same as a graph: +[\d.]+ µs",
    "generate.py": r"\A> What is the capital of France\?\n[^>]*Paris[^>]*\n> Say it .*, [1-9]\d* of them kept",
    "write_trace.py": r"\Atrace.json: ",
}


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_examples_run_and_say_what_they_promise(name: str, tmp_path: Path) -> None:
    said = run([sys.executable, str(ROOT / "examples" / name)], tmp_path)
    assert re.search(SAID_BY_EXAMPLES[name], said, re.DOTALL), said
    if name == "write_trace.py":
        shown = {event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
        assert {"layer", "attention", "output"} <= shown
        assert any(event.startswith("attention_kernel ") for event in shown)


def public_objects() -> Iterator[tuple[str, object]]:
    """Functions and classes by the names that users write."""
    for package in ("unify", "unify.ops", "unify.models", "unify.triton", "unify.compiler", "unify.bench"):
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                yield f"{package}.{name}", value


@pytest.mark.parametrize(("name", "value"), [pair for pair in public_objects() if ">>>" in (pair[1].__doc__ or "")])
def test_examples_in_docstrings_run(name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"un": unify, "ops": unify.ops, "np": np, "tl": triton.language}
    example = doctest.DocTestParser().get_doctest(value.__doc__ or "", names, name, None, 0)
    said = io.StringIO()
    doctest.DocTestRunner(optionflags=_FLAGS).run(example, out=said.write)
    assert not said.getvalue(), said.getvalue()


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    shown = set(re.findall(r"\.\. auto\w+:: (\S+)", page)) | set(re.findall(r"`(unify\.\w+)`", page))
    shown |= {f"unify.triton.{name}" for name in unify.triton.__all__ if ".. automodule:: unify.triton\n" in page}
    beside = {"unify.bench", "unify.compiler"}  # benchmarks.md, and what stands under a heading
    missing = [name for name, _ in public_objects() if name not in shown and name.rpartition(".")[0] not in beside]
    assert not missing


def test_the_commands_for_a_backend_build_it_and_prove_it(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    shutil.copy(ROOT / "tests" / "plugin" / "toy.c", tmp_path)
    commands = re.findall(r"^\$ (.*)$", (ROOT / "docs" / "abi.md").read_text(), re.MULTILINE)
    commands[-1] += " -k copy"  # the rest of the suite runs elsewhere
    said = run(["sh", "-ec", "\n".join(commands)], tmp_path)
    assert "toy:0      Toy 0 (simulated)" in said
    assert re.search(r"\d\d\d passed", said)


def test_the_table_of_the_c_interface_has_each_function_once() -> None:
    header = (ROOT / "unify" / "include" / "unify" / "backend.h").read_text()
    table = header[header.index("typedef struct unify_backend {") : header.index("} unify_backend;")]
    functions = re.findall(r"\(\*(\w+)\)\(", table)
    page = (ROOT / "docs" / "abi.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\|$", page, re.MULTILINE)
    assert rows == functions
    assert f"{len(functions)} functions" in (ROOT / "docs" / "abi-changelog.md").read_text()


def prose(page: Path) -> str:
    return re.sub(r"`[^`\n]+`", "", _FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and Sphinx make them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        found = path if not file else path.parent / file
        if not found.is_file() or (anchor and anchor not in anchors(found)):
            dead.append(target)
    assert not dead


def test_every_page_is_in_the_table_of_contents() -> None:
    page = (ROOT / "docs" / "index.md").read_text()
    toctree = re.search(r"^```\{toctree\}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert toctree is not None
    listed = {f"docs/{line}.md" for line in toctree[1].splitlines() if line and not line.startswith(":")}
    assert listed | {"docs/index.md"} == set(MANUAL)


def test_variables_and_targets_that_pages_name_exist() -> None:
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    variables = set(re.findall(r"\bUNIFY_[A-Z_]+", text)) - abi_names()
    assert variables - {setting.variable for setting in TABLE.values()} - set(_OF_OTHERS) == set()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) - targets == set()


def abi_names() -> set[str]:
    """What the C interface calls UNIFY_…, which are no variables."""
    return set(re.findall(r"\bUNIFY_[A-Z_]+", (ROOT / "unify" / "include" / "unify" / "backend.h").read_text()))


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`((?:unify|csrc|tests|examples|docs|\.ci)/[\w/.-]*|[A-Z]+\.md|pyproject\.toml)`", text))
    assert len(named) > 10
    assert [name for name in sorted(named) if "NAME" not in name and not (ROOT / name).exists()] == []


def test_each_recipe_lists_its_files() -> None:
    recipes = dict(
        re.findall(r"^## (Add [^\n]+)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
    )
    assert list(recipes) == ["Add an operator", "Add a backend", "Add a target"]
    for name, recipe in recipes.items():
        assert len(re.findall(r"^\| `[\w/.-]+` \|", recipe, re.MULTILINE)) >= 5, name


def test_files_that_are_drawn_exist() -> None:
    drawn = set(re.findall(r'class="file">([^<]+)<', (ROOT / "docs" / "_static" / "call.svg").read_text()))
    assert len(drawn) == 7
    assert [name for name in drawn if not (ROOT / name).exists()] == []


def test_the_changelog_keeps_its_form() -> None:
    headings = re.findall(r"^(##+) (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    versions = [title for level, title in headings if level == "##"]
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", title) for title in versions[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {title for level, title in headings if level == "###"} <= kinds


def test_a_commit_is_checked_by_the_commands_of_make_lint() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    linted = [
        line.strip().removeprefix("@").replace("$(BIN)", ".venv/bin").replace("$(CXX_FILES)", "").strip()
        for line in recipe[1].splitlines()
    ]
    hooks = re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert hooks == linted


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_pages_show_are_understood(page: str) -> None:
    text = (ROOT / page).read_text()
    for line in re.findall(
        r"(?:^    |`)(?:\$ )?unify ((?:info|chat|generate|simulate|bench|test-backend|new-backend) [^`\n#]+)",
        text,
        re.MULTILINE,
    ):
        if "…" in line:
            continue
        asked = cli._parser().parse_args(shlex.split(line))
        cases = [word for word in getattr(asked, "cases", ()) if word != "roofline" and not word.endswith(".py")]
        assert not cases or find_cases(cases), line


def test_each_measured_ratio_names_its_cases() -> None:
    rows = re.findall(r"^\|.*\| `([^`…]+)` \|$", (ROOT / "docs" / "measurements.md").read_text(), re.MULTILINE)
    assert rows
    for row in rows:
        if not row.startswith("make gpu-bench"):  # tests/bench/test_gpu.py looks at those
            assert find_cases(row.split())
