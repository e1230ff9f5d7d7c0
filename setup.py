"""Builds the one extension, unify._core; everything else about the distribution stands in pyproject.toml.

UNIFY_WERROR=1 makes warnings errors; UNIFY_SANITIZE=address|thread|undefined builds with a sanitizer.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

sources = sorted(str(path) for folder in ("core", "backends", "python") for path in Path("csrc", folder).rglob("*.cpp"))
flags = ["-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wconversion", "-Wno-psabi"]
link = ["-ldl", "-pthread"]
if os.environ.get("UNIFY_WERROR") == "1":
    flags.append("-Werror")
if sanitizer := os.environ.get("UNIFY_SANITIZE"):
    flags += [f"-fsanitize={sanitizer}", "-fno-omit-frame-pointer", "-g"]
    link.append(f"-fsanitize={sanitizer}")
if shutil.which("ccache") and "CC" not in os.environ and "CXX" not in os.environ:
    os.environ["CC"], os.environ["CXX"] = "ccache cc", "ccache c++"

ParallelCompile("NPY_NUM_BUILD_JOBS", default=0).install()
setup(
    ext_modules=[
        Pybind11Extension(
            "unify._core",
            sources,
            include_dirs=["unify/include", "csrc"],
            cxx_std=17,
            extra_compile_args=flags,
            extra_link_args=link,
            depends=[str(path) for folder in ("csrc", "unify/include") for path in Path(folder).rglob("*.h")],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
