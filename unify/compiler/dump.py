"""UNIFY_DUMP: the stages of each compiled kernel, as files beside each other that people read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from unify._config import settings

from .cache import warn_once


def write(name: str, ttir: str, stages: Mapping[str, str]) -> None:
    """Writes those of the stages that are asked for as `NAME.HASH.STAGE`; the hash is that of the kernel's TTIR.

    Where that is impossible, warns once and goes on.
    """
    folder = Path(settings.dump_dir)
    digest = hashlib.sha256(ttir.encode()).hexdigest()[:12]
    try:
        for stage in settings.dump:
            if stage in stages:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{name}.{digest}.{stage}").write_text(stages[stage])
    except OSError as error:
        warn_once(f"UNIFY_DUMP: nothing is written to {folder}: {error.strerror or error}. Set UNIFY_DUMP_DIR.")
