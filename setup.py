"""Builds unify._core and the simulated drivers; everything else about the distribution stands in pyproject.toml.

Needs a C++17 compiler and pybind11, and no vendor's toolkit: drivers are opened at run time.

UNIFY_WERROR=1                       warnings are errors
UNIFY_SANITIZE=address,undefined     builds with sanitizers (or `thread`), in a build folder of its own
UNIFY_JOBS=2                         compilers at a time; default: one for each core
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import Extension, setup


def sources(*folders: str) -> list[str]:
    """The C++ files in these folders of csrc/, in a fixed order."""
    return sorted(str(path) for folder in folders for path in Path("csrc", folder).rglob("*.cpp"))


def exports(front: str) -> str:
    """What a simulated driver shows: the vendor's functions, and nothing of the C++ library under them."""
    return f"csrc/simulator/{front}/exports.map"


CORE = sources("core", "backends", "python")
# Shared libraries of their own, opened in place of a vendor's driver: each is a front, a folder of csrc/simulator/, and
# what all fronts share. They share the loader of CPU code with the CPU backend.
FRONTS = {
    "cuda": "unify.simulator.libunify_simulated_cuda",
    "ascend": "unify.simulator.libunify_simulated_ascendcl",
}
# By which others find one that is loaded, as the vendor's. Not CUDA's: Nvidia's own compilers would find it then.
SONAMES = {"cuda": "libunify_simulated_cuda.so", "ascend": "libascendcl.so"}
SIMULATED = {
    front: [
        *(s for s in sources("simulator") if Path(s).parent.name in ("simulator", front)),
        *(s for s in CORE if Path(s).name.startswith(("host_elf", "host_fault", "host_re"))),
    ]
    for front in FRONTS
}
SOURCES = sorted({*CORE, *(source for library in SIMULATED.values() for source in library)})
HEADERS = sorted(str(path) for folder in ("csrc", "unify/include") for path in Path(folder).rglob("*.[hi]*"))
COMPILE = ["-O3", "-pthread", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wconversion", "-Wno-psabi"]
LINK = ["-ldl", "-pthread"]

if os.environ.get("UNIFY_WERROR") == "1":
    COMPILE.append("-Werror")
if sanitizer := os.environ.get("UNIFY_SANITIZE"):
    COMPILE += [f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer", "-O1", "-g1"]
    LINK.append(f"-fsanitize={sanitizer}")
if shutil.which("ccache") and not {"CC", "CXX"} & os.environ.keys():
    os.environ["CC"], os.environ["CXX"] = "ccache cc", "ccache c++"


def is_outdated(obj: str, source: str) -> bool:
    """Whether an object must be compiled again: setuptools itself would not look at headers."""
    if not Path(obj).exists():
        return True
    built = Path(obj).stat().st_mtime
    headers = (h for h in HEADERS if "simulator" in Path(source).parts or "simulator" not in Path(h).parts)
    return any(Path(path).stat().st_mtime > built for path in (source, *headers))


class BuildExtension(build_ext):
    """Keeps objects for the next build, also from an editable install, and those of different flags apart."""

    def build_extensions(self) -> None:
        compile_one = self.compiler._compile

        def compile_shown(obj: str, source: str, *how: object) -> None:
            print(f"[{SOURCES.index(source) + 1}/{len(SOURCES)}] {source}", flush=True)
            compile_one(obj, source, *how)

        self.compiler._compile = compile_shown
        super().build_extensions()

    def get_ext_filename(self, name: str) -> str:
        # No module of Python's: dlopen finds it by its plain name.
        if any(name in (library, library.rpartition(".")[2]) for library in FRONTS.values()):
            return f"{name.replace('.', os.sep)}.so"
        return super().get_ext_filename(name)

    def finalize_options(self) -> None:
        super().finalize_options()
        flags = hashlib.sha256(" ".join([sys.version, *COMPILE, *LINK]).encode()).hexdigest()[:8]
        self.build_temp = f"build/objects-{flags}"


ParallelCompile("UNIFY_JOBS", default=0, needs_recompile=is_outdated).install()
setup(
    ext_modules=[
        Pybind11Extension(
            "unify._core",
            CORE,
            include_dirs=["unify/include", "csrc"],
            cxx_std=17,
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
            depends=HEADERS,
        ),
        *(
            Extension(
                FRONTS[front],
                library,
                include_dirs=["unify/include", "csrc"],
                language="c++",
                extra_compile_args=["-std=c++17", *COMPILE],
                # It stays for good: threads of its streams may run until the process ends.
                extra_link_args=[
                    *LINK,
                    f"-Wl,--version-script={exports(front)}",
                    f"-Wl,-soname,{SONAMES[front]}",
                    "-Wl,-z,nodelete",
                ],
                depends=[*HEADERS, exports(front), "setup.py"],
            )
            for front, library in SIMULATED.items()
        ),
    ],
    cmdclass={"build_ext": BuildExtension},
)
