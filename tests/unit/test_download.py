"""Published files: fetched once, resumed, verified; without a network, what to do by hand."""

import contextlib
import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import experiments.runs.download
from core.errors import InputError
from experiments.runs.checkpoints import find_model
from experiments.runs.download import downloads, fetched
from students.catalog import RELEASED
from teachers.catalog import MODELS

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT with ranges.

    ``cut`` ends the connection early, ``plain`` knows no ranges, ``to=ADDRESS`` sends on, ``unmeasured`` tells no
    length.
    """

    def __init__(self, requested: list[str], *arguments: object) -> None:
        self.requested = requested
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        expected = self.headers.get("Range", "")
        self.requested.append(f"{self.path} {expected}")
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path.startswith("/to="):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to="))
            self.end_headers()
            return
        start = int(expected[6:-1]) if expected and self.path != "/plain" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if self.path != "/unmeasured":
            self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        # Who has enough goes away.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(CONTENT[start : 1_000_000 if self.path == "/cut" and not start else None])

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def requested() -> list[str]:
    return []


@pytest.fixture
def address(requested: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(experiments.runs.download, "SCHEMES", ("http",))
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, requested))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once_and_verified(address: str, requested: list[str], tmp_path: Path) -> None:
    path = fetched(f"{address}/model.pt", SHA256, "model")
    assert path == tmp_path / "torch" / "hub" / "checkpoints" / "model.pt" and path.read_bytes() == CONTENT
    assert fetched(f"{address}/model.pt", SHA256, "model") == path
    assert requested == ["/model.pt "]
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]


def test_a_connection_that_ends_is_continued(address: str, requested: list[str]) -> None:
    with pytest.raises(
        InputError, match=r"model: cannot be fetched \(.*\); by hand: curl --proto =https -L -C - -o .*/cut http"
    ):
        fetched(f"{address}/cut", SHA256, "model")
    assert not (downloads() / "cut").exists()
    assert (downloads() / "cut.part").stat().st_size == 1_000_000
    assert fetched(f"{address}/cut", SHA256, "model").read_bytes() == CONTENT
    assert requested == ["/cut ", "/cut bytes=1000000-"]


def test_nothing_is_written_through_a_link(address: str, requested: list[str], tmp_path: Path) -> None:
    downloads().mkdir(parents=True)
    precious = tmp_path / "precious"
    precious.write_bytes(b"somebody's thesis")
    (downloads() / "model.pt.part").symlink_to(precious)
    with pytest.raises(InputError, match=r"model\.pt: cannot be written \(.*links\)"):
        fetched(f"{address}/model.pt", SHA256, "model")
    assert precious.read_bytes() == b"somebody's thesis" and not requested


def test_processes_that_fetch_one_file_take_turns(address: str, requested: list[str]) -> None:
    """As those of torchrun do: two that write into one part would leave a damaged file."""
    found = list[Path | InputError]()

    def fetch() -> None:
        try:
            found.append(fetched(f"{address}/model.pt", SHA256, "model"))
        except InputError as error:
            found.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == 4 * [downloads() / "model.pt"] and requested == ["/model.pt "]
    assert [file.name for file in downloads().iterdir()] == ["model.pt"]


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


@pytest.mark.parametrize("address_", ["http://127.0.0.1:9/a.pt", "ftp://127.0.0.1/a.pt", "file:///etc/hostname"])
def test_only_https_is_requested(address_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        InputError, match=rf"model: cannot be fetched \({address_} is no https address\); by hand: curl"
    ):
        fetched(address_, SHA256, "model")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_server_may_send_on(address: str, requested: list[str]) -> None:
    path = fetched(f"{address}/to=/there/model.pt", SHA256, "model")
    assert path.read_bytes() == CONTENT and requested == ["/to=/there/model.pt ", "/there/model.pt "]


def test_a_server_may_not_send_on_to_another_kind(address: str, requested: list[str]) -> None:
    # Here http is what may be requested, so that the server needs no certificate.
    with pytest.raises(InputError, match=r"cannot be fetched \(ftp://127\.0\.0\.1/model\.pt is no http address\)"):
        fetched(f"{address}/to=ftp://127.0.0.1/model.pt", SHA256, "model")
    assert len(requested) == 1 and not (downloads() / "model.pt").exists()


def test_from_https_a_server_may_not_send_on_to_http(monkeypatch: pytest.MonkeyPatch) -> None:
    request = experiments.runs.download.urllib.request.Request("https://example.org/a.pt")
    send_on = experiments.runs.download._Redirects().redirect_request
    with pytest.raises(
        experiments.runs.download.urllib.error.URLError, match=r"http://example\.org/a\.pt is no https address"
    ):
        send_on(request, None, 302, "", {}, "http://example.org/a.pt")
    assert send_on(request, None, 302, "", {}, "https://example.org/b.pt").full_url == "https://example.org/b.pt"


@pytest.mark.parametrize("name", ["model.pt", "unmeasured"])
def test_more_than_a_checkpoint_can_have_is_not_taken(name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments.runs.download, "LARGEST", 2_000_000)
    with pytest.raises(InputError, match=r"model: cannot be fetched \(it has .*more than the 2,000,000"):
        fetched(f"{address}/{name}", SHA256, "model")
    assert not (downloads() / name).exists()
    part = downloads() / f"{name}.part"
    assert not part.exists() or part.stat().st_size <= 2_000_000


def test_every_published_address_is_https() -> None:
    addresses = [release.url for release in RELEASED.values()]
    addresses += [model.release.url for model in MODELS.values() if model.release is not None]
    assert len(addresses) > 8 and all(address.startswith("https://") for address in addresses)


def test_a_released_model_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise experiments.runs.download.urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(experiments.runs.download, "_open", refuse)
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
