"""What a command left in its folder, without what a clock or a place says: equal for two commands that did the same."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMED = {
    *("encoder_latency_ms", "decoder_latency_ms", "peak_memory_bytes", "train_seconds", "device_hours"),
    *("train_images_per_s", "train_peak_memory_bytes", "images_per_s", "seconds", "encoder_seconds", "masks_seconds"),
    *(f"{part}_latency_ratio{end}" for part in ("encoder", "decoder") for end in ("", "_low", "_high")),
    *("utc", "provenance", "config", "versions", "decoder_seconds", "total_seconds"),
}
"""Names of figures that differ between two runs."""
_OUTPUTS = ("stdout", "stderr", "imported.json")
_UNCOMPARED = (".lock", ".shard", ".part", ".html", "leaderboard.md", "multirun.yaml")


def figures_of(folder: Path) -> dict[str, str]:
    """By file, a hash of what it says; caches and pages are left out, hidden files too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.endswith(_UNCOMPARED) and path.name not in _OUTPUTS:
            content = _READERS.get(path.suffix, Path.read_bytes)(path)
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def leftovers(folder: Path) -> list[str]:
    """Files that were being written when somebody was killed."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*.part"))


def _json(path: Path) -> bytes:
    return _plain(json.loads(path.read_text()))


def _lines(path: Path) -> bytes:
    return b"\n".join(_plain(json.loads(line)) for line in path.read_text().splitlines())


def _table(path: Path) -> bytes:
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    return b"\n".join(sorted(_plain(row) for row in rows if row.get("metric") not in TIMED))


def _plain(content: Any) -> bytes:
    return json.dumps(_timeless(content), sort_keys=True).encode()


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if key not in TIMED}
    if isinstance(content, list):
        return [_timeless(value) for value in content]
    if isinstance(content, str):
        # Folders that each attempt has of its own.
        return re.sub(r"/[^\s\"']*/(undisturbed|attempt-\d+)", "", content)
    return content


_READERS: dict[str, Callable[[Path], bytes]] = {".json": _json, ".jsonl": _lines, ".csv": _table}
