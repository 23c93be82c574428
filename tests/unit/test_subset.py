"""A part of SA-1B: by list, share and count; the same wherever it is drawn, and never of the other split."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.synthetic.sa1b import write_sa1b
from core.errors import InputError
from data.sa1b import Sa1b
from data.subset import Subset, draw

IMAGES = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("subset") / "sa1b"
    write_sa1b(root, IMAGES, 1, (32, 32), shard=10, distinct=1)
    return root


def numbers(root: Path, split: str = "train", **part: Any) -> list[int]:
    data = Sa1b(root, split, 10, labels=False, **part)
    return [data.image_id(index) for index in range(len(data))]


def test_the_draw_is_pinned() -> None:
    # Whoever drew a hundredth of SA-1B must find it again.
    expected = [0.566561575172, 0.591189734198, 0.061833419619]
    assert draw(np.array([1, 2, 11_185_362]), 0).round(12).tolist() == expected
    assert not np.array_equal(draw(np.arange(9), 0), draw(np.arange(9), 1))


def test_the_draw_is_uniform() -> None:
    for seed in (0, 1):
        found = draw(np.arange(1, 100_001), seed)
        assert found.min() >= 0 and found.max() < 1
        for share in (0.01, 0.5):
            # Six standard deviations.
            assert abs((found < share).mean() - share) < 6 * (share * (1 - share) / 1e5) ** 0.5


def test_a_part_of_training_has_no_image_of_validation(root: Path, tmp_path: Path) -> None:
    training, validation = set(numbers(root)), set(numbers(root, "validation"))
    assert len(training) == 30 and validation == set(range(31, 41))
    (tmp_path / "names.txt").write_text("\n".join(f"sa_{n}.jpg" for n in range(20, 40)))
    for part in ({"share": 0.9}, {"count": 30}, {"names": tmp_path / "names.txt"}):
        assert set(numbers(root, **part)) <= training  # type: ignore[arg-type]
    assert numbers(root, names=tmp_path / "names.txt") == list(range(20, 31))
    assert numbers(root, "validation", names=tmp_path / "names.txt") == list(range(31, 40))


def test_fewer_shards_hold_out_what_all_hold_out(root: Path, tmp_path: Path) -> None:
    validation = set(numbers(root, "validation"))
    for shards in ((0, 1), (2, 3), (0, 3), (1, 2)):
        part = tmp_path / f"{shards}"
        part.mkdir()
        for shard in shards:
            (part / f"sa_{shard:06}.tar").symlink_to(root / f"sa_{shard:06}.tar")
        assert not validation & set(numbers(part))


def test_shares_and_counts_are_nested_and_depend_on_the_seed(root: Path) -> None:
    few, more = set(numbers(root, count=5)), set(numbers(root, count=12))
    assert len(few) == 5 and len(more) == 12 and few < more
    half = numbers(root, share=0.5)
    assert half == [n for n in range(1, 31) if draw(np.array([n]), 0)[0] < 0.5]
    assert numbers(root, share=0.5, subset_seed=1) != half
    assert set(numbers(root, share=0.5, count=4)) < set(half)
    assert numbers(root, share=1.0) == numbers(root)


def test_names_in_every_form(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("# a list\n\nsa_3\n sa_000000/sa_5.jpg \r\nsa_7.json\nsa_3.jpg\n")
    assert numbers(root, names=file) == [3, 5, 7]
    with pytest.raises(InputError, match=r"line 2 is 'cat.jpg', no name such as sa_1.jpg; correct it"):
        file.write_text("sa_1\ncat.jpg")
        numbers(root, names=file)
    file.write_text("# nothing")
    with pytest.raises(InputError, match="lists no names"):
        numbers(root, names=file)
    with pytest.raises(InputError, match="no such file of names"):
        numbers(root, names=tmp_path / "no")
    file.write_text("sa_1\nsa_400")
    with pytest.raises(InputError, match=r"sa_400.jpg: listed, but no such image is there"):
        numbers(root, "validation", names=file)
    data = Sa1b(root, "all", names=file, missing="skip")
    assert len(data) == 1 and data.skipped["image_left_out"] == 1


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"share": 0}, "data.share=0 is no share"),
        ({"share": 1.5}, "data.share=1.5 is no share"),
        ({"share": float("nan")}, "data.share=nan is no share"),
        ({"count": 0}, "data.count=0 images are too few"),
        ({"count": 31}, "data.count=31: there are 30 images to choose from; give fewer"),
        ({"share": 1e-9}, "takes none of the images of this split; take more"),
    ],
)
def test_what_is_no_part_is_refused(root: Path, part: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        numbers(root, **part)


def test_of_what_is_not_there_a_share_knows_whether_it_would_be_taken() -> None:
    assert Subset(share=1.0).may_have(7, None) and not Subset(count=3).may_have(7, None)
    assert [Subset(share=0.3).may_have(n, None) for n in range(50)] == (draw(np.arange(50), 0) < 0.3).tolist()
