"""A download is the published file, byte for byte, or it is refused; what interrupts it only delays it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

from cromss.cli import main
from cromss.config import DownloadConfig
from cromss.data.download import command, partial
from cromss.data.download.catalogue import DataSet, RemoteFile
from cromss.data.download.command import CARD_FILE, download
from cromss.data.download.remote import MAX_REDIRECTS, check_address, check_redirect
from cromss.errors import BusyError, ConfigError, CromssError, DamagedFileError, DownloadError
from file_server import cut, passing, raw, running, status

CONTENT = os.urandom(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with running() as state:
        state.files["/a.bin"] = CONTENT
        yield state


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits between tries, which do not happen."""
    taken = []
    monkeypatch.setattr(partial, "sleep", taken.append)
    return taken


def a_file(server, **facts):
    return RemoteFile(**({"name": "a.bin", "url": server.url + "/a.bin"} | facts))


def a_set(*files, **facts):
    return {"test": DataSet(title="t", page="p", licence="l", contents="c", files=files, **facts)}


def fetch(server, out, *, catalogue=None, **settings):
    settings = {"retries": 3, "timeout": 60.0} | settings
    download(DownloadConfig(name="test", out=str(out), **settings), catalogue or a_set(a_file(server)))


def left(out):
    return sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))


def test_a_file_arrives_with_its_card(server, tmp_path, capsys):
    fetch(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.bin", CARD_FILE]
    entry = json.loads((tmp_path / CARD_FILE).read_text())["files"]["a.bin"]
    assert entry.pop("date").startswith("20")
    assert entry == {
        "url": server.url + "/a.bin", "bytes": len(CONTENT), "sha256": DIGEST, "vouched": "recorded", "mark": '"v1"'
    }  # fmt: skip
    shown = capsys.readouterr().err
    assert "to fetch: 3.0 MB; free in" in shown
    assert DIGEST in shown


def test_a_second_run_checks_and_fetches_nothing(server, tmp_path, capsys):
    fetch(server, tmp_path)
    server.requests.clear()
    capsys.readouterr()
    fetch(server, tmp_path)
    assert server.requests == []
    assert "SHA-256 checked" in capsys.readouterr().err
    with (tmp_path / "a.bin").open("r+b") as file:
        file.seek(1_000_000)
        file.write(bytes([CONTENT[1_000_000] ^ 1]))
    with pytest.raises(DamagedFileError, match="not what it was"):
        fetch(server, tmp_path)


@pytest.mark.parametrize("mark", ["etag", "last_modified"])
def test_a_body_that_is_cut_again_and_again_is_put_together(mark, server, tmp_path, waits):
    server.etag = '"v1"' if mark == "etag" else 'W/"weak"'
    server.last_modified = None if mark == "etag" else "Mon, 01 Jan 2024 00:00:00 GMT"
    server.faults = [cut(server, count) for count in (1, 700_001, 0, 999_999, 300_000)]
    fetch(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [asked for _, asked, _ in server.requests] == [
        None, "bytes=1-", "bytes=700002-", "bytes=700002-", "bytes=1700001-", "bytes=2000001-"
    ]  # fmt: skip
    assert {condition for _, _, condition in server.requests[1:]} == {server.last_modified or server.etag}
    assert waits == [1.0, 1.0, 1.0, 1.0, 1.0]


def test_tries_without_progress_come_to_an_end_and_keep_what_is_here(server, tmp_path, waits):
    server.faults = [cut(server, 500_000), *[status(503)] * 4]
    with pytest.raises(DownloadError, match="status 503") as caught:
        fetch(server, tmp_path)
    assert "goes on from the bytes that are here" in caught.value.do
    assert waits == [1.0, 1.0, 2.0, 4.0]
    assert left(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    server.requests.clear()
    fetch(server, tmp_path)
    assert server.requests == [("/a.bin", "bytes=500000-", '"v1"')]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.bin", CARD_FILE]


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_when_it_says(code, server, tmp_path, waits):
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    server.faults = [status(code, Retry_After="7"), status(code, Retry_After=date), status(code, Retry_After="soon")]
    fetch(server, tmp_path)
    assert waits[0] == 7.0
    assert 25 < waits[1] <= 30
    assert waits[2] == 4.0
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_that_asks_for_an_hour_is_left_in_peace(server, tmp_path, waits):
    server.faults = [status(429, Retry_After="3600")]
    with pytest.raises(DownloadError, match="wait 3600 s"):
        fetch(server, tmp_path)
    assert waits == []


@pytest.mark.parametrize(
    ("code", "words"),
    [(404, "not on its server"), (410, "not on"), (401, "account"), (403, "account"), (418, "refuses")],
)
def test_an_answer_that_will_not_change_ends_it_at_once(code, words, server, tmp_path, waits):
    server.faults = [status(code)]
    with pytest.raises(DownloadError, match=words) as caught:
        fetch(server, tmp_path)
    assert caught.value.where == server.url + "/a.bin"
    assert caught.value.do
    assert waits == []
    assert left(tmp_path) == []


@pytest.mark.parametrize("honest", [True, False], ids=["200 for another ETag", "206 of another file"])
def test_a_file_that_changes_on_its_server_is_never_glued(honest, server, tmp_path):
    other = os.urandom(3_000_000)
    server.if_range = honest

    def changes(handler):
        server.files["/a.bin"], server.etag = other, '"v2"'
        return False

    server.faults = [cut(server, 1_000_000), changes]
    fetch(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == other


def test_a_server_without_ranges_or_marks_begins_anew(server, tmp_path):
    server.ranges = False
    server.faults = [cut(server, 1_000_000)]
    fetch(server, tmp_path / "one")
    assert (tmp_path / "one" / "a.bin").read_bytes() == CONTENT
    server.ranges, server.etag = True, None
    server.requests.clear()
    server.faults = [cut(server, 1_000_000)]
    fetch(server, tmp_path / "two")
    assert [asked for _, asked, _ in server.requests] == [None, None]
    assert (tmp_path / "two" / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"sha256": "0" * 64}, "SHA-256 0000"),
        ({"md5": "0" * 32}, "MD5 0000"),
        ({"bytes": len(CONTENT) - 1}, "bytes"),
        ({"bytes": len(CONTENT) + 1}, "bytes"),
    ],
)
def test_another_file_than_the_published_one_is_refused_and_nothing_is_kept(facts, words, server, tmp_path):
    with pytest.raises(CromssError, match=words):
        fetch(server, tmp_path, catalogue=a_set(a_file(server, **facts)))
    assert left(tmp_path) == []


def test_the_published_hash_is_accepted_and_noted(server, tmp_path):
    facts = {"sha256": DIGEST, "bytes": len(CONTENT), "md5": hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}
    fetch(server, tmp_path, catalogue=a_set(a_file(server, **facts)))
    assert json.loads((tmp_path / CARD_FILE).read_text())["files"]["a.bin"]["vouched"] == "published"


@pytest.mark.parametrize(("digest", "good"), [(DIGEST, True), ("1" * 64, False)], ids=["right", "wrong"])
def test_the_hash_that_the_first_server_announces_is_held_against_the_bytes(digest, good, server, tmp_path):
    server.redirects["/link"] = "/a.bin"
    server.extra = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(CONTENT))}
    catalogue = a_set(a_file(server, url=server.url + "/link"))
    if good:
        fetch(server, tmp_path, catalogue=catalogue)
        assert json.loads((tmp_path / CARD_FILE).read_text())["files"]["a.bin"]["vouched"] == "announced"
        return
    with pytest.raises(DamagedFileError, match="announced"):
        fetch(server, tmp_path, catalogue=catalogue)
    assert left(tmp_path) == []


def test_a_flip_in_the_part_on_disk_is_found(server, tmp_path):
    server.faults = [cut(server, 2_000_000), *[status(500)] * 4]
    catalogue = a_set(a_file(server, sha256=DIGEST))
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, catalogue=catalogue)
    with (tmp_path / "a.bin.part").open("r+b") as file:
        file.write(bytes([CONTENT[0] ^ 1]))
    with pytest.raises(DamagedFileError):
        fetch(server, tmp_path, catalogue=catalogue)
    fetch(server, tmp_path, catalogue=catalogue)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("step", ["write_json", "settle"])
def test_a_stop_between_the_last_byte_and_the_name_is_repaired_without_fetching(step, server, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, step, stop)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path)
    assert not (tmp_path / "a.bin").exists()
    server.requests.clear()
    fetch(server, tmp_path)
    assert server.requests == []
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert left(tmp_path) == ["a.bin", CARD_FILE]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": "https://example.org/a", "mark": "1", "total": 5}'])
def test_a_part_that_nothing_vouches_for_is_not_continued(text, server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(os.urandom(1000))
    (tmp_path / "a.bin.part.json").write_text(text)
    fetch(server, tmp_path)
    assert server.requests == [("/a.bin", None, None)]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_more_bytes_than_the_file_has_are_refused(server, tmp_path):
    body = b"".join(b"10000\r\n" + bytes(65536) + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
    server.faults = [raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)]
    with pytest.raises(DownloadError, match="more bytes than the file has"):
        fetch(server, tmp_path, catalogue=a_set(a_file(server, bytes=100_000)))
    assert left(tmp_path) == []


def test_a_chunked_body_is_whole_or_tried_again(server, tmp_path):
    whole = b"10000\r\n" + CONTENT[:65536] + b"\r\n0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.faults = [raw(head + whole[:40_000]), raw(head + whole)]
    fetch(server, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[:65536]


def test_a_body_whose_end_cannot_be_told_needs_a_published_hash(server, tmp_path):
    server.faults = [raw(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT)]
    with pytest.raises(DownloadError, match="nothing tells when a file is complete"):
        fetch(server, tmp_path)
    server.faults = [raw(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT[:-5])]
    with pytest.raises(DamagedFileError):
        fetch(server, tmp_path, catalogue=a_set(a_file(server, sha256=DIGEST)))
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP at all",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_strange_answer_is_refused_without_a_traceback(answer, server, tmp_path):
    server.faults = [raw(answer)] * 4
    with pytest.raises(DownloadError):
        fetch(server, tmp_path)
    assert left(tmp_path) == []


def test_few_redirects_are_followed_and_circles_are_not(server, tmp_path):
    assert MAX_REDIRECTS == 5
    for number in range(MAX_REDIRECTS):
        server.redirects[f"/{number}"] = f"/{number + 1}" if number + 1 < MAX_REDIRECTS else "/a.bin"
    fetch(server, tmp_path / "few", catalogue=a_set(a_file(server, url=server.url + "/0")))
    assert (tmp_path / "few" / "a.bin").read_bytes() == CONTENT
    server.redirects["/more"] = "/0"
    for path in ("/more", "/circle"):
        server.redirects["/circle"] = "/circle"
        with pytest.raises(DownloadError, match="on and on"):
            fetch(server, tmp_path / "many", catalogue=a_set(a_file(server, url=server.url + path)))


@pytest.mark.parametrize("target", ["http://example.org/a", "ftp://127.0.0.1/a", "file:///etc/passwd", "data:,x"])
def test_a_redirect_to_an_unsafe_address_is_not_followed(target, server, tmp_path):
    server.redirects["/a.bin"] = target
    with pytest.raises(DownloadError):
        fetch(server, tmp_path)
    assert left(tmp_path) == []


def test_plain_http_is_for_this_machine_alone():
    check_address("https://example.org/a")
    check_address("http://localhost:1/a")
    check_redirect("http://127.0.0.1/a", "https://example.org/a")
    for address in ("http://example.org/a", "file:///etc/passwd", "ftp://example.org/a", "a", "https:///a"):
        with pytest.raises(DownloadError):
            check_address(address)
    with pytest.raises(DownloadError, match="unsafe"):
        check_redirect("https://example.org/a", "http://127.0.0.1/a")


def test_tls_is_verified_and_never_left_again(tmp_path, monkeypatch):
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    line += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(line, check=True, capture_output=True)

    def wrap(http):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        http.socket = context.wrap_socket(http.socket, server_side=True)

    with running(wrap) as secure, running() as plain:
        secure.files["/a.bin"] = plain.files["/a.bin"] = CONTENT
        with pytest.raises(DownloadError, match="cannot prove who it is"):
            fetch(secure, tmp_path / "one")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        fetch(secure, tmp_path / "two")
        assert (tmp_path / "two" / "a.bin").read_bytes() == CONTENT
        secure.redirects["/a.bin"] = plain.url + "/a.bin"
        with pytest.raises(DownloadError, match="unsafe"):
            fetch(secure, tmp_path / "three")
        assert plain.requests == []
        plain.redirects["/a.bin"] = secure.url + "/b.bin"
        secure.files["/b.bin"] = CONTENT
        fetch(plain, tmp_path / "four")
        assert (tmp_path / "four" / "a.bin").read_bytes() == CONTENT


def test_nobody_answers(server, tmp_path, waits):
    with running() as gone:
        address = gone.url
    with pytest.raises(DownloadError, match="refused"):
        fetch(server, tmp_path, catalogue=a_set(a_file(server, url=address + "/a.bin")))
    assert waits == [1.0, 2.0, 4.0]


@pytest.mark.slow
def test_a_server_that_falls_silent_is_tried_again(server, tmp_path):
    release = []

    def silent(handler):
        while not release:
            time.sleep(0.01)
        handler.close_connection = True
        return True

    server.faults = [silent]
    try:
        fetch(server, tmp_path, timeout=1.0, retries=50)
    finally:
        release.append(True)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_full_disk_is_seen_before_the_start(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: usage._replace(free=len(CONTENT) - 1))
    with pytest.raises(DownloadError, match="disk is too small"):
        fetch(server, tmp_path)
    assert server.requests == []
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: usage._replace(free=len(CONTENT)))
    fetch(server, tmp_path)


def test_a_file_put_there_by_hand_is_checked_or_refused(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    with pytest.raises(DamagedFileError, match="did not fetch"):
        fetch(server, tmp_path)
    fetch(server, tmp_path, catalogue=a_set(a_file(server, sha256=DIGEST)))
    assert server.requests == []
    assert json.loads((tmp_path / CARD_FILE).read_text())["files"]["a.bin"]["vouched"] == "published"
    (tmp_path / CARD_FILE).unlink()
    with pytest.raises(DamagedFileError, match="not the published one"):
        fetch(server, tmp_path, catalogue=a_set(a_file(server, sha256="0" * 64)))


def test_a_card_that_is_none_is_named(server, tmp_path):
    for text in ("[]", "{}", "no json"):
        (tmp_path / CARD_FILE).write_text(text)
        with pytest.raises(DamagedFileError):
            fetch(server, tmp_path)


def an_archive(count=5):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for number in range(count):
            file.writestr(f"x/{number}.tif", os.urandom(1000))
    return stream.getvalue()


def test_archives_are_unpacked_once_and_may_then_go(server, tmp_path, capsys):
    server.files["/a.zip"] = an_archive()
    catalogue = a_set(a_file(server, name="a.zip", url=server.url + "/a.zip", archive="a.zip"))
    fetch(server, tmp_path, catalogue=catalogue, keep_archives=False)
    assert left(tmp_path) == ["a", CARD_FILE]
    assert len(list((tmp_path / "a" / "x").iterdir())) == 5
    server.requests.clear()
    fetch(server, tmp_path, catalogue=catalogue)
    assert server.requests == []
    assert "unpacked already" in capsys.readouterr().err
    (tmp_path / "a" / ".unpacked.json").unlink()
    with pytest.raises(DamagedFileError, match="in the way"):
        fetch(server, tmp_path, catalogue=catalogue)


def test_an_archive_is_unpacked_only_with_all_its_parts(server, tmp_path, capsys):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as file:
        header = tarfile.TarInfo("x.bin")
        header.size = len(CONTENT)
        file.addfile(header, io.BytesIO(CONTENT))
    whole, files = stream.getvalue(), []
    for number, start in enumerate(range(0, len(whole), 1_100_000)):
        name = f"a.tar.gz.part{number}"
        server.files["/" + name] = whole[start : start + 1_100_000]
        files.append(a_file(server, name=name, url=f"{server.url}/{name}", archive="a.tar.gz"))
    fetch(server, tmp_path, catalogue=a_set(*files), files=("a.tar.gz.part1",))
    assert "not unpacked: its other 2 parts" in capsys.readouterr().err
    fetch(server, tmp_path, catalogue=a_set(*files), files=("a",))
    assert (tmp_path / "a" / "x.bin").read_bytes() == CONTENT


COMMAND = [sys.executable, "-m", "cromss", "download", "noldo-s12", "--files", "[ssl4eo_s12_osm.zip]"]
PATH = "/datasets/vikki23/NoLDO-S12/resolve/main/ssl4eo_s12_osm.zip"


@pytest.mark.slow
def test_the_command_resumes_after_a_kill_and_two_at_once_do_no_harm(server, tmp_path):
    content = an_archive(4000)
    server.files[PATH], server.hold_at = content, 1_000_000
    line = [*COMMAND, "--out", str(tmp_path / "out"), "--mirror", server.url]
    part = tmp_path / "out" / "ssl4eo_s12_osm.zip.part"
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as first:
        while not (part.exists() and part.stat().st_size > 300_000):
            assert first.poll() is None
        second = subprocess.run(line, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert BusyError.__name__ in second.stderr
        assert "Traceback" not in second.stderr
        first.send_signal(signal.SIGKILL)
    assert part.exists()
    server.hold_at = None
    server.go_on.set()
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert server.requests[-1][1].startswith("bytes=")
    assert (tmp_path / "out" / "ssl4eo_s12_osm.zip").read_bytes() == content
    assert len(list((tmp_path / "out" / "ssl4eo_s12_osm" / "x").iterdir())) == 4000
    assert "its licence is not known here" in done.stderr
    assert left(tmp_path / "out") == [CARD_FILE, "ssl4eo_s12_osm", "ssl4eo_s12_osm.zip"]


def test_what_the_command_cannot_do_is_one_error(server, tmp_path, capsys):
    with pytest.raises(ConfigError, match="did you mean 'noldo-s12'"):
        download(DownloadConfig(name="noldo"))
    for settings in (["dfc"], [], ["dfc2020", "--files", "[x]"], ["dfc2020", "--mirror", "http://example.org"]):
        assert main(["download", *settings, *(["--out", str(tmp_path / "out")] if settings else [])]) == 2
        shown = capsys.readouterr().err
        assert "do: " in shown
        assert "Traceback" not in shown
    assert main(["download", "--list"]) == 0
    shown = capsys.readouterr().out
    assert "noldo-s12" in shown
    assert "could not be seen" in shown


def test_progress_is_a_line_where_stderr_is_a_file(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cromss.data.download.meter._LINE_EVERY", 0.0)
    server.faults = [passing]
    fetch(server, tmp_path)
    shown = capsys.readouterr().err
    assert "a.bin: 3.0 MB of 3.0 MB" in shown
    assert "min left" in shown
