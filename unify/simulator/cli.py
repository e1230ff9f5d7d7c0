"""`unify simulate ascend`: runs a program as on a machine with chips, and says what it did there."""

from __future__ import annotations

import contextlib
import difflib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from unify._errors import InvalidArgument, TargetError

from . import environment, report
from .ascend import library_path
from .environment import Chips, Environment
from .exports import calls_of
from .simulation import error_of, load

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run(args: Any) -> int:
    """Runs `unify simulate` and returns the program's exit status, or ends as the program did, by its signal."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command and not args.install:
        raise InvalidArgument("simulate ascend: give a program behind --: `-- python program.py`, or --install.")
    chips = Chips(
        environment.read_soc(args.soc),
        environment.read_count(str(args.devices)),
        environment.read_memory(args.memory) if args.memory else None,
        tuple(args.fault or ()),
    )
    for path in filter(None, (args.trace, args.report)):
        _check_writable(Path(path))
    if args.install:
        made = environment.install(_interpreter(command[0]) if command else sys.executable, quiet=args.json)
        if not command:
            print(f"torch_npu {environment.VERSION} for {made.python.path} is in {made.folders[0]}")
            return 0
    else:
        made = environment.find(_interpreter(command[0]))
    for plan in chips.faults:
        check_fault(plan, made.libraries, chips.devices)
    return _run([_found(command[0]), *command[1:]], made, chips, args)


def check_fault(plan: str, libraries: Path, devices: int) -> None:
    """Raises InvalidArgument for a plan that the simulated driver would refuse, or that would never come.

    libraries: the folder of those that have the calls.
    """

    def refuse(why: str) -> NoReturn:
        raise InvalidArgument(f"simulate ascend: --fault {plan!r}: {why}.")

    number, _, rest = plan.partition(":")
    if not number.isdecimal() or not rest:
        refuse("say DEVICE:CALL:AFTER:WHAT, 0:aclnnAdd:3:aicore, or DEVICE:time:SECONDS:WHAT, 0:time:2.5:lost")
    if int(number) >= devices:
        refuse(f"there is no device {number}, but {devices} from 0")
    library = load(str(library_path()))
    if library.unify_simulator_check(rest.encode()) < 0:
        refuse(error_of(library))
    call = rest.partition(":")[0]
    known = frozenset[str]().union(*(calls_of(str(path.resolve())) for path in libraries.iterdir()))
    if call not in known and call not in ("*", "time"):
        near = difflib.get_close_matches(call, known, n=1)
        refuse(f"no call is named {call!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))


def _check_writable(path: Path) -> None:
    """Said now, not after an hour's run."""
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise InvalidArgument(f"simulate ascend: {path} cannot be written: {error.strerror}.") from None


def _found(name: str) -> str:
    """The program's file. The Python that unify runs in comes first, and what is installed beside it."""
    if name in ("python", "python3"):
        return sys.executable
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if os.sep not in name and os.access(beside, os.X_OK) else shutil.which(name)
    if path is None:
        what = "is not a program" if Path(name).exists() else "is not there"
        hint = f" Say `python {name}`." if name.endswith(".py") and Path(name).exists() else ""
        raise InvalidArgument(f"simulate ascend: {name} {what}.{hint}")
    return path


def _interpreter(name: str) -> str:
    """The Python that a program is for: itself, or what its first line names, else the one that unify runs in."""
    path = _found(name)
    if Path(path).name.startswith("python"):
        return path
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        first = file.readline(1024).decode(errors="replace")
        words = first.removeprefix("#!").split() if first.startswith("#!") else []
        words = words[1:] if words and Path(words[0]).name == "env" else words
        if words and Path(words[0]).name.startswith("python"):
            return _found(words[0]) if os.sep not in words[0] else words[0]
    return sys.executable


def _run(command: list[str], made: Environment, chips: Chips, args: Any) -> int:
    with tempfile.TemporaryDirectory(prefix="unify-simulated-") as scratch:
        reports, traces = Path(scratch, "reports"), Path(scratch, "traces")
        reports.mkdir()
        traces.mkdir()
        status = _wait_for(command, made.variables(chips, reports, traces if args.trace else None))
        merged = report.merge(reports, status)
        if args.trace:
            report.write_trace(traces, Path(args.trace), {one["pid"]: one["command"] for one in merged["processes"]})
        if args.report:
            report.write_json(merged, Path(args.report))
        if args.json:
            sys.stderr.write(report.as_json(merged))
        else:
            report.show(merged)
        sys.stderr.flush()
    if status < 0:
        _end_by(signal.Signals(-status))
    return status


def _wait_for(command: list[str], variables: dict[str, str]) -> int:
    """Runs a program to its end; signals go to it. Returns its status, or minus the signal that ended it."""
    awaited = {*_PASSED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        try:
            process = subprocess.Popen(command, env=variables, preexec_fn=unblock)  # noqa: S603 - the user's
        except OSError as error:
            raise InvalidArgument(f"simulate ascend: {command[0]} cannot be run: {error.strerror}.") from None
        while process.poll() is None:
            told = signal.sigwaitinfo(awaited)
            # A terminal sends its signals to all of its programs; what a process sent us alone goes on.
            if told.si_signo != signal.SIGCHLD and told.si_code <= 0:
                process.send_signal(told.si_signo)
        return process.returncode
    finally:
        # What came for both and is still pending was the program's to act on.
        while signal.sigtimedwait(awaited, 0) is not None:
            pass
        unblock()


def _end_by(number: signal.Signals) -> None:
    """Ends this process as the program ended, so that a shell sees the same; without a second core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    sys.stdout.flush()
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise TargetError(f"simulate ascend: the program was ended by {number.name}.")  # a signal that ends nobody
