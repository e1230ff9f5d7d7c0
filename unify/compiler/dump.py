"""UNIFY_DUMP: the stages of each compiled kernel, as files beside each other that people read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from unify._config import settings


def is_wanted(*stages: str) -> bool:
    """Whether any of these stages is to be written."""
    return not set(stages).isdisjoint(settings.dump)


def write(name: str, ttir: str, stage: str, text: str) -> None:
    """Writes `NAME.HASH.STAGE` if that stage is wanted; the hash is that of the kernel's TTIR."""
    if stage not in settings.dump:
        return
    folder = Path(settings.dump_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.{hashlib.sha256(ttir.encode()).hexdigest()[:12]}.{stage}").write_text(text)
