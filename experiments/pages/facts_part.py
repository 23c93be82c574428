"""Where a run comes from, and what it was told."""

import json
from collections.abc import Mapping
from typing import Any

from experiments.pages.page import text
from experiments.pages.run_record import RunRecord
from experiments.result_file import command_of


def provenance_part(record: RunRecord) -> str:
    """Code, versions, machine and hashes."""
    known = record.mapping("provenance")
    versions = known.get("versions")
    dirty = ", with changes that are not committed" if known.get("git_dirty") is True else ""
    lines = [
        ("date", known.get("utc")),
        ("revision", f"{known['git_sha']}{dirty}" if known.get("git_sha") else record.student.git_sha),
        ("device", known.get("device") or record.student.device),
        ("platform", known.get("platform")),
        ("CUDA of PyTorch", known.get("cuda")),
        ("processor cores", known.get("cpu_count")),
        ("threads", known.get("threads")),
        ("load average of the last minute", known.get("load_average")),
        ("versions", ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else None),
        *((key.replace("_", " "), value) for key, value in record.about.items() if isinstance(value, str)),
        ("constraints sha256", known.get("constraints_sha256")),
    ]
    facts = "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in lines if value is not None)
    made = command_of(record.about, record.evaluated)
    return (f'<pre class="command">{text(made)}</pre>' if made else "") + f'<dl class="facts">{facts}</dl>'


def config_part(record: RunRecord) -> str:
    """The resolved settings, folded up."""
    config = record.mapping("config")
    if not config:
        return ""
    return f"<details><summary>all settings, resolved</summary><pre>{text(as_yaml(config))}</pre></details>"


def as_yaml(value: Mapping[str, Any], indent: int = 0) -> str:
    """Plain values in YAML's way, in the order of the file; for reading, not for parsing."""
    lines = []
    for key, part in value.items():
        if isinstance(part, Mapping) and part:
            lines.append(f"{' ' * indent}{key}:\n{as_yaml(part, indent + 2)}")
        else:
            shown = part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
            lines.append(f"{' ' * indent}{key}: {shown}")
    return "\n".join(lines)
