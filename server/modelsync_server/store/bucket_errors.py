"""What a bucket's service refuses, in our words. No text of the library's is passed on: it may hold signed URLs."""

from __future__ import annotations

import re

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from modelsync_protocol.errors import ModelsyncError, RefusedError, UnreachableError, UsageError
from modelsync_server.store import conditional_writes
from modelsync_server.store.bucket_address import BucketAddress
from modelsync_server.store.port import ObjectNotFound

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_RIGHT_REGION = re.compile(r"<Region>([a-z0-9-]{1,32})</Region>|expecting '([a-z0-9-]{1,32})'")
_INSTANCE = re.compile(r"/latest/(api/token|meta-data)|/computeMetadata/")
"""Where a machine in the cloud is asked who it is: the last thing that is tried, and elsewhere nobody answers."""

HOW = {
    "s3://": "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    "gs://": "Set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`.",
}


def translated(address: BucketAddress, path: str, error: BaseException) -> ModelsyncError:
    """Our error for the library's, with the service's status and code only."""
    text, status, code = str(error), status_of(error), code_of(error)
    said = " ".join(filter(None, (str(status or ""), code)))
    if _INSTANCE.search(text):
        return UsageError(f"{address}: no credentials are set on this machine. {HOW[address.scheme]}")
    region = next(filter(None, (match for found in _RIGHT_REGION.findall(text) for match in found)), None)
    if region and (status in (301, 307, 400)):
        return UsageError(f"{address} lies in another region: set AWS_REGION={region}.")
    if "redirect without LOCATION" in text:  # what S3 answers for a bucket of another region, without saying which
        return UsageError(f"{address} lies in another region than is asked: set AWS_REGION to the bucket's.")
    if code == "NoSuchBucket":
        return UsageError(f"{address}: the bucket does not exist; check the name and endpoint, or make it.")
    if isinstance(error, FileNotFoundError) or status == 404:
        return ObjectNotFound(path)
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or status in (401, 403):
        return RefusedError(
            f"{address} refuses these credentials ({said or 'no permission'}): they are wrong, have expired, or "
            "lack a permission (docs/integrations/stores.md lists them); renew them."
        )
    if status in (409, 412):
        return UnreachableError(f"{address} is busy with {path} ({said}); try again.")
    if status == 501 or code == "NotImplemented":
        return RefusedError(f"{address} does not know conditional writes ({said}): {conditional_writes.NEEDED}")
    if status is not None and status < 500 and status != 429:
        return RefusedError(f"{address} does not take {path} ({said}); check the bucket's settings.")
    if status is not None:
        return UnreachableError(f"{address} is overloaded or down ({said}); try again later.")
    return UnreachableError(f"{address} can't be reached; check the line, and the endpoint's address.")


def status_of(error: BaseException) -> int | None:
    """The answer's status; None if there was no answer."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def code_of(error: BaseException) -> str:
    """The service's own word for what went wrong, such as NoSuchBucket; empty if it gave none."""
    found = _CODE.search(str(error))
    return found[1] if found else ""
