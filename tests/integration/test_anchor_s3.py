"""Checkpoints under Object Lock, on a real S3 server: what is kept cannot be deleted, replaced or hidden."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from seaweed import ACCESS, SECRET, Seaweed

from meshflow.errors import ConfigError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.anchors import AnchorError, ContradictionError, S3Anchor, make_anchor
from meshflow.ledger.format.checkpoints import Checkpoint
from meshflow.ledger.format.notes import Signer
from meshflow.testing.anchor import AnchorConformance, Log

pytestmark = pytest.mark.xdist_group("seaweedfs")
NAMES = (f"evidence-{number}" for number in itertools.count())

Make = Callable[..., S3Anchor]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual chain finds them in the environment, and nothing of whoever runs the tests."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture
def bucket(s3: Seaweed) -> str:
    return s3.bucket(next(NAMES))


@pytest.fixture
def make(s3: Seaweed, bucket: str) -> Make:
    def made(**changes: Any) -> S3Anchor:
        settings = {"bucket": bucket, "prefix": "desk", "retain_days": 30, "endpoint_url": s3.url, "timeout_s": 5}
        anchor = make_anchor("s3", settings | changes, Path())
        assert isinstance(anchor, S3Anchor)
        return anchor

    return made


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[ReplayLedger]:
    async with ReplayLedger(tmp_path / "runs.db") as ledger:
        yield ledger


async def write(ledger: ReplayLedger, count: int = 1) -> None:
    for _ in range(count):
        await ledger.write({"run_id": "r", "node_id": "n"})


def checkpoint(size: int, root: bytes = bytes(32), signer: Signer | None = None) -> str:
    return Checkpoint("test.example/log", size, root).sign(signer or Signer.generate("test.example/log"))


def versions(s3: Seaweed, bucket: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = s3.client().list_object_versions(Bucket=bucket).get("Versions", [])
    return [one for one in found if not one["Key"].endswith("probe")]


async def test_each_checkpoint_is_an_object_of_its_own_that_nobody_can_delete(
    ledger: ReplayLedger, make: Make, s3: Seaweed, bucket: str
) -> None:
    anchor = make()
    assert await anchor.latest() is None
    assert await anchor.kept(10) == []
    notes = []
    for _ in range(3):
        await write(ledger)
        (receipt,) = await ledger.anchor(anchor)
        notes.append(await ledger.checkpoint())
        assert receipt.where.startswith(f"s3 {bucket}/desk/")
    await ledger.anchor(anchor)
    assert await anchor.latest() == notes[-1]
    assert await anchor.kept(10) == notes
    assert await anchor.kept(2) == [notes[0], notes[-1]]
    found = versions(s3, bucket)
    assert [one["Key"] for one in found] == [f"desk/{size:020}" for size in (1, 2, 3)]
    client = s3.client()
    for one in found:
        held = client.get_object_retention(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])["Retention"]
        assert held["Mode"] == "COMPLIANCE"
        assert held["RetainUntilDate"] > datetime.now(UTC) + timedelta(days=29)
        for bypass in (False, True):
            with pytest.raises(ClientError, match="AccessDenied"):
                client.delete_object(
                    Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"], BypassGovernanceRetention=bypass
                )
        with pytest.raises(ClientError, match="AccessDenied"):
            client.put_object_retention(
                Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"],
                Retention={"Mode": "COMPLIANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(seconds=5)},
            )  # fmt: skip
    result = await ledger.verify_ledger(anchors=[make()])
    assert (result["valid"], result["held_size"], "anchor" in result["checked"]) == (True, 3, True)


async def test_a_delete_marker_hides_nothing(ledger: ReplayLedger, make: Make, s3: Seaweed, bucket: str) -> None:
    await write(ledger, 2)
    await ledger.anchor(make())
    note = await ledger.checkpoint()
    s3.client().delete_object(Bucket=bucket, Key=f"desk/{2:020}")
    assert "Contents" not in s3.client().list_objects_v2(Bucket=bucket, Prefix="desk/0")
    assert await make().latest() == note
    assert await make().kept(10) == [note]
    await ledger.anchor(make())
    assert set(await make().kept(10)) == {note}


async def test_a_size_published_again_with_another_root_is_a_contradiction(make: Make) -> None:
    anchor = make()
    await anchor.publish(checkpoint(5))
    await anchor.publish(checkpoint(5))
    with pytest.raises(ContradictionError, match="contradicts"):
        await anchor.publish(checkpoint(5, b"x" * 32))
    with pytest.raises(ContradictionError, match="contradicts"):
        await anchor.publish(checkpoint(4))


async def test_a_checkpoint_laid_over_another_one_is_found(make: Make, s3: Seaweed, bucket: str) -> None:
    await make().publish(checkpoint(5))
    s3.client().put_object(Bucket=bucket, Key=f"desk/{5:020}", Body=checkpoint(5, b"x" * 32).encode())
    for look in (make().latest, lambda: make().kept(10), lambda: make().publish(checkpoint(9))):
        with pytest.raises(ContradictionError, match="two checkpoints of 5 entries"):
            await look()


async def test_a_checkpoint_that_somebody_put_first_without_a_lock_is_put_again_with_one(
    make: Make, s3: Seaweed, bucket: str
) -> None:
    note = checkpoint(5)
    s3.client().put_object(Bucket=bucket, Key=f"desk/{5:020}", Body=note.encode())
    await make().publish(note)
    found = versions(s3, bucket)
    assert len(found) == 2
    for one in found:  # whoever put the first may take it away again, and not the second
        with suppress(ClientError):
            s3.client().delete_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])
    assert len(versions(s3, bucket)) == 1
    assert await make().latest() == note
    await make().publish(note)
    assert len(versions(s3, bucket)) == 1


async def test_two_that_publish_one_size_at_once_agree_or_one_is_refused(make: Make) -> None:
    import asyncio

    first, second = make(), make()
    await first.check()
    await second.check()
    same = await asyncio.gather(first.publish(checkpoint(1)), second.publish(checkpoint(1)))
    assert len(same) == 2
    other = checkpoint(2, b"y" * 32)
    outcomes = await asyncio.gather(first.publish(checkpoint(2)), second.publish(other), return_exceptions=True)
    assert [type(one) for one in outcomes].count(ContradictionError) == 1


async def test_the_newest_is_found_among_more_objects_than_a_page_has(make: Make, s3: Seaweed, bucket: str) -> None:
    anchor = make()
    client = s3.client()
    for size in (1, 5, 70, 900, 12_345, 10**15):
        client.put_object(Bucket=bucket, Key=f"desk/{size:020}", Body=checkpoint(size).encode())
    # A small page stands for many objects.
    whole = anchor._page
    anchor._page = lambda after, count=2: whole(after, min(count, 2))  # type: ignore[method-assign]
    assert anchor._newest() == 10**15
    assert [version.size for version in anchor._versions(-1)] == [1, 5, 70, 900, 12_345, 10**15]
    assert anchor._newest() == 10**15
    assert len(await anchor.kept(3)) == 3


async def test_what_is_no_checkpoint_among_the_objects_is_an_error(make: Make, s3: Seaweed, bucket: str) -> None:
    s3.client().put_object(Bucket=bucket, Key=f"desk/{3:020}", Body=b"scribble")
    with pytest.raises(AnchorError, match="holds no checkpoint"):
        await make().latest()
    s3.client().put_object(Bucket=bucket, Key=f"desk/{4:020}", Body=checkpoint(7).encode())
    with pytest.raises(AnchorError, match="of another size"):
        await make().latest()


async def test_wrong_credentials_are_refused_and_never_shown(
    make: Make, monkeypatch: pytest.MonkeyPatch, ledger: ReplayLedger
) -> None:
    await write(ledger)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an-entirely-wrong-secret")
    with pytest.raises(AnchorError, match="does not accept the credentials") as caught:
        await ledger.anchor(make())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody-knows-this-one")
    with pytest.raises(AnchorError, match="does not know the credentials") as unknown:
        await make().latest()
    for text in (str(caught.value), repr(caught.value), str(unknown.value)):
        assert "an-entirely-wrong-secret" not in text
        assert "nobody-knows-this-one" not in text
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AnchorError, match="no credentials were found"):
        await make().latest()
    with pytest.raises(AnchorError, match="nobody"):
        await make(profile="nobody").latest()


async def test_a_bucket_without_lock_or_versions_is_refused_before_anything_is_put(make: Make, s3: Seaweed) -> None:
    plain = s3.bucket(next(NAMES), locked=False)
    with pytest.raises(AnchorError, match="keeps no versions"):
        await make(bucket=plain).publish(checkpoint(1))
    versioned = s3.bucket(next(NAMES), locked=False)
    s3.client().put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Enabled"})
    with pytest.raises(AnchorError, match="has no Object Lock"):
        await make(bucket=versioned).check()
    with pytest.raises(AnchorError, match="no such bucket"):
        await make(bucket="not-there").check()
    assert versions(s3, plain) == versions(s3, versioned) == []


async def test_a_server_that_is_not_there_is_an_error_that_says_so(make: Make) -> None:
    with pytest.raises(AnchorError, match="cannot be reached"):
        await make(endpoint_url="http://127.0.0.1:9", timeout_s=1).publish(checkpoint(1))


@pytest.mark.slow
async def test_what_was_published_survives_a_killed_server(make: Make, s3: Seaweed, ledger: ReplayLedger) -> None:
    anchor = make()
    await write(ledger, 3)
    await ledger.anchor(anchor)
    note = await ledger.checkpoint()
    await write(ledger)
    s3.kill()
    try:
        with pytest.raises(AnchorError, match="cannot be reached"):
            await ledger.anchor(anchor)
    finally:
        s3.start()
    import asyncio

    for _ in range(150):  # its parts find each other some seconds after it answers
        try:
            assert await make().latest() == note
            await ledger.anchor(anchor)
            break
        except AnchorError:
            await asyncio.sleep(0.2)
    assert await make().kept(10) == [note, await ledger.checkpoint()]


class TestS3Anchor(AnchorConformance):
    @pytest.fixture(autouse=True)
    def _server(self, make: Make) -> None:
        self.anchor = make

    def make(self, folder: Path, log: Log) -> S3Anchor:
        return self.anchor(prefix=folder.name)


class _Liar(BaseHTTPRequestHandler):
    """An S3 server that says it has versions and locks, and then ignores what it is asked for."""

    forgets: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "?versioning" in self.path:
            self._answer("<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
        elif "?object-lock" in self.path:
            self._answer(
                "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
            )
        elif self.forgets == "lock":
            self._answer("<Retention></Retention>")
        else:
            until = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            self._answer(f"<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        there = getattr(self.server, "there", False)
        self.server.there = True  # type: ignore[attr-defined]
        if there and self.forgets != "condition":
            self._answer("<Error><Code>PreconditionFailed</Code></Error>", 412)
        else:
            self._answer("", version="v1")

    def do_DELETE(self) -> None:
        self._answer("", 204)

    def _answer(self, body: str, status: int = 200, version: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if version:
            self.send_header("x-amz-version-id", version)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def liar() -> Iterator[Callable[[str], str]]:
    servers = []

    def start(forgets: str) -> str:
        handler = type("Liar", (_Liar,), {"forgets": forgets})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("forgets", "said"),
    [("condition", "ignores If-None-Match"), ("lock", "does not lock"), ("delete", "deletes what it has locked")],
)
async def test_a_server_that_ignores_what_it_is_asked_for_is_refused(
    liar: Callable[[str], str], forgets: str, said: str
) -> None:
    settings = {"bucket": "evidence", "retain_days": 1, "endpoint_url": liar(forgets)}
    with pytest.raises(AnchorError, match=said):
        await make_anchor("s3", settings, Path()).check()


@pytest.mark.parametrize("wrong", [{"retain_days": 0}, {"bucket": "ab"}, {"retain_days": None}, {"secret": "s3cr3t"}])
def test_settings_that_make_no_sense_are_refused_without_being_shown(wrong: dict[str, Any]) -> None:
    settings = {"bucket": "evidence", "retain_days": 1} | wrong
    with pytest.raises(ConfigError) as caught:
        make_anchor("s3", settings, Path(), path="ledger.anchors[0]")
    assert "s3cr3t" not in str(caught.value)
    assert str(caught.value).startswith(f"ledger.anchors[0].{next(iter(wrong))}: ")
