"""``doctor`` on checkpoints: that of the package, and published ones where downloads are kept. Nothing is fetched."""

from collections.abc import Iterator
from pathlib import Path

from experiments.cli.doctor.finding import Finding

POCKET_SHA256 = "c83f303283b4c332fb7eaf0fffe1f0c1b1e36e5925fa3d47cef4de54a9e2da21"
"""Of ``teachers/weights/sam_pocket.safetensors``, the teacher in the package."""
HASHED_UP_TO = 500_000_000
"""Bytes of the largest file that is hashed here; larger ones are when they are read."""


def packaged() -> Iterator[Finding]:
    """The embedded teacher: there, and the file it should be."""
    from core.checkpoint import file_sha256
    from teachers.catalog import MODELS

    path = MODELS["sam_pocket"].packaged
    assert path is not None
    fix = "git checkout -- teachers/weights, or install the package again"
    if not path.is_file():
        yield Finding("sam_pocket", "broken", f"{path} is missing", fix, needed=True)
    elif file_sha256(path) != POCKET_SHA256:
        yield Finding("sam_pocket", "broken", f"{path} is not the file of this version", fix, needed=True)
    else:
        yield Finding("sam_pocket", "ok", f"in the package, {_size(path)}, hash as it should be", "", True)


def teachers() -> Iterator[Finding]:
    """Meta's SAM, where ``torch.hub`` keeps downloads."""
    from experiments.runs.download import downloads
    from teachers.catalog import MODELS

    for name, model in MODELS.items():
        if model.release is not None:
            yield _file(name, model.release.url, model.release.sha256, downloads())


def released() -> Iterator[Finding]:
    """Compressed models that their authors released."""
    from experiments.runs.download import downloads
    from students.catalog import RELEASED

    for name, model in RELEASED.items():
        if model.layout == "hugging_face":
            yield _repository(name, model.url.removeprefix("https://huggingface.co/"))
        else:
            yield _file(name, model.url, model.sha256, downloads())


def _file(name: str, url: str, sha256: str | None, folder: Path) -> Finding:
    from core.checkpoint import file_sha256

    path = folder / url.rsplit("/", 1)[-1]
    fetch = f"curl -L -C - --create-dirs -o '{path}' {url}"
    if not path.is_file():
        return Finding(name, "missing", "not fetched", fetch)
    if sha256 is None:
        return Finding(name, "ok", f"{_size(path)}; no hash of it was published")
    if path.stat().st_size > HASHED_UP_TO:
        return Finding(name, "ok", f"{_size(path)}; its hash is checked when it is read")
    if file_sha256(path) != sha256:
        return Finding(name, "broken", f"{path} is not the published file", f"rm '{path}' && {fetch}")
    return Finding(name, "ok", f"{_size(path)}, hash as published")


def _repository(name: str, repository: str) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "model.safetensors")
    if isinstance(found, str):
        return Finding(name, "ok", f"in Hugging Face's cache, {_size(Path(found))}")
    return Finding(name, "missing", "not fetched", f"hf download {repository}")


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:,.1f} MB"
