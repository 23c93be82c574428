"""The files of an evaluation's records, to the byte: all protocols, a detector's boxes, a reference, the baselines.

The models answer by rules, so that no processor's rounding is in the figures. A change of these bytes changes what
evaluations say: where it is meant, say so in the commit.
"""

import hashlib
from pathlib import Path

import pytest

from data.coco import Coco
from data.detections import Detections
from evaluation.baselines import score_baselines
from evaluation.protocols import PROTOCOLS
from evaluation.records import DETECTIONS, INSTANCES, write_records
from evaluation.scorer import Scorer
from tests.unit.truthful import FilledBox, Truthful, drawn_labels, write_coco, write_detections

EXPECTED: dict[str, tuple[str, str | None]] = {
    "truthful": ("b48c54048914625c", "45f24c170f5914bc"),
    "filled_box": ("ce123f9eceb13813", "8513c1c3fbf24c76"),
    "baselines": ("7a3a7ae71a146283", None),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("drawn") / "coco", drawn_labels(4))


def digests(folder: Path) -> tuple[str | None, ...]:
    """Of the two files, None for one that is not there."""
    paths = (folder / INSTANCES, folder / DETECTIONS)
    return tuple(hashlib.sha256(p.read_bytes()).hexdigest()[:16] if p.exists() else None for p in paths)


@pytest.mark.parametrize("name", ["truthful", "filled_box"])
def test_records_of_a_model(name: str, root: Path, tmp_path: Path) -> None:
    data = Coco(root, least_area=0)
    samples = [data.sample(index) for index in range(len(data))]
    model, reference = (FilledBox if name == "filled_box" else Truthful)(samples), Truthful(samples)
    detections = Detections(write_detections(tmp_path / "boxes.json", root), data.sizes_hw())
    protocols = [p for p in PROTOCOLS.values() if p.prompt != "annotated_point"]
    if name == "filled_box":
        protocols = [protocol for protocol in protocols if protocol.prompt in ("box", "detector_box")]
    write_records(tmp_path, Scorer(model, protocols, detections, reference).score(data).records)
    assert digests(tmp_path) == EXPECTED[name]


def test_records_of_the_baselines(root: Path, tmp_path: Path) -> None:
    write_records(tmp_path, score_baselines(Coco(root)))
    assert digests(tmp_path) == EXPECTED["baselines"]
