"""CUDA C++ to cubin, by Nvidia's run-time compiler NVRTC; needs no GPU.

The library comes from the package `nvidia-cuda-nvrtc`, or with a CUDA toolkit. Source: Nvidia's NVRTC manual.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unify._config import settings
from unify._errors import CompileError, InvalidArgument, TargetError, UnsupportedError

from . import cache
from .ptx import Entry, entries

_FORMAT = 2  # of what is kept on disk
_SONAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
# What CUDA's own headers come in; NVRTC itself has none.
_HEADER_PACKAGES = "nvidia-cuda-runtime nvidia-cuda-cccl nvidia-cuda-crt"
# With these, files outside the source decide what comes out, and nobody says which.
_NO_SOURCE_FOLDER = "--no-source-include"
_READS_FILES = ("-I", "--include-path", "-include", "--pre-include", "--options-file", "-optf", "--use-pch", "--pch")
# What reads another file, or asks whether there is one, in whatever way it is written; and the plain way.
_ASKS_FOR_FILES = re.compile(
    r"(?:#|%:|\?\?=)(?:\s|/\*.*?\*/)*(?:include|include_next|import|embed)\b|__has_(?:include|embed)", re.DOTALL
)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:<([^>\n]+)>|"([^"\n]+)")', re.MULTILINE)


@dataclass(frozen=True)
class NvrtcResult:
    """What NVRTC made of a source: image, PTX, its warnings, the functions in it by their names in the image.

    names: by each of `name_expressions`, the name in the image.
    """

    cubin: bytes
    ptx: str
    log: str
    names: dict[str, str]

    @functools.cached_property
    def functions(self) -> dict[str, Entry]:
        """The functions that can be launched, by their names in the image."""
        return entries(self.ptx)


def compile(
    source: str,
    arch: str,
    *,
    name: str = "program.cu",
    options: Sequence[str] = (),
    headers: Mapping[str, str] | None = None,
    name_expressions: Sequence[str] = (),
) -> NvrtcResult:
    """Compiles CUDA C++ for an architecture: "90", "90a", "sm_90" or "cuda:90".

    name: of the source, in messages. options: NVRTC's own, such as "--use_fast_math"; C++17 unless they say otherwise.
    headers: by the name they are included by. name_expressions: instances of templates to compile, "scale<float>".
    What is made is kept on disk, unless the options or an #include name files or folders of yours. The source's own
    folder is not searched, where NVRTC can leave it out.

    Raises CompileError with file and line, TargetError for an architecture that this NVRTC does not have,
    UnsupportedError if there is no NVRTC.
    """
    headers = dict(headers or {})
    if isinstance(options, str) or isinstance(name_expressions, str):
        raise InvalidArgument('options and name_expressions are tuples of strings; write ("--use_fast_math",).')
    library = _library()
    arch = _arch(arch, library)
    folders = _header_folders()
    key = None
    texts = [source, *headers.values()]
    if not any(option.startswith(_READS_FILES) for option in options) and not _reads_files(
        texts, headers, folders if library.leaves_out_source_folder else ()
    ):
        parts = [_FORMAT, library.version, source, arch, name, list(options), headers, list(name_expressions)]
        key = hashlib.sha256(json.dumps(["nvrtc", *parts, _stamps(folders)]).encode()).hexdigest()
        if (kept := cache.load_entry(key)) is not None:
            fields, cubin = kept
            return NvrtcResult(cubin, fields["ptx"], fields["log"], fields["names"])
    arguments = _options(arch, options, folders)
    if library.leaves_out_source_folder:
        arguments.append(_NO_SOURCE_FOLDER)
    result = _compile(library, source, name, headers, arguments, name_expressions)
    if key is not None:
        cache.store_entry(key, {"ptx": result.ptx, "log": result.log, "names": result.names}, result.cubin)
    return result


def _reads_files(texts: Sequence[str], headers: Mapping[str, str], folders: Sequence[Path]) -> bool:
    """Whether texts include what is neither among `headers` nor in the folders, or may do so."""
    for text in texts:
        whole = re.sub(r"\\[ \t]*\r?\n", "", text)
        includes = [angled or quoted for angled, quoted in _INCLUDE.findall(whole)]
        if len(includes) != len(_ASKS_FOR_FILES.findall(whole)):
            return True
        for name in includes:
            is_inside = not Path(name).is_absolute() and ".." not in Path(name).parts
            if name not in headers and not (is_inside and any((folder / name).is_file() for folder in folders)):
                return True
    return False


def _compile(
    library: _Library,
    source: str,
    name: str,
    headers: Mapping[str, str],
    options: Sequence[str],
    name_expressions: Sequence[str],
) -> NvrtcResult:
    program = ctypes.c_void_p()
    texts = [text.encode() for text in headers.values()]
    library.call(
        "nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), len(texts), _strings(texts),
        _strings([header.encode() for header in headers]),
    )  # fmt: skip
    try:
        for expression in name_expressions:
            library.call("nvrtcAddNameExpression", program, expression.encode())
        encoded = [option.encode() for option in options]
        status = library.functions.nvrtcCompileProgram(program, len(encoded), _strings(encoded))
        log = library.bytes_of("nvrtcGetProgramLog", program).rstrip(b"\0\n").decode(errors="replace")
        if status != 0:
            raise _error(name, log or library.text_of(status))
        names = {expression: library.lowered(program, expression) for expression in name_expressions}
        text = library.bytes_of("nvrtcGetPTX", program).rstrip(b"\0").decode()
        return NvrtcResult(library.bytes_of("nvrtcGetCUBIN", program), text, log, names)
    finally:
        library.functions.nvrtcDestroyProgram(ctypes.byref(program))


def _error(name: str, log: str) -> CompileError:
    """NVRTC's log as an error that knows its place: "program.cu(3): error: identifier "x" is undefined"."""
    file, line, reason = name, None, log.partition("\n")[0]
    for text in log.splitlines():
        place, found, rest = text.partition("error")
        before, bracket, number = place.rpartition("): ")[0].rpartition("(")
        if found and bracket and number.isdigit():
            file, line, reason = before, int(number), rest.partition(": ")[2] or rest
            break
    where = f"{file}:{line}" if line is not None else file
    hint = _about_headers() if "open source file" in log else ""
    return CompileError(f"{where}: {reason}\n{log}{hint}", file=file, line=line, reason=reason, kernel=name)


def _about_headers() -> str:
    folders = _header_folders()
    missing = f"were not found: pip install {_HEADER_PACKAGES}, or set CUDA_HOME to a toolkit"
    own = 'Others are given as headers={"name.h": text}, or by options=("-I/folder",).'
    return f"\nCUDA's own headers {f'are those in {folders[0]}' if folders else missing}. {own}"


def _options(arch: str, options: Sequence[str], folders: Sequence[Path]) -> list[str]:
    standard = [] if any(o.startswith(("--std", "-std")) for o in options) else ["--std=c++17"]
    return [f"--gpu-architecture=sm_{arch}", *standard, *options, *(f"--include-path={folder}" for folder in folders)]


def _arch(text: str, library: _Library) -> str:
    """ "90a" of "cuda:90a", "sm_90a" or "90a". Raises TargetError."""
    arch = str(text).removeprefix("cuda:").removeprefix("sm_")
    match = re.fullmatch(r"(\d+)[af]?", arch)
    if match is None or int(match[1]) not in library.archs:
        known = ", ".join(str(one) for one in library.archs)
        raise TargetError(f"NVRTC {library.version} does not compile for {text!r}. It knows {known}.")
    return arch


# ---- CUDA's headers ----


def _header_folders() -> list[Path]:
    """Where CUDA's headers are: of pip's packages, else of a toolkit. Empty if there are none."""
    roots = [Path(root) for root in _nvidia_folders()]
    packaged = [root / part / "include" for root in roots for part in ("cu13", "cuda_runtime", "cuda_crt")]
    toolkits = [Path(settings.cuda_home) / "include"] if settings.cuda_home else []
    if not settings.cuda_home:
        toolkits = [Path("/usr/local/cuda/include")]
    candidates = [*toolkits, *packaged] if settings.cuda_home else [*packaged, *toolkits]
    for folder in candidates:
        if (folder / "cuda_fp16.h").is_file():
            libraries = [folder / "cccl", *(root / "cuda_cccl" / "include" for root in roots)]
            return [folder, *(path for path in libraries if path.is_dir())]
    return []


def _stamps(folders: Sequence[Path]) -> list[str]:
    """The folders and when they were made: another version of the headers is another key."""
    return [
        f"{folder} {(folder / 'cuda_fp16.h').stat().st_mtime_ns if i == 0 else ''}" for i, folder in enumerate(folders)
    ]


# ---- the library ----


def _nvidia_folders() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    return [] if spec is None or spec.submodule_search_locations is None else list(spec.submodule_search_locations)


def _candidates() -> list[str]:
    """Paths and names to try, the package's newest first."""
    found: list[Path] = []
    for root in _nvidia_folders():
        for folder in ("cu13/lib", "cuda_nvrtc/lib"):
            found += [path for path in Path(root, folder).glob("libnvrtc.so.*") if path.name.count(".") == 2]
    in_toolkit = [str(Path(settings.cuda_home) / "lib64" / "libnvrtc.so")] if settings.cuda_home else []
    newest_first = sorted(found, key=lambda path: int(path.name.rpartition(".")[2]), reverse=True)
    return [*map(str, newest_first), *in_toolkit, *_SONAMES]


@functools.cache
def _library() -> _Library:
    for candidate in _candidates():
        try:
            return _Library(ctypes.CDLL(candidate))
        except (OSError, AttributeError):
            continue
    raise UnsupportedError(
        "CUDA C++: Nvidia's compiler library NVRTC is not installed: pip install 'unify-runtime[cuda]' (60 MB), or a "
        f"CUDA toolkit with its libraries on the loader's path. Looked for {', '.join(_SONAMES)}."
    )


class _Library:
    """NVRTC's functions; each failure is a CompileError with NVRTC's own text."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        self.functions = functions
        functions.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"
        count = ctypes.c_int()
        self.call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        archs = (ctypes.c_int * count.value)()
        self.call("nvrtcGetSupportedArchs", archs)
        self.archs = tuple(archs)

    @functools.cached_property
    def leaves_out_source_folder(self) -> bool:
        """Whether this NVRTC can be told not to search for headers where the source is said to lie."""
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), b"", b"empty.cu", 0, None, None)
        try:
            encoded = [_NO_SOURCE_FOLDER.encode()]
            return bool(self.functions.nvrtcCompileProgram(program, 1, _strings(encoded)) == 0)
        finally:
            self.functions.nvrtcDestroyProgram(ctypes.byref(program))

    def call(self, function: str, *args: object) -> None:
        status = getattr(self.functions, function)(*args)
        if status != 0:
            raise CompileError(f"NVRTC: {function}: {self.text_of(status)}.", reason=self.text_of(status))

    def text_of(self, status: int) -> str:
        return str(self.functions.nvrtcGetErrorString(status).decode())

    def bytes_of(self, function: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self.call(f"{function}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(function, program, buffer)
        return buffer.raw

    def lowered(self, program: ctypes.c_void_p, expression: str) -> str:
        name = ctypes.c_char_p()
        self.call("nvrtcGetLoweredName", program, expression.encode(), ctypes.byref(name))
        return (name.value or b"").decode()


def _strings(texts: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(texts))(*texts)
