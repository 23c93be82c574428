"""What an exported folder says of itself: ``export.json`` beside the files of the two parts."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from core.checkpoint import write_text
from core.cost import Cost
from core.errors import InputError
from core.feature_layout import EMBEDDING, Layout, sam2_layout
from core.geometry import PIXEL_MEAN, PIXEL_STD
from core.plain_file import read_json
from students.export.runtimes import READS
from students.files import FAMILIES, about_of, name_of
from students.quantized.bit_operations import Bits

MANIFEST = "export.json"
FORMAT = "sampress-export-1"
PRECISIONS = ("fp32", "bf16", "int8", "w8", "w4")
ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""Of the main files, by format; a runtime chooses by it how to read them."""
# Side of a frame, or channels: far beyond any SAM, and small enough to be multiplied.
_LARGEST = 1 << 16
_REMEDY = "export it again"


@dataclass(frozen=True)
class Part:
    """One part of the model.

    Attributes:
        file: its main file, in the manifest's folder.
        precision: what it computes in, or stores its weights in.
        bytes: of all its files.
        sha256: of its main file.
        beside: SHA-256 by name of the files with weights that lie beside it, as OpenVINO's do.
    """

    file: str
    precision: str
    bytes: int
    sha256: str
    beside: dict[str, str] = field(default_factory=dict)

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of all its files, by name."""
        return {self.file: self.sha256, **self.beside}


@dataclass(frozen=True)
class Manifest:
    """An exported model.

    Attributes:
        name: the model's.
        to: format of the files: ``onnx``, ``openvino`` or ``torch``.
        precision: that was requested: ``fp32``, ``bf16``, ``int8``, ``w8`` or ``w4``; that of the image encoder.
        frame: side of the square input in pixels.
        grid, channels: of the embedding.
        encoder, decoder: the two parts.
        any_batch: whether the encoder takes several images at once.
        cost: the columns of :class:`core.cost.Cost` of the model as it was exported.
        weights_sha256: of the model's weights, by :func:`core.checkpoint.weights_sha256`.
        licence: of the weights, where it is known.
        about: what the checkpoint said of its making.
        difference: the largest relative differences that the check after writing found, by part.
        versions: of the libraries that wrote it.
        pixel_mean, pixel_std: what images are normalised by, RGB in 0..255.
        group_size: of ``w8`` and ``w4``: inputs of a linear layer that share a scale.
        quantised: of a quantised model, the columns of :class:`students.quantized.bit_operations.Bits`; None of a float
            one, and of folders from before it was kept.
        family: ``sam``, or ``sam2``: three maps, images stretched to the frame, a padding point beside boxes too.
    """

    name: str
    to: str
    precision: str
    frame: int
    grid: int
    channels: int
    encoder: Part
    decoder: Part
    any_batch: bool
    cost: dict[str, int]
    weights_sha256: str
    licence: str | None = None
    about: dict[str, Any] = field(default_factory=dict)
    difference: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    pixel_mean: tuple[float, ...] = PIXEL_MEAN
    pixel_std: tuple[float, ...] = PIXEL_STD
    family: str = "sam"
    group_size: int | None = None
    quantised: dict[str, Any] | None = None

    @property
    def maps(self) -> Layout:
        """What the encoder gives."""
        return sam2_layout(self.channels) if self.family == "sam2" else {EMBEDDING: (self.channels, 1)}

    @property
    def bytes(self) -> int:
        """Of all files of the model."""
        return self.encoder.bytes + self.decoder.bytes


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a folder's manifest."""
    content = {"format": FORMAT, **asdict(manifest)}
    if manifest.family == "sam":
        # It came later, and says something only where it is another.
        del content["family"]
    for name in ("group_size", "quantised"):
        if content[name] is None:
            del content[name]
    for part in ("encoder", "decoder"):
        if not content[part]["beside"]:
            del content[part]["beside"]
    write_text(folder / MANIFEST, json.dumps(content, indent=2) + "\n")


def is_export(path: Path) -> bool:
    """Whether a path is a folder with a manifest; False for one that cannot be entered, of which a reader tells why."""
    return os.path.isfile(path / MANIFEST)


def holds_part(path: Path) -> bool:
    """Whether a path is a folder with a part's main file, as an exported one without its manifest still is."""
    return any(
        os.path.isfile(path / f"{part}{ending}") for part in ("encoder", "decoder") for ending in ENDINGS.values()
    )


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        InputError: it is damaged, of another version, says of the model what no model could have, or names files that
            are not there.
    """
    path = folder / MANIFEST
    try:
        raw = read_json(path, _REMEDY)
        if raw.pop("format") != FORMAT:
            raise InputError(f"{path}: written in another format, this version reads {FORMAT}; {_REMEDY}")
        manifest = Manifest(**{**raw, "encoder": _part(raw["encoder"]), "decoder": _part(raw["decoder"])})
        numbers = (manifest.frame, manifest.grid, manifest.channels)
        if manifest.to not in READS or manifest.precision not in PRECISIONS:
            raise ValueError("a value is out of range")
        if name_of({"name": manifest.name}, path, _REMEDY) is None:
            raise ValueError("it has no name")
        if manifest.family not in FAMILIES:
            raise ValueError(f"family is {manifest.family!r}")
        if any(type(n) is not int or not 0 < n <= _LARGEST for n in numbers) or type(manifest.about) is not dict:
            raise ValueError("a value is out of range")
        about_of({"about": manifest.about}, path, _REMEDY)
        _check_columns(manifest)
        if type(manifest.any_batch) is not bool:
            raise ValueError(f"any_batch is {str(manifest.any_batch)[:50]!r}, neither true nor false")
        # Images are normalised by these whatever a manifest says.
        for key, value, known in (
            ("pixel_mean", manifest.pixel_mean, PIXEL_MEAN),
            ("pixel_std", manifest.pixel_std, PIXEL_STD),
        ):
            if list(value) != list(known):
                raise ValueError(f"{key} is {str(value)[:50]}, images are normalised by {list(known)}")
        parts = manifest.precision, "fp32" if manifest.precision == "bf16" else manifest.precision
        for part in (manifest.encoder, manifest.decoder):
            if not part.file.endswith(ENDINGS[manifest.to]) or part.precision not in PRECISIONS:
                raise ValueError(f"{part.file!r} is no file of to={manifest.to}")
        if (manifest.encoder.precision, manifest.decoder.precision) != parts:
            raise ValueError(
                f"precision is {manifest.precision}, and its parts are {manifest.encoder.precision} and "
                f"{manifest.decoder.precision}, not {' and '.join(parts)}"
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: does not describe an exported model ({error}); {_REMEDY}") from error
    for name in (*manifest.encoder.hashes, *manifest.decoder.hashes):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file, though {MANIFEST} names it; {_REMEDY}")
    return manifest


def _check_columns(manifest: Manifest) -> None:
    """Refuse what a row of results takes from the manifest as it is, and could not hold.

    Raises:
        AttributeError, TypeError, ValueError: there is such a value.
    """
    known = {column.name for column in fields(Cost)}
    if unknown := sorted(set(manifest.cost) - known):
        raise ValueError(f"cost has {unknown[0][:50]!r}, which is none of {', '.join(sorted(known))}")
    counts = {f"cost.{name}": count for name, count in manifest.cost.items()}
    counts |= {"encoder.bytes": manifest.encoder.bytes, "decoder.bytes": manifest.decoder.bytes}
    if manifest.group_size is not None:
        counts["group_size"] = manifest.group_size
    if manifest.quantised is not None:
        counts |= _quantised_counts(manifest.quantised)
    for name, count in counts.items():
        if type(count) is not int or not 0 <= count < 1 << 63:
            raise ValueError(f"{name} is {str(count)[:50]!r}, no count")


def _quantised_counts(columns: dict[str, Any]) -> dict[str, Any]:
    """What must be counts among the columns of a quantised model, by name.

    Raises:
        TypeError, ValueError: columns are missing or unknown, or the others hold what is of another type.
    """
    bits = Bits(**columns)
    if type(bits.float_macs) is not dict or not isinstance(bits.simulated, str | None):
        raise ValueError("quantised has a column of another type")
    numbers = {name: getattr(bits, name) for name in ("weight_bits", "activation_bits", "bit_operations")}
    numbers |= {f"float_macs.{layer}": count for layer, count in bits.float_macs.items()}
    return {f"quantised.{name}": number for name, number in numbers.items()}


def _part(raw: Mapping[str, Any]) -> Part:
    part = Part(**raw)
    # A manifest names files of its own folder only.
    if type(part.beside) is not dict:
        raise ValueError(f"beside is {str(part.beside)[:50]}")
    for name in part.hashes:
        if type(name) is not str or Path(name).name != name:
            raise ValueError(f"{name!r} is no file name")
    return part
