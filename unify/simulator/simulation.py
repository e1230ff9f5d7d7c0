"""What a program does with the simulated devices of a vendor, whichever it is: faults on demand, and what is alive."""

from __future__ import annotations

import ctypes
import difflib
import operator
from collections.abc import Callable
from dataclasses import dataclass

from unify._errors import InvalidArgument, described

from .exports import calls_of

GIB = 1 << 30


@dataclass(frozen=True)
class Words:
    """What a vendor calls things: itself, its launch, its copy, and a result that stands for a kernel's fault."""

    vendor: str
    launch: str
    copy: str
    error: str


class Simulation:
    """The simulated devices of one vendor in this process: faults on demand, and what is alive on them.

    Device numbers are the vendor's, from 0. `call` is a function of the vendor's driver by its name: "cuMemcpyAsync",
    without a version, or "aclrtMemcpyAsync".
    """

    def __init__(self, library: ctypes.CDLL, target: str, count: int, words: Words) -> None:
        self._library = library
        self._words = words
        self.target = target
        self.count = count

    def __repr__(self) -> str:
        return f"unify.simulate({self.target!r}, count={self.count})"

    def fail(self, call: str = "*", after: int = 0, error: str = "", device: int = 0) -> None:
        """Makes the call that comes after `after` others of its name fail; "*" is any call.

        error: a result by its name in the vendor's manual; "lost", "hang" or "corrupt"; of CUDA "ecc" or
        "launch_failure", of Ascend "aicore", "vector_core", "ecc", "timeout", "out_of_memory" or "link". Without one it
        is a kernel's fault. What goes wrong in work that was only enqueued shows at a later call, as on a chip.
        Raises InvalidArgument for a call that the driver does not have, naming a near one.
        """
        self._check_call(call)
        after = whole("after", after, 10**15 - 1)
        self._plan(f"{call}:{after}:{error or self._words.error}", device)

    def fail_after(self, seconds: float, error: str, device: int = 0) -> None:
        """Makes a device fail by time, in seconds from now, whatever it does then. error: as in `fail`."""
        self._plan(f"time:{seconds}:{error}", device)

    def lose(self, device: int = 0) -> None:
        """Takes a device off the bus, until the process ends."""
        self.fail_after(0, "lost", device)

    def hang(self, call: str = "", after: int = 0, device: int = 0) -> None:
        """Stops the work that the call enqueues, and its stream, until `release`. Without a call: of a launch."""
        self.fail(call or self._words.launch, after, "hang", device)

    def release(self, device: int = 0) -> None:
        """Lets the work go on that hangs."""
        self._check(self._library.unify_simulator_release(_number(device)))

    def slow(self, bytes_per_second: float, device: int = 0) -> None:
        """Lets copies take at least as long as they would at this bandwidth; 0 is as fast as the machine.

        A copy between two devices is as slow as the one whose stream it is on.
        """
        if not isinstance(bytes_per_second, (int, float)):
            raise InvalidArgument(f"simulate: slow: bytes a second are a number, not {described(bytes_per_second)}.")
        self._check(self._library.unify_simulator_slow(_number(device), bytes_per_second))

    def corrupt(self, call: str = "", after: int = 0, device: int = 0) -> None:
        """Flips a bit in the middle of what a copy writes; the copy reports success. Without a call: the next copy."""
        self.fail(call or self._words.copy, after, "corrupt", device)

    def clear(self, device: int = 0) -> None:
        """Forgets the faults planned, and the bandwidth, and lets go what hangs.

        What happened already stays until the device is reset; a device that is lost stays lost.
        """
        self._check(self._library.unify_simulator_clear(_number(device)))

    def live(self, device: int = 0) -> dict[str, int]:
        """How many of each kind are alive on a device, and how many bytes; graphs and reservations of all devices."""
        number = _number(device)
        return {kind: self._check(self._library.unify_simulator_live(number, kind.encode())) for kind in _KINDS}

    def _plan(self, plan: str, device: int) -> None:
        self._check(self._library.unify_simulator_fail(_number(device), plan.encode()))

    def _check_call(self, call: str) -> None:
        known = calls_of(self._library._name)
        if call == "*" or call in known:
            return
        near = difflib.get_close_matches(str(call), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ' "*" is any call.'
        raise InvalidArgument(f"simulated {self._words.vendor}: its driver has no function {call!r}.{hint}")

    def _check(self, result: int) -> int:
        if result < 0:
            raise InvalidArgument(f"simulated {self._words.vendor}: {error_of(self._library)}.")
        return result


_made: dict[str, tuple[tuple[object, ...], Simulation]] = {}


def made_once(kind: str, asked: tuple[object, ...], make: Callable[[], Simulation]) -> Simulation:
    """Makes a vendor's simulation, of which a process has one: asked for again, as by a notebook's cell, the same.

    Raises InvalidArgument where another one is there.
    """
    if kind not in _made:
        _made[kind] = asked, make()
    before, simulation = _made[kind]
    if before != asked:
        said = f"this process has {simulation!r} already; others need a process of their own"
        raise InvalidArgument(f"simulate: {said}.")
    return simulation


_KINDS = (
    *("bytes", "allocations", "pinned_bytes", "managed_bytes", "physical", "reservations"),
    *("streams", "busy_streams", "events", "modules", "graphs", "graph_execs", "retained"),
)


def whole(what: str, value: object, most: int = (1 << 31) - 1) -> int:
    """Returns a whole number from 0 that C takes as it is. Raises InvalidArgument."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidArgument(f"simulate: {what} is a whole number, not {described(value)}.") from None
    if not 0 <= number <= most:
        raise InvalidArgument(f"simulate: {what} is {number}, which is not from 0 to {most}.")
    return number


def _number(device: int) -> int:
    return whole("device", device)


def load(path: str) -> ctypes.CDLL:
    """Opens a simulated driver, and says what its own functions take."""
    library = ctypes.CDLL(path)
    library.unify_simulator_fail.argtypes = [ctypes.c_int, ctypes.c_char_p]
    library.unify_simulator_slow.argtypes = [ctypes.c_int, ctypes.c_double]
    library.unify_simulator_live.argtypes = [ctypes.c_int, ctypes.c_char_p]
    library.unify_simulator_live.restype = ctypes.c_int64
    library.unify_simulator_error.restype = ctypes.c_char_p
    return library


def error_of(library: ctypes.CDLL) -> str:
    """Why the last function of the simulator failed on this thread."""
    text: bytes = library.unify_simulator_error()
    return text.decode()
