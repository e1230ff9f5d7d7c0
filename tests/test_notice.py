"""Lines about what takes long."""

from __future__ import annotations

import pytest

from unify._notice import Notice


def test_what_takes_long_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Notice("compiling", after_s=0.01) as notice:
        notice._timer.join(60)
    assert notice.was_written
    assert capsys.readouterr().err == "compiling\n"


def test_what_ends_soon_or_shows_itself_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with Notice("compiling", after_s=600):
        pass
    with pytest.raises(KeyError), Notice("compiling", after_s=600):
        raise KeyError
    with Notice("compiling", after_s=600) as notice:
        notice.cancel()
        notice._timer.join(60)
        assert not notice._timer.is_alive()
    assert not notice.was_written
    assert capsys.readouterr().err == ""
