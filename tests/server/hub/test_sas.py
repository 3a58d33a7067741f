"""SAS tokens: made like the SDK's own, and refused when anything about them is wrong."""

from __future__ import annotations

import time
from typing import Any

import pytest
from azure.iot.device.common.auth.sastoken import RenewableSasToken
from azure.iot.device.common.auth.signing_mechanism import SymmetricKeySigningMechanism

from modelsync_server.iothub import sas

KEY = "bm8gc2VjcmV0LCBtYWRlIGZvciB0cmFuc2NyaXB0cyE="
OTHER_KEY = "YW5vdGhlciBrZXksIG5vIHNlY3JldCBlaXRoZXIhISE="
RESOURCE = "modelsync-hub.local/devices/pi/modules/model sync"


def sdk_token(policy: str | None = None) -> Any:
    token: Any = RenewableSasToken
    signing: Any = SymmetricKeySigningMechanism
    return token(RESOURCE, signing(KEY), key_name=policy)


@pytest.mark.parametrize("policy", [None, "iothubowner"])
def test_our_token_equals_the_sdks(policy: str | None) -> None:
    theirs = sdk_token(policy)
    assert sas.sign(KEY, RESOURCE, theirs.expiry_time, policy) == str(theirs)


def test_the_sdks_token_is_accepted_with_either_key() -> None:
    token = sas.parse(str(sdk_token()))
    sas.check(token, [OTHER_KEY, KEY], ["other", RESOURCE.upper()], time.time())


@pytest.mark.parametrize(
    ("keys", "resources", "later", "reason"),
    [
        ([OTHER_KEY], [RESOURCE], 0, "signature"),
        ([KEY], [RESOURCE + "x"], 0, "resource"),
        ([KEY], ["modelsync-hub.local/devices/pi"], 0, "resource"),
        ([KEY], [RESOURCE], 3700, "expired"),
    ],
)
def test_a_wrong_token_is_refused(keys: list[str], resources: list[str], later: int, reason: str) -> None:
    with pytest.raises(sas.SasError, match=reason):
        sas.check(sas.parse(str(sdk_token())), keys, resources, time.time() + later)


def test_a_token_whose_expiry_was_raised_is_refused() -> None:
    expiry = int(time.time()) + 10
    forged = sas.sign(KEY, RESOURCE, expiry).replace(f"se={expiry}", f"se={expiry + 9999}")
    with pytest.raises(sas.SasError, match="signature"):
        sas.check(sas.parse(forged), [KEY], [RESOURCE], time.time())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Bearer x",
        "SharedAccessSignature ",
        "SharedAccessSignature sr=a&sig=b",
        "SharedAccessSignature sr=a&sig=!&se=1",
        "SharedAccessSignature sr=a&sig=YQ%3D%3D&se=soon",
    ],
)
def test_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(sas.SasError):
        sas.parse(text)
