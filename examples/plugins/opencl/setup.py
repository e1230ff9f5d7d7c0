"""Builds the backend: one shared library that includes OpenCL's headers and unify's, and links neither."""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

import unify


class BuildLibrary(build_ext):
    """A shared library for dlopen, not a module of Python: no suffix of an interpreter, no PyInit symbol."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


setup(
    ext_modules=[
        Extension(
            "unify_opencl.libunify_opencl",
            sorted(str(path) for path in Path("src").glob("*.cpp")),
            include_dirs=[unify.get_include()],
            depends=sorted(str(path) for path in Path("src").glob("*.[hi]*")),
            extra_compile_args=[
                "-std=c++17",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Wconversion",
                "-fvisibility=hidden",
                "-pthread",
            ],
            extra_link_args=["-ldl", "-pthread"],
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
)
