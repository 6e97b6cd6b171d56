"""An anchor in an S3 bucket with Object Lock: an object for each checkpoint, which nobody can delete for some time.

A bucket with Object Lock keeps every version of an object, so somebody with write access can hide a checkpoint behind a
delete marker or lay another one over it, and still not remove it. What is kept is therefore read from the versions.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from pydantic import Field

from meshflow.errors import LedgerError
from meshflow.ledger.anchors.contract import (
    Anchor,
    AnchorError,
    ContradictionError,
    Prove,
    Receipt,
    follows,
    spread,
)
from meshflow.ledger.anchors.s3_errors import MISSING, explained, has_no_lock, lost_race
from meshflow.ledger.format.checkpoints import read_checkpoint
from meshflow.plugin.base import Settings

_DIGITS = 20
_PROBE = "meshflow-probe"
_PROBE_DAYS = 1
_READERS = 8
_TRIES = 3


class S3AnchorSettings(Settings):
    """Which bucket, and for how long. Credentials come from where boto3 looks for them, never from here."""

    bucket: str = Field(min_length=3, description="bucket with versioning and Object Lock")
    prefix: str = Field("meshflow", min_length=1, description="what the keys of the objects begin with")
    retain_days: int = Field(
        ge=1, le=36_500, description="days for which nobody, its owner included, can delete a checkpoint"
    )
    endpoint_url: str | None = Field(None, min_length=1, description="address of an S3-compatible server; unset, AWS")
    region: str | None = Field(None, min_length=1, description="region of the bucket; unset, what boto3 finds")
    profile: str | None = Field(
        None, min_length=1, description="profile of the shared credentials file; unset, the default one"
    )
    timeout_s: int = Field(10, ge=1, le=600, description="seconds until a request is given up")


class Version(NamedTuple):
    """One version of an object that keeps a checkpoint."""

    size: int
    key: str
    version_id: str


class S3Anchor(Anchor):
    """Puts one object a checkpoint under ``prefix/<size>``, locked in COMPLIANCE mode."""

    settings_type: ClassVar[type[Settings]] = S3AnchorSettings

    def __init__(self, settings: S3AnchorSettings, *, now: Callable[[], datetime] | None = None) -> None:
        self.settings = settings
        self.name = f"s3 {settings.bucket}/{settings.prefix.strip('/')}"
        self._prefix = settings.prefix.strip("/") + "/"
        self._now = now or (lambda: datetime.now(UTC))
        self._lock = threading.Lock()
        self._made: Any = None
        self._probed = False
        self._seen = -1

    @classmethod
    def from_settings(cls, settings: S3AnchorSettings, base: Path) -> Self:
        """Return the anchor in the bucket that settings name."""
        return cls(settings)

    async def publish(self, checkpoint: str, prove: Prove | None = None) -> Receipt:
        """Put the object, and make sure that it is locked."""
        return await asyncio.to_thread(self._publish, checkpoint)

    async def latest(self, origin: str | None = None) -> str | None:
        """Return the checkpoint of the largest size."""
        return await asyncio.to_thread(self._latest)

    async def kept(self, at_most: int, origin: str | None = None) -> list[str]:
        """Return the checkpoints kept, hidden ones too; ContradictionError when two of one size disagree."""
        return await asyncio.to_thread(self._kept, at_most)

    async def check(self) -> None:
        """Try that versions, locks and conditions are honoured, on an object that is locked for a day."""
        await asyncio.to_thread(self._check)

    def _publish(self, checkpoint: str) -> Receipt:
        if not self._probed:
            self._check()
        follows(checkpoint, self._latest(), self.name)
        size = read_checkpoint(checkpoint).size
        key = f"{self._prefix}{size:0{_DIGITS}}"
        with explained(self.name):
            version = self._put(key, checkpoint, self.settings.retain_days)
            version = version or self._there(key, checkpoint, size)
            if not self._locked(key, version):
                raise AnchorError(f"{self.name} took {key} and did not lock it; use a bucket that honours Object Lock")
        return Receipt(f"{self.name}/{size} version {version}")

    def _put(self, key: str, text: str, days: int, *, anew: bool = False) -> str | None:
        """Put an object, or ``anew`` another version of it, and return the version; None when it is there already."""
        until = self._now() + timedelta(days=days)
        condition = {} if anew else {"IfNoneMatch": "*"}
        for left in reversed(range(_TRIES)):
            try:
                done = self._client().put_object(
                    Bucket=self.settings.bucket, Key=key, Body=text.encode(), ContentType="text/plain; charset=utf-8",
                    ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until, **condition,
                )  # fmt: skip
                return str(done.get("VersionId", ""))
            except Exception as error:  # boto3 makes its exceptions when it runs; what is none of these goes on
                lost = lost_race(error)
                if lost == "there":
                    return None
                if lost != "again" or not left:
                    raise
        return None

    def _there(self, key: str, checkpoint: str, size: int) -> str:
        """Return a locked version of what is kept at a size already, which must say the same.

        Somebody else may have put it there first, and without a lock; then it is put once more, with one.
        """
        new = read_checkpoint(checkpoint)
        versions = [version for version in self._versions(size - 1) if version.size == size]
        if any(read_checkpoint(self._read(version)).root != new.root for version in versions):
            raise ContradictionError(
                f"{self.name} keeps another checkpoint of {size} entries: the history that this one is of was "
                "rewritten, or that one's was; keep both, and verify the ledger against the one kept"
            )
        locked = (version.version_id for version in versions if self._locked(key, version.version_id))
        return next(locked, None) or self._put(key, checkpoint, self.settings.retain_days, anew=True) or ""

    def _locked(self, key: str, version: str) -> bool:
        try:
            found = self._client().get_object_retention(Bucket=self.settings.bucket, Key=key, VersionId=version)
        except Exception as error:
            if not has_no_lock(error):
                raise
            return False
        held = found.get("Retention", {})
        return held.get("Mode") == "COMPLIANCE" and bool(held["RetainUntilDate"] > self._now())

    def _latest(self) -> str | None:
        newest = self._newest()
        if newest is None:
            return None
        found = [self._read(version) for version in self._versions(newest - 1)]
        if len({read_checkpoint(note).root for note in found}) > 1:
            raise self._two(newest)
        return found[-1]

    def _newest(self) -> int | None:
        """Return the largest size kept, in a number of requests that does not grow with the number of objects."""
        page = [version.size for version in self._page(self._seen - 1 if self._seen > 0 else -1)]
        if not page:
            return None
        low, high = max(page), 10 ** (_DIGITS - 1)
        if self._page(low, 1):
            while low < high:
                middle = (low + high + 1) // 2
                beyond = self._page(middle - 1, 1)
                low, high = (beyond[0].size, high) if beyond else (low, middle - 1)
        self._seen = low
        return low

    def _kept(self, at_most: int) -> list[str]:
        versions = list(self._versions(-1))
        with ThreadPoolExecutor(_READERS) as pool:
            notes = list(pool.map(self._read, spread(versions, at_most)))
        roots: dict[int, bytes] = {}
        for note in notes:
            checkpoint = read_checkpoint(note)
            if roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
                raise self._two(checkpoint.size)
        return notes

    def _two(self, size: int) -> ContradictionError:
        return ContradictionError(
            f"{self.name} keeps two checkpoints of {size} entries that contradict each other: somebody signed two "
            "histories; keep both versions of the object"
        )

    def _versions(self, after: int) -> Iterator[Version]:
        """Yield the versions of the checkpoints of more than ``after`` entries, in order of size, the newest first."""
        while page := self._page(after):
            yield from page
            after = page[-1].size

    def _page(self, after: int, count: int = 1_000) -> list[Version]:
        """Return a page of versions, those of its last size whole."""
        marker = f"{self._prefix}{after:0{_DIGITS}}" if after >= 0 else self._prefix
        found: list[Version] = []
        more: dict[str, str] = {"KeyMarker": marker}
        while True:
            with explained(self.name):
                page = self._client().list_object_versions(
                    Bucket=self.settings.bucket, Prefix=self._prefix, MaxKeys=count, **more
                )
            for one in page.get("Versions", ()):
                name = one["Key"].removeprefix(self._prefix)
                if len(name) == _DIGITS and name.isascii() and name.isdigit() and int(name) > after:
                    found.append(Version(int(name), one["Key"], one["VersionId"]))
            if not page.get("IsTruncated") or (found and (count == 1 or found[0].size != found[-1].size)):
                break
            more = {"KeyMarker": page["NextKeyMarker"]}
            if page.get("NextVersionIdMarker"):
                more["VersionIdMarker"] = page["NextVersionIdMarker"]
        if count > 1 and page.get("IsTruncated"):
            found = [version for version in found if version.size != found[-1].size]
        return found

    def _read(self, version: Version) -> str:
        with explained(self.name):
            got = self._client().get_object(Bucket=self.settings.bucket, Key=version.key, VersionId=version.version_id)
            with got["Body"] as body:
                note = body.read(1_000_000)
        try:
            text = str(note, "utf-8")
            if read_checkpoint(text).size != version.size:
                raise AnchorError(f"{self.name}: object {version.key} holds a checkpoint of another size")
        except (UnicodeDecodeError, LedgerError) as error:
            raise AnchorError(f"{self.name}: object {version.key} holds no checkpoint ({error})") from None
        return text

    def _check(self) -> None:
        with explained(self.name):
            client, bucket = self._client(), self.settings.bucket
            if client.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
                raise AnchorError(f"{self.name}: bucket {bucket} keeps no versions; make one with Object Lock")
            lock = client.get_object_lock_configuration(Bucket=bucket).get("ObjectLockConfiguration", {})
            if lock.get("ObjectLockEnabled") != "Enabled":
                raise AnchorError(f"{self.name}: bucket {bucket} has no Object Lock; make one that has")
            self._undeletable(self._prefix + _PROBE)
        self._probed = True

    def _undeletable(self, key: str) -> None:
        """Try on a probe that it can neither be overwritten nor deleted."""
        client, bucket = self._client(), self.settings.bucket
        for _ in range(2):
            version = self._put(key, "a probe\n", _PROBE_DAYS)
            if version is not None and self._put(key, "a second probe\n", _PROBE_DAYS) is not None:
                raise AnchorError(
                    f"{self.name}: the server ignores If-None-Match, so what is kept could be overwritten; use another"
                )
            version = version or client.head_object(Bucket=bucket, Key=key)["VersionId"]
            held = client.get_object_retention(Bucket=bucket, Key=key, VersionId=version).get("Retention", {})
            if held.get("Mode") != "COMPLIANCE":
                raise AnchorError(f"{self.name}: the server does not lock what it is asked to lock; use another")
            locked = held["RetainUntilDate"] > self._now() + timedelta(minutes=1)
            try:
                client.delete_object(Bucket=bucket, Key=key, VersionId=version)
            except client.exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") != "AccessDenied":
                    raise
                return
            if locked:
                raise AnchorError(f"{self.name}: the server deletes what it has locked; use one with Object Lock")

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _client(self.settings)
            return self._made


def _client(settings: S3AnchorSettings) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise AnchorError(MISSING) from None
    session = boto3.session.Session(profile_name=settings.profile, region_name=settings.region)
    return session.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        config=Config(
            connect_timeout=settings.timeout_s, read_timeout=settings.timeout_s, max_pool_connections=_READERS,
            retries={"total_max_attempts": 2, "mode": "standard"}, user_agent_extra="meshflow",
        ),
    )  # fmt: skip
