"""UNIFY_DUMP: the stages of each compiled kernel, as files beside each other that people read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from unify._config import settings


def write(name: str, ttir: str, stages: Mapping[str, str]) -> None:
    """Writes those of the stages that are asked for as `NAME.HASH.STAGE`; the hash is that of the kernel's TTIR."""
    for stage in settings.dump:
        if stage in stages:
            folder = Path(settings.dump_dir)
            folder.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(ttir.encode()).hexdigest()[:12]
            (folder / f"{name}.{digest}.{stage}").write_text(stages[stage])
