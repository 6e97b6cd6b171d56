"""What an error of S3, or of the way to it, means to an operator; keys and tokens are in none of these texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from meshflow.ledger.anchors.contract import AnchorError

MISSING = 'anchors in S3 need boto3: pip install "meshflow[s3]"'
_CODES = {
    "AccessDenied": "the credentials may not do that; allow it in the policy of the bucket",
    "SignatureDoesNotMatch": "the server does not accept the credentials",
    "InvalidAccessKeyId": "the server does not know the credentials",
    "ExpiredToken": "the credentials have expired",
    "NoSuchBucket": "there is no such bucket",
    "ObjectLockConfigurationNotFoundError": "the bucket has no Object Lock; make one that has",
    "InvalidRequest": "the server refuses the request; does the bucket have Object Lock?",
    "NotImplemented": "the server lacks what anchors need: versions, Object Lock and If-None-Match",
}


def lost_race(error: Exception) -> str:
    """Say of a conditional put whether the object was "there", or to try "again"; nothing for other errors."""
    code = _code(error)
    return {"PreconditionFailed": "there", "412": "there", "ConditionalRequestConflict": "again"}.get(code, "")


def has_no_lock(error: Exception) -> bool:
    """Say whether an error means that a version has no retention."""
    return _code(error) in ("NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError")


def _code(error: Exception) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn errors of boto3 into AnchorError."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    except ImportError:
        raise AnchorError(MISSING) from None
    try:
        yield
    except ClientError as error:
        code = _code(error)
        meaning = _CODES.get(code, "the server refused")
        raise AnchorError(f"{name}: {meaning} ({error.operation_name}: {code})") from None
    except NoCredentialsError:
        raise AnchorError(
            f"{name}: no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        ) from None
    except BotoCoreError as error:
        raise AnchorError(f"{name} cannot be reached: {type(error).__name__}: {error}") from None
