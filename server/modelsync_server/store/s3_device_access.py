"""Short-lived, read-only keys by which devices read one prefix of a bucket, from the service's own STS.

With a role that is AssumeRole; without one AWS makes them for an IAM user (GetFederationToken), and MinIO out of the
publisher's own key (AssumeRole, which needs no role there). In each case the policy below cuts off everything else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode, urlsplit

import aiohttp

from modelsync_protocol.access.aws_signature import SigningKey, sign
from modelsync_protocol.errors import RefusedError, UnreachableError, UsageError
from modelsync_server.store.bucket_address import BucketAddress, S3Place, s3_place
from modelsync_server.store.device_secret import DeviceAccess

_NO_ROLE = "arn:xxx:xxx:xxx:xxxx"
"""What MinIO's own documentation gives as RoleArn: it takes any, and uses none."""

_SESSION = "modelsync-devices"
_SHORTEST, _LONGEST = (
    timedelta(minutes=15),
    {"AssumeRole": timedelta(hours=12), "GetFederationToken": timedelta(hours=36)},
)
_FORM = "application/x-www-form-urlencoded; charset=utf-8"
_SECONDS = 30.0


def policy(address: BucketAddress) -> dict[str, object]:
    """What a device may do: read objects below the prefix; and list, for else S3 says 403 where 404 is meant."""
    bucket = f"arn:aws:s3:::{address.bucket}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{bucket}/{address.prefix}*"},
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": bucket},
        ],
    }


async def device_access(address: BucketAddress, lifetime: timedelta, role: str | None) -> DeviceAccess:
    """Make a key that reads one prefix for `lifetime`; `role` is the ARN to assume. UsageError, RefusedError."""
    place = s3_place()
    if not place.key_id:
        raise UsageError(
            "keys for devices are signed by an access key: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret."
        )
    action = "AssumeRole" if role or place.endpoint else "GetFederationToken"
    if not _SHORTEST <= lifetime <= _LONGEST[action]:
        hours = int(_LONGEST[action] / timedelta(hours=1))
        raise UsageError(
            f"such keys live for at most {hours} hours: give --hours {hours} or fewer, and renew by a timer."
        )
    form = {"Action": action, "Version": "2011-06-15", "DurationSeconds": str(int(lifetime.total_seconds()))}
    form["Policy"] = json.dumps(policy(address), separators=(",", ":"))
    form |= (
        {"Name": _SESSION}
        if action == "GetFederationToken"
        else {"RoleArn": role or _NO_ROLE, "RoleSessionName": _SESSION}
    )
    key = await _asked(place, urlencode(form))
    expires = datetime.fromisoformat(key.expires) if key.expires else datetime.now(UTC) + lifetime
    origin = f"{place.host_url}/{address.bucket}/{address.prefix}".rstrip("/")
    return DeviceAccess(origin, key.document(), expires)


async def _asked(place: S3Place, body: str) -> SigningKey:
    url = os.environ.get("AWS_ENDPOINT_URL_STS", "").rstrip("/")
    url = url or place.endpoint or f"https://sts.{place.region}.amazonaws.com"
    own = SigningKey(place.key_id, place.secret, place.region, place.token)
    digest = hashlib.sha256(body.encode()).hexdigest()
    headers = sign(own, "POST", urlsplit(url).netloc, "/", datetime.now(UTC), service="sts", digest=digest)
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session,
            session.post(
                f"{url}/", data=body, headers={**headers, "Content-Type": _FORM}, allow_redirects=False
            ) as answer,
        ):
            status, text = answer.status, (await answer.content.read(65536)).decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UnreachableError(
            f"{urlsplit(url).netloc} can't be reached ({type(error).__name__}); check the line."
        ) from None
    found = {name: _field(text, name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")}
    if status != 200 or not found["AccessKeyId"]:
        raise RefusedError(
            f"{urlsplit(url).netloc} makes no keys for devices ({status} {_field(text, 'Code')}): give an assumable "
            "role with --role, or put `modelsync serve` or a CDN before the bucket (docs/integrations/stores.md)."
        )
    when = re.sub(r"\.\d+Z$", "Z", found["Expiration"])
    return SigningKey(found["AccessKeyId"], found["SecretAccessKey"], place.region, found["SessionToken"], when)


def _field(text: str, name: str) -> str:
    match = re.search(rf"<{name}>([^<>]{{1,4096}})</{name}>", text)
    return match[1] if match else ""
