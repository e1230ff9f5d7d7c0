"""Entry points of group unify.backends: packages that are installed bring their backends, whole or broken."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from unify.testing.backends import compile_backend

from .conftest import Run

TOY = Path(__file__).parent / "plugin" / "toy.c"


@pytest.fixture
def install(tmp_path: Path) -> object:
    """Makes a package with an entry point, as pip would have, and returns its folder."""

    def make(name: str, source: str, value: str | None = None) -> str:
        site = tmp_path / name
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[unify.backends]\n{name} = {value or name + ':backend'}\n")
        (site / f"{name}.py").write_text(textwrap.dedent(source))
        return str(site)

    return make


def backend(library: Path, compile: str = "None") -> str:
    return f"""
        import unify

        def refuse(ttir, target, options):
            raise unify.CompileError(f"{{target}}: {{len(ttir) > 0}}")

        backend = unify.Backend(name="toy", library={str(library)!r}, compile={compile})
    """


def run(python: Run, code: str, *sites: str) -> str:
    path = os.pathsep.join(sites)
    finished = python("-c", textwrap.dedent(code), env={**os.environ, "PYTHONPATH": path})
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_an_installed_backend_is_found_when_it_is_asked_for(python: Run, install, tmp_path: Path) -> None:
    site = install("toypackage", backend(compile_backend(TOY, tmp_path / "toy.so")))
    code = "import unify as un; print(un.ones(3, un.int8, 'toy:1').tolist(), [d.name for d in un.devices()])"
    assert run(python, code, site) == "[1, 1, 1] ['cpu', 'toy:0', 'toy:1']"


def test_a_program_on_built_in_devices_does_not_load_it(python: Run, install) -> None:
    site = install("loud", "raise SystemExit('it was loaded')")
    assert run(python, "import unify as un; print(un.ones(3, un.int8).tolist())", site) == "[1, 1, 1]"


@pytest.mark.parametrize(
    ("source", "value", "why"),
    [
        ("import no_such_module", None, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("", None, "AttributeError: "),
        ("backend = 3", None, "AttributeError: "),
        ("1 / 0", None, "ZeroDivisionError: "),
        ("", "elsewhere:backend", "ModuleNotFoundError: "),
    ],
)
def test_a_broken_package_says_why_and_takes_no_other_away(
    python: Run, install, tmp_path: Path, source: str, value: str | None, why: str
) -> None:
    sites = [install("toypackage", backend(compile_backend(TOY, tmp_path / "toy.so"))), install("bad", source, value)]
    code = """
        import unify as un
        print([device.name for device in un.devices()])
        print(next(backend.why for backend in un.backends() if backend.name == "bad"))
    """
    devices, told = run(python, code, *sites).splitlines()
    assert devices == "['cpu', 'toy:0', 'toy:1']"
    assert told.startswith(why)


def test_its_library_must_have_the_name_that_it_is_registered_by(python: Run, install, tmp_path: Path) -> None:
    site = install("toypackage", backend(compile_backend(TOY, tmp_path / "toy.so", ['TOY_NAME="other"'])))
    code = "import unify as un; un.devices(); print([b.why for b in un.backends() if b.why])"
    told = run(python, code, site)
    assert "toy" in told
    assert "other" in told


def test_its_compile_half_gets_the_kernels_of_its_target(python: Run, install, tmp_path: Path) -> None:
    site = install("toypackage", backend(compile_backend(TOY, tmp_path / "toy.so"), compile="refuse"))
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import triton, triton.language as tl, unify as un
        from unify.compiler import Specialization, Target, compile

        @triton.jit
        def fill(x):
            tl.store(x, 1.0)

        try:
            compile(fill, Target.parse("toy:7"), Specialization({"x": "*fp32"}))
        except un.CompileError as error:
            print(error)
    """)
    )
    finished = python(str(program), env={**os.environ, "PYTHONPATH": site, "UNIFY_NO_CACHE": "1"})
    assert finished.stdout == "toy:7: True\n", finished.stderr


def test_a_target_without_a_compiler_names_the_known(python: Run, install, tmp_path: Path) -> None:
    site = install("toypackage", backend(compile_backend(TOY, tmp_path / "toy.so")))
    code = """
        import unify as un
        from unify.compiler import Target
        try:
            Target.parse("toy")
        except un.TargetError as error:
            print(error)
    """
    assert run(python, code, site) == "no target 'toy'. Known: ascend, cpu, cuda."
