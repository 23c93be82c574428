"""The command ``doctor``: what is installed and found here, and the command that brings what is not.

Only the standard library is imported before it looks, so that it answers where PyTorch or Hydra is missing.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import RunFailed
from core.plain_file import home_path
from experiments.cli.doctor import data_sets, machine, packages, services, weights
from experiments.cli.doctor.finding import Finding, probed

if TYPE_CHECKING:
    from experiments.config.schema import DoctorConfig

_SIGNS = {"ok": ("ok", "green"), "missing": ("-", "dim"), "broken": ("broken", "red"), "unknown": ("?", "yellow")}


class NotReady(RunFailed):
    """Something that a run needs is broken; reported in one line, with all that was found.

    Attributes:
        rows: every finding.
    """

    def __init__(self, message: str, rows: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.rows = list(rows)


def doctor(settings: "DoctorConfig", cfg: Any) -> list[Finding]:
    """Look at everything and print it.

    Raises:
        NotReady: something that a run of the embedded teacher needs is broken.
    """
    findings = examine(Path(settings.runs), settings.data.root, settings.engine.device)
    if settings.format == "table":
        print_findings(findings)
    if problem := not_ready(findings):
        raise NotReady(problem, findings)
    return findings


def examine(runs: Path, root: str | None, device: str = "auto") -> list[Finding]:
    """Every finding, in the order of the table; a look that fails is a finding too.

    Args:
        runs: the folder of runs.
        root: where data sets are looked for, ``data.root``.
        device: ``engine.device``.
    """
    looks: list[tuple[str, str, Callable[[], Iterable[Finding]]]] = [
        ("machine", "Python", machine.python),
        ("machine", "code", machine.code),
        ("machine", "processor", machine.processor),
        ("machine", "CUDA", partial(machine.accelerators, device)),
        ("machine", f"runs={runs}", partial(machine.disk, runs)),
        ("packages", "packages", packages.packages),
        ("extras", "extras", packages.extras),
        ("data", "data", partial(data_sets.data_sets, root)),
        ("checkpoints", "sam_pocket", weights.packaged),
        ("checkpoints", "teachers", weights.teachers),
        ("checkpoints", "released", weights.released),
        ("loggers", "loggers", services.loggers),
        ("launchers", "launchers", services.launchers),
    ]
    return [finding for part, name, look in looks for finding in probed(part, name, look)]


def not_ready(findings: Iterable[Finding]) -> str | None:
    """One line on what a run needs and does not have, with the first fix; None where it can work."""
    lacking = [finding for finding in findings if finding.needed and finding.state in ("missing", "broken")]
    if not lacking:
        return None
    first = lacking[0]
    more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
    return f"a run cannot work here: {first.name}: {first.found}{more}; {first.fix}"


def print_findings(findings: Sequence[Finding]) -> None:
    """The table on standard output: what was found, and below each part the commands that bring what was not."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

    except ImportError:
        for finding in findings:
            print(f"{_SIGNS[finding.state][0]:<7}{finding.part} {finding.name}: {finding.found}; {finding.fix}")
        return
    console = Console(highlight=False, markup=False)
    for part in dict.fromkeys(finding.part for finding in findings):
        table = Table(box=None, show_header=False, pad_edge=False, show_edge=False)
        table.add_column(no_wrap=True, min_width=6)
        table.add_column(overflow="fold", min_width=14, max_width=36)
        table.add_column(overflow="fold")
        of_part = [finding for finding in findings if finding.part == part]
        for finding in of_part:
            sign, style = _SIGNS[finding.state]
            table.add_row(Text(sign, style=style), Text(finding.name), Text(finding.found))
        console.print(Text(part, style="bold"))
        console.print(table)
        # Not in the table, whose lines are broken: a command can be copied as it stands.
        for finding in (finding for finding in of_part if finding.fix):
            console.print(Text(f"  {finding.name}: ", style="dim") + Text(finding.fix, style="cyan"), soft_wrap=True)
        console.print()
    if not_ready(findings) is None:
        console.print("a run can work here: python -m experiments method=slimsam ratio=0.77", style="bold")


def doctor_alone(argv: Sequence[str]) -> int:
    """The same where Hydra or PyTorch cannot be imported: settings as they are typed; returns the exit status."""
    given = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    findings = examine(home_path(given.get("runs", "runs")), given.get("data.root"), given.get("engine.device", "auto"))
    if given.get("format") == "json":
        print(json.dumps({"rows": [finding.to_dict() for finding in findings]}))
    else:
        print_findings(findings)
    if problem := not_ready(findings):
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0
