"""``doctor`` on checkpoints: those of the package, and published ones where downloads are kept. Nothing is fetched."""

from collections.abc import Iterator
from pathlib import Path

from experiments.cli.doctor.finding import Finding

PACKAGED_SHA256 = {
    "sam_pocket": "c83f303283b4c332fb7eaf0fffe1f0c1b1e36e5925fa3d47cef4de54a9e2da21",
    "sam_photo": "14cb46af453af6aa9652f7dec2634f13cc1fa6700b72a8ba51b4c534bc4b0430",
    "sam2_pocket": "fa5585c6abd5483f18b9c8b2e0afc76debfd92f9c5fc7c37d4c093d4144ea358",
}
"""Of the teachers' files in ``teachers/weights/``."""
HASHED_UP_TO = 500_000_000
"""Bytes of the largest file that is hashed here; larger ones are when they are read."""


def packaged() -> Iterator[Finding]:
    """The embedded teachers: there, and the files they should be. A run needs the first one, its default."""
    from core.checkpoint import file_sha256
    from teachers.catalog import MODELS

    fix = "git checkout -- teachers/weights, or install the package again"
    for name, sha256 in PACKAGED_SHA256.items():
        path, needed = MODELS[name].packaged, name == "sam_pocket"
        assert path is not None
        if not path.is_file():
            yield Finding(name, "broken", f"{path} is missing", fix, needed)
        elif file_sha256(path) != sha256:
            yield Finding(name, "broken", f"{path} is not the file of this version", fix, needed)
        else:
            yield Finding(name, "ok", f"in the package, {_size(path)}, hash as it should be", "", needed)


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
