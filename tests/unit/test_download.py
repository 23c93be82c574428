"""Published files: fetched once, resumed, verified; without a network, what to do by hand."""

import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import experiments.download
from core.errors import InputError
from experiments.checkpoints import find_model
from experiments.download import downloads, fetched
from students.catalog import RELEASED

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; ``cut`` ends the connection early, ``plain`` knows no ranges."""

    def __init__(self, asked: list[str], *arguments: object) -> None:
        self.asked = asked
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.asked.append(f"{self.path} {wanted}")
        if self.path == "/missing":
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and self.path != "/plain" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : 1_000_000 if self.path == "/cut" and not start else None])

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def address(asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, asked))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once_and_verified(address: str, asked: list[str], tmp_path: Path) -> None:
    path = fetched(f"{address}/model.pt", SHA256, "model")
    assert path == tmp_path / "torch" / "hub" / "checkpoints" / "model.pt" and path.read_bytes() == CONTENT
    assert fetched(f"{address}/model.pt", SHA256, "model") == path
    assert asked == ["/model.pt "]
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_a_connection_that_ends_is_continued(address: str, asked: list[str]) -> None:
    with pytest.raises(InputError, match=r"model: cannot be fetched \(.*\); by hand: curl -L -C - -o .*/cut http"):
        fetched(f"{address}/cut", SHA256, "model")
    assert not (downloads() / "cut").exists()
    assert (downloads() / "cut.part").stat().st_size == 1_000_000
    assert fetched(f"{address}/cut", SHA256, "model").read_bytes() == CONTENT
    assert asked == ["/cut ", "/cut bytes=1000000-"]


@pytest.mark.parametrize("name", ["plain", "model.pt"])
@pytest.mark.parametrize("have", [10, len(CONTENT)])
def test_what_was_there_is_used_or_replaced(address: str, name: str, have: int) -> None:
    downloads().mkdir(parents=True)
    (downloads() / f"{name}.part").write_bytes(CONTENT[:have])
    assert fetched(f"{address}/{name}", SHA256, "model").read_bytes() == CONTENT


def test_another_file_than_the_published_one_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"sha256 is .*, published is 0+; remove the file and fetch it again, by hand"):
        fetched(f"{address}/model.pt", "0" * 64, "model")


def test_without_a_hash_it_is_said(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    fetched(f"{address}/model.pt", None, "model")
    assert "no hash of this file was published" in capsys.readouterr().err.replace("\n", " ")


def test_a_server_that_refuses(address: str) -> None:
    with pytest.raises(InputError, match=r"model: cannot be fetched \(Not Found\); by hand: curl"):
        fetched(f"{address}/missing", SHA256, "model")


def test_a_released_model_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise experiments.download.urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(experiments.download.urllib.request, "urlopen", refuse)
    with pytest.raises(
        InputError, match=r"mobile_sam: cannot be fetched \(no network\); by hand: curl .*mobile_sam\.pt"
    ):
        find_model("mobile_sam")
    with pytest.raises(InputError, match="did you mean mobile_sam"):
        find_model("mobilesam")


def test_the_catalogue_is_the_shared_one(shared: Path) -> None:
    listed = (shared / "released_models.csv").read_text(encoding="utf-8")
    for name, release in RELEASED.items():
        if release.layout != "slimsam_pickle":
            line = next(line for line in listed.splitlines() if line.startswith(f"{name},"))
            assert release.url in line and (release.sha256 or ",,") in line and release.layout in line
