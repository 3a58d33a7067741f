"""Which bucket, where and as whom: the addresses `s3://…` and `gs://…`, and the environment that AWS's and Google's own
tools read. No requests here."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from modelsync_protocol.errors import UsageError

S3, GS = "s3://", "gs://"

_S3_BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_GS_BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REGION = re.compile(r"[a-z0-9-]{1,32}")
_FAMILIAR = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "region", "endpoint_url")
_ELSEWHERE = ("role_arn", "sso_session", "sso_start_url", "credential_process", "web_identity_token_file")


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """`s3://BUCKET[/PREFIX]` or `gs://BUCKET[/PREFIX]`; `prefix` is empty or ends with a slash."""

    scheme: str
    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> BucketAddress:
        """Read an address; UsageError."""
        scheme = S3 if url.startswith(S3) else GS
        bucket, _, rest = url.removeprefix(scheme).partition("/")
        parts = [part for part in rest.split("/") if part]
        named = (_S3_BUCKET if scheme == S3 else _GS_BUCKET).fullmatch(bucket)
        if not url.startswith(scheme) or not named or not all(_PART.fullmatch(part) for part in parts):
            raise UsageError(f"{url.partition('?')[0]!r:.120} is no bucket's address: use {scheme}BUCKET[/PREFIX].")
        return cls(scheme, bucket, "".join(f"{part}/" for part in parts))

    def __str__(self) -> str:
        return f"{self.scheme}{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where an S3 bucket is, and by which key it is opened; without `key_id` the library looks for an identity itself
    (web identity, container, instance). `profile` is set if only boto3 can open that profile."""

    region: str
    endpoint: str | None
    key_id: str = ""
    secret: str = ""
    token: str = ""
    profile: str | None = None

    @property
    def host_url(self) -> str:
        """The service's URL, in which a bucket is the first part of a path."""
        return self.endpoint or f"https://s3.{self.region}.amazonaws.com"


def s3_place(environment: Mapping[str, str] | None = None) -> S3Place:
    """What the environment says, as AWS's own tools read it: variables first, then the profile's files; UsageError."""
    given = os.environ if environment is None else environment
    profile = _profile(given)
    region = given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION") or profile.get("region", "us-east-1")
    if not _REGION.fullmatch(region):
        raise UsageError(f"{region!r:.60} is no region: set AWS_REGION to one like eu-central-1 (R2: auto).")
    endpoint = given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL") or profile.get("endpoint_url")
    if endpoint:
        endpoint = endpoint.rstrip("/")
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise UsageError("AWS_ENDPOINT_URL_S3 is no endpoint: give a URL like https://minio.example.com:9000.")
    if given.get("AWS_ACCESS_KEY_ID") and given.get("AWS_SECRET_ACCESS_KEY"):
        key = (given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"], given.get("AWS_SESSION_TOKEN", ""))
        return S3Place(region, endpoint or None, *key)
    if profile.get("aws_access_key_id") and profile.get("aws_secret_access_key"):
        key = (profile["aws_access_key_id"], profile["aws_secret_access_key"], profile.get("aws_session_token", ""))
        return S3Place(region, endpoint or None, *key)
    foreign = any(profile.get(name) for name in _ELSEWHERE)
    return S3Place(region, endpoint or None, profile=given.get("AWS_PROFILE", "default") if foreign else None)


def _profile(given: Mapping[str, str]) -> dict[str, str]:
    """The chosen profile's settings out of both files; empty if there is none; UsageError if it was named."""
    name = given.get("AWS_PROFILE") or "default"
    home = Path(given.get("HOME") or Path.home()) / ".aws"
    found: dict[str, str] = {}
    for variable, file, section in (
        ("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
    ):
        path = Path(given.get(variable) or home / file).expanduser()
        parser = configparser.RawConfigParser(default_section="\0none", strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            raise UsageError(f"{path} can't be read as AWS's tools do: mend it, or set AWS_ACCESS_KEY_ID.") from error
        if parser.has_section(section):
            wanted = {*_FAMILIAR, *_ELSEWHERE}
            found |= {key: value.strip() for key, value in parser.items(section) if key in wanted}
    if not found and given.get("AWS_PROFILE") and not given.get("AWS_ACCESS_KEY_ID"):
        raise UsageError(f"AWS_PROFILE is {name!r:.60}, and no such profile is in {home}: run `aws configure`.")
    return found
