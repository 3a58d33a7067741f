"""AWS Signature Version 4 against the examples of Amazon S3's API reference, and keys that are none."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest

from modelsync_protocol.access.aws_signature import SigningKey, sign
from modelsync_protocol.errors import UsageError

EXAMPLE = SigningKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
HOST, MOMENT = "examplebucket.s3.amazonaws.com", datetime(2013, 5, 24, tzinfo=UTC)
EMPTY = hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("target", "signature"),
    [
        ("/?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("/?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ("/?prefix=J&max-keys=2", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_the_published_examples_come_out(target: str, signature: str) -> None:
    headers = sign(EXAMPLE, "GET", HOST, target, MOMENT, digest=EMPTY)
    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature={signature}"
    )
    assert set(headers) == {"Authorization", "x-amz-date", "x-amz-content-sha256"}


def test_a_sessions_token_is_sent_and_signed_and_the_secret_is_not_shown() -> None:
    key = SigningKey("ASIA1", "s3cr3t", "eu-central-1", "FwoGZX/+=")
    headers = sign(key, "GET", HOST, "/packs/x", MOMENT)
    assert headers["x-amz-security-token"] == "FwoGZX/+=" and "x-amz-security-token" in headers["Authorization"]
    assert "s3cr3t" not in f"{headers}{key!r}"


def test_a_key_is_written_and_read_back() -> None:
    import json

    key = SigningKey("ASIA1", "s3cr3t/+", "auto", "T", "2026-12-01T00:00:00Z")
    assert SigningKey.parse(json.loads(key.document())["aws4"]) == key
    assert SigningKey.parse({"key": "AKIA", "secret": "abc", "region": "auto", "later": 1}).token == ""


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        {"key": "AKIA", "secret": "hidden-one"},
        {"key": "AK IA", "secret": "hidden-one", "region": "r"},
        {"key": "AKIA", "secret": 7, "region": "r"},
        {"key": "AKIA", "secret": "hidden\r\none", "region": "r"},
        {"key": "AKIA", "secret": "hidden-one", "region": "r", "token": "x\ny"},
        {"key": "AKIA", "secret": "hidden-one", "region": "r", "expires": "tomorrow"},
    ],
)
def test_what_is_no_key_is_refused_without_being_repeated(wrong: Any) -> None:
    with pytest.raises(UsageError) as caught:
        SigningKey.parse(wrong)
    assert "hidden" not in str(caught.value)
