"""What the page shows, arranged: results by machine, cases side by side, certificates, and everything that is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skinedge.console import size
from skinedge.manifest import LineageRecord
from skinedge.measure.result import BundleRecord, CaseRecord, MachineRecord, Result
from skinedge.parity.certificate import Certificate
from skinedge.report.documents import Documents, Measured, Parity
from skinedge.report.figures import CaseFigures, case_figures


@dataclass(frozen=True)
class Entry:
    """One result: ``id`` is what tables and pictures call it (R1, R2 …)."""

    id: str
    label: str
    file: str
    result: Result
    cases: tuple[CaseFigures, ...]
    parity: Parity | None
    certificate: Certificate | None
    headline: CaseFigures | None
    carried: bool

    @property
    def counts(self) -> bool:
        """Whether it has a case of fixed length that counts, if not the one by which bundles are compared."""
        return any(c.shown and c.case.case.mode == "fixed" for c in self.cases)

    @property
    def estimated(self) -> bool:
        """Whether its headline, or all that it holds, was computed instead of measured."""
        return self.headline.status == "estimated" if self.headline else self.result.status == "estimated"


@dataclass(frozen=True)
class Machine:
    """The results of one machine in one power mode; figures are compared inside it only."""

    title: str
    record: MachineRecord
    facts: tuple[tuple[str, str], ...]
    entries: tuple[Entry, ...]
    headline: str | None  # name of the case by which bundles are compared

    @property
    def cases(self) -> tuple[tuple[CaseRecord, tuple[tuple[Entry, CaseFigures], ...]], ...]:
        """Cases with figures, each with the results that have it, in the order in which they were first met."""
        found: dict[tuple[str, str], list[tuple[Entry, CaseFigures]]] = {}
        for entry in self.entries:
            for figures in entry.cases:
                if figures.shown:
                    found.setdefault((figures.case.case.name, figures.case.case.mode), []).append((entry, figures))
        return tuple((rows[0][1].case.case, tuple(rows)) for rows in found.values())


def machines(documents: Documents) -> tuple[Machine, ...]:
    """All results, grouped by the machine they were measured on."""
    groups: dict[str, list[tuple[str, Measured]]] = {}
    for number, measured in enumerate(sorted(documents.measured, key=lambda m: m.result.time), 1):
        groups.setdefault(_machine_key(measured.result.machine), []).append((f"R{number}", measured))
    return tuple(_machine(rows, documents) for rows in groups.values())


def _machine_key(machine: MachineRecord) -> str:
    power = (machine.power_mode.name, machine.power_mode.id) if machine.power_mode else None
    return repr((machine.model, machine.device, machine.processor, machine.cores, machine.gpu, machine.memory_bytes, power))


def _machine(rows: Sequence[tuple[str, Measured]], documents: Documents) -> Machine:
    parities = {p.bundle: p for p in documents.parities}
    certificates = {c.context.bundle.digest: c for c in documents.certificates}
    cases = {id: tuple(case_figures(m.result, c) for c in m.result.cases) for id, m in rows}
    headline = _headline([c for figures in cases.values() for c in figures])
    entries = tuple(
        Entry(
            id=id,
            label=bundle_label(m.result.bundle),
            file=m.file,
            result=m.result,
            cases=cases[id],
            parity=parities.get(m.result.bundle.digest),
            certificate=certificates.get(m.result.bundle.digest),
            headline=_headline_case(cases[id], headline),
            carried=m.kit is not None,
        )
        for id, m in rows
    )
    record = rows[-1][1].result.machine
    return Machine(record.model, record, tuple(machine_facts(record)), entries, headline)


def _headline(cases: Sequence[CaseFigures]) -> str | None:
    """The case by which a machine's bundles are compared: of fixed length, and shared by most of them."""
    speed = [c.case.case for c in cases if c.shown and c.case.case.mode == "fixed"]
    counts = Counter(c.name for c in speed)
    return max(speed, key=lambda c: (counts[c.name], c.max_new_tokens, c.prompt_tokens)).name if speed else None


def _headline_case(cases: Sequence[CaseFigures], name: str | None) -> CaseFigures | None:
    return next((c for c in cases if c.shown and c.case.case.mode == "fixed" and c.case.case.name == name), None)


def bundle_label(bundle: BundleRecord) -> str:
    """Target and scheme, and the types where they were chosen."""
    extra = [f"{name} {value}" for name, value in (("activations", bundle.activations), ("vision", bundle.vision)) if value]
    return f"{bundle.target} {bundle.scheme}" + (f" ({', '.join(extra)})" if extra else "")


def machine_facts(machine: MachineRecord) -> Iterator[tuple[str, str]]:
    """What is known of a machine, in words."""
    power = machine.power_mode
    facts = {
        "device": machine.device,
        "processor": f"{machine.processor}, {machine.cores} cores",
        "memory": size(machine.memory_bytes),
        "GPU": machine.gpu,
        "system": machine.system,
        "L4T": machine.l4t,
        "JetPack": machine.jetpack,
        "power mode": f"{power.name}{'' if power.id is None else f' (id {power.id})'}" if power else None,
        "power": machine.power_source,
        "governor": machine.governor,
        "clocks at the start": ", ".join(f"{n} {v:g} MHz" for n, v in sorted(machine.clocks_mhz.items())),
        "temperatures at the start": ", ".join(f"{n} {v:g} °C" for n, v in sorted(machine.temperatures_c.items())),
        "versions": ", ".join(f"{n} {v}" for n, v in sorted(machine.versions.items())),
    }
    return ((name, value) for name, value in facts.items() if value)


def problems(documents: Documents, found: Sequence[Machine]) -> list[str]:
    """Everything that cannot be right, each in a sentence."""
    return [*_impossible(found), *_kit_failures(documents), *_parity_failures(found), *_certificate_failures(documents)]


def _impossible(found: Sequence[Machine]) -> Iterator[str]:
    for entry in (e for machine in found for e in machine.entries):
        for figures in (c for c in entry.cases if c.shown):
            where, limit = f"{entry.id}, {entry.label}, case {figures.case.case.name}", figures.ceiling
            if figures.above_ceiling and figures.tok_s and limit:
                yield (
                    f"{where}: {figures.tok_s.median:.4g} tokens/s is above the ceiling of {limit.tok_s:.4g}. That is a bug: in "
                    f"the timing, in the {limit.source} of {limit.bandwidth_gb_s:g} GB/s, or in the bytes counted per token."
                )
            for problem in figures.problems:
                yield f"{where}: {problem}."


def _kit_failures(documents: Documents) -> Iterator[str]:
    for file, kit in documents.kits:
        for golden in kit.golden:
            if not golden.passed:
                yield f"{file}: golden case {golden.name} failed on {kit.machine}: {golden.reason}."


def _parity_failures(found: Sequence[Machine]) -> Iterator[str]:
    """Each bundle once, with the results it has."""
    entries = [e for machine in found for e in machine.entries if e.parity and not e.parity.passed]
    for digest in dict.fromkeys(e.result.bundle.digest for e in entries):
        same = [e for e in entries if e.result.bundle.digest == digest]
        stage = (same[0].parity and same[0].parity.first_bad_stage) or "?"
        ids = ", ".join(e.id for e in same)
        yield f"{ids}, {same[0].label}: not the same model as in PyTorch, stage '{stage}' is out of tolerance."


def _certificate_failures(documents: Documents) -> Iterator[str]:
    for c in documents.certificates:
        if c.verdict == "fail":
            yield f"{bundle_label(c.context.bundle)}: its certificate says fail: {'; '.join(c.reasons)}."


def certified(documents: Documents, found: Sequence[Machine]) -> list[tuple[Certificate, list[str]]]:
    """Every certificate with the results that its bundle has here."""
    entries = [entry for machine in found for entry in machine.entries]
    return [(c, [e.id for e in entries if e.result.bundle.digest == c.context.bundle.digest]) for c in documents.certificates]


def left_out(found: Sequence[Machine]) -> list[tuple[str, str, str, str]]:
    """Cases whose figures do not count: result, case, status, reason."""
    return [
        (f"{entry.id} {entry.label}", c.case.case.name, c.status, c.reason or "it holds no samples")
        for machine in found
        for entry in machine.entries
        for c in entry.cases
        if not c.shown
    ]


def lineages(found: Sequence[Machine]) -> list[tuple[BundleRecord, list[str], tuple[LineageRecord, ...]]]:
    """Every bundle once: its record, the results it has, and its way from the adapter checkpoint."""
    bundles: dict[str, tuple[BundleRecord, list[str]]] = {}
    for entry in (e for machine in found for e in machine.entries):
        bundles.setdefault(entry.result.bundle.digest, (entry.result.bundle, []))[1].append(entry.id)
    return [(bundle, ids, bundle.lineage) for bundle, ids in bundles.values()]
