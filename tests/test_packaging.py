"""What is distributed: a source distribution with all of the source, and a wheel that works outside this folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(command: list[str | Path], folder: Path) -> str:
    """Runs a command without this repository's Python path, and returns what it printed."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    finished = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    return finished.stdout


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """The files of this checkout: under version control, or new and not ignored."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout: a distribution is made from one")
    listed = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], ROOT).splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def unpacked(sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, made of a copy (what an earlier one left here must not matter), and unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    copy = folder / "checkout"
    for name in sources:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    run([sys.executable, "setup.py", "-q", "sdist", "--dist-dir", folder], copy)
    (archive,) = folder.glob("unify_runtime-*.tar.gz")
    run(["tar", "-xzf", archive], folder)
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked: Path) -> Path:
    """A wheel of the source distribution. Objects that this build made of the same sources are used again."""
    for objects in ROOT.glob("build/objects-*"):
        shutil.copytree(objects, unpacked / "build" / objects.name, dirs_exist_ok=True)
    folder = unpacked.parent / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "--no-index"]
    run([*command, "--wheel-dir", folder, unpacked], unpacked.parent)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a new environment with the wheel; what unify needs comes from the tests' environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index"]
    run([*command, wheel], folder)
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    # A path in such a file is searched after the environment's own, and editable installs in it are not followed.
    (own / "guests.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return folder / "bin"


def test_the_source_distribution_has_every_file(sources: list[str], unpacked: Path) -> None:
    tracked = set(run(["git", "ls-files"], ROOT).splitlines())
    assert [name for name in sources if name in tracked and not (unpacked / name).is_file()] == []


def test_the_wheel_has_the_package_and_nothing_else(sources: list[str], wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    packed = {name for name in packed if not re.match(r"unify_runtime-[^/]+\.dist-info/", name)}
    expected = {name for name in sources if name.startswith("unify/")}
    built = {f"unify/_core{sysconfig.get_config_var('EXT_SUFFIX')}"}
    built |= {f"unify/simulator/libunify_simulated_{name}.so" for name in ("cuda", "ascendcl")}
    assert packed == expected | built


def test_an_installed_wheel_computes(installed: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import numpy as np\n"
        "import unify as un\n"
        "print(un.__file__)\n"
        "print(un.ops.rms_norm(np.array([[3.0, 4.0]], np.float32), np.ones(2, np.float32)).round(2))\n"
    )
    where, result = run([installed / "python", program], tmp_path).splitlines()
    assert Path(where).is_relative_to(installed.parent)
    assert result == "[[0.85 1.13]]"


def test_an_installed_wheel_has_its_command(installed: Path, tmp_path: Path) -> None:
    assert re.search(r"^ *cpu\b", run([installed / "unify", "info"], tmp_path), re.MULTILINE)


def test_an_installed_wheel_has_the_types_and_the_header(installed: Path, tmp_path: Path) -> None:
    said = run([installed / "python", "-c", "import unify; print(unify.__path__[0], unify.get_include())"], tmp_path)
    package, include = map(Path, said.split())
    assert (package / "py.typed").is_file()
    assert (package / "_core.pyi").is_file()
    assert (include / "unify" / "backend.h").is_file()
    backend = tmp_path / "backend.c"
    backend.write_text(
        "#include <unify/backend.h>\n"
        "#include <unify/host_kernel.h>\n"
        "static unify_backend table = {sizeof table};\n"
        "const unify_backend *mine(void) { return &table; }\n"
    )
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers", "-pedantic"]
    run(["cc", *flags, "-I", include, "-c", backend, "-o", tmp_path / "backend.o"], tmp_path)
