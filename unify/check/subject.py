"""What is checked, and what is found: plain data, which goes between processes and into the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from unify.compiler import mlir, mlir_reader, parameters
from unify.compiler.places import Place, with_users_places

from .lowered import Lowered

ERROR, PERFORMANCE, PORTABILITY = "error", "performance", "portability"


@dataclass(frozen=True)
class Finding:
    """One thing to change. evidence: what shows it, in the compiler's own words; source: who says that it matters."""

    rule: str
    severity: str
    text: str
    file: str
    line: int
    source: str
    evidence: str = ""


@dataclass(frozen=True)
class Outcome:
    """One compilation: what came out, and everything found. status: "ok", "lowered" or "failed"."""

    status: str
    reason: str | None = None
    file: str | None = None
    line: int | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As the cache holds it."""
        return asdict(self)

    @staticmethod
    def of(fields: dict[str, Any]) -> Outcome:
        """What as_dict gave."""
        return Outcome(**{**fields, "findings": tuple(Finding(**finding) for finding in fields["findings"])})


@dataclass(frozen=True)
class Variant:
    """One way in which a kernel is launched. ttir: for a target, or an Outcome that says why there is none.

    constants: in words, with all that tells it from other variants. key: what stands for the source, as
    unify.compiler.key_of takes it. grids: the largest that were seen, in programs and along an axis.
    """

    constants: dict[str, str]
    options: dict[str, Any]
    key: Callable[[str], dict[str, object]]
    ttir: Callable[[str], str | Outcome]
    grids: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Kernel:
    """A kernel with its variants. needs_all: each of them must compile, as each is launched; else the best one counts,
    as of an autotuner's. targets: where it is only checked for some."""

    name: str
    file: str
    line: int
    variants: tuple[Variant, ...]
    needs_all: bool = True
    targets: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Refused:
    """A variant that does not compile, beside one that does."""

    constants: dict[str, str]
    reason: str | None
    file: str
    line: int


@dataclass(frozen=True)
class Row:
    """A line of the table: one kernel for one target. tried: variants; passed: those that compiled; refused: others,
    where one that compiles is enough.
    """

    kernel: str
    target: str
    status: str
    reason: str | None
    file: str | None
    line: int | None
    findings: tuple[Finding, ...]
    memory: dict[str, Any]
    constants: dict[str, str]
    tried: int = 1
    passed: int = 1
    refused: tuple[Refused, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As --json prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """What rules look at: one variant on one target. memory: the outcome's; log: the reason of one that failed.

    lines: the vendor's last IR with the user's lines, or Triton's for a GPU; empty where it did not get that far.
    first: the vendor's first IR, linalg.
    """

    ttir: str
    target: str
    memory: dict[str, Any] = field(default_factory=dict)
    lines: str = ""
    reason: str = ""
    first: str = ""

    @property
    def kind(self) -> str:
        """Of the target: "ascend"."""
        return self.target.partition(":")[0]

    @property
    def is_950(self) -> bool:
        """Whether the target is a chip of that generation."""
        return "950" in self.target

    @cached_property
    def kernel(self) -> mlir.Operation:
        """The kernel's function in TTIR, with places of the user's."""
        return parameters.kernel_of(mlir_reader.parse(with_users_places(self.ttir)))

    @cached_property
    def operations(self) -> tuple[mlir.Operation, ...]:
        """All operations of the kernel."""
        return tuple(mlir.walk(self.kernel))

    @cached_property
    def lowered(self) -> Lowered:
        """The vendor's IR, statement by statement."""
        return Lowered.of(self.lines if self.kind == "ascend" else "")

    @cached_property
    def linalg(self) -> Lowered:
        """The vendor's first IR, statement by statement."""
        return Lowered.of(self.first)

    @property
    def place(self) -> Place:
        """Where the kernel itself stands."""
        return place_of(self.kernel)


@dataclass(frozen=True)
class Hit:
    """A rule applies here. details: what its text names in braces; evidence: the compiler's own words."""

    place: Place
    evidence: str = ""
    details: dict[str, object] = field(default_factory=dict)


def place_of(operation: mlir.Operation) -> Place:
    """Where an operation of TTIR was written."""
    found = operation.location
    return Place(found.file, found.line, found.column)


def hits(operations: Iterator[mlir.Operation], **details: object) -> Iterator[Hit]:
    """A hit for each operation that has a place, with the operation as evidence."""
    for operation in operations:
        if operation.location.file:
            yield Hit(place_of(operation), words(operation), details)


def words(operation: mlir.Operation) -> str:
    """An operation in short: its name and what goes in and comes out."""
    inputs = ", ".join(str(value.type) for value in operation.operands)
    results = ", ".join(str(value.type) for value in operation.results)
    return f"{operation.name}({inputs})" + (f" -> {results}" if results else "")


def with_grid(outcome: Outcome, findings: tuple[Finding, ...]) -> Outcome:
    """The outcome with what the grid of a launch adds; an error among it fails the variant."""
    errors = [finding for finding in findings if finding.severity == ERROR]
    if errors and outcome.status != "failed":
        first = errors[0]
        outcome = replace(outcome, status="failed", reason=first.text, file=first.file, line=first.line)
    return replace(outcome, findings=(*findings, *outcome.findings))
