"""Why a connection failed, in a person's words. It catches nothing."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime


def reason(error: BaseException) -> str:
    """What libraries wrap two or three times: a certificate's fault in a sentence, else the innermost text there is."""
    text, cause = type(error).__name__, error
    while True:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({cause.verify_message}); check the setting ca, and this device's "
                f"clock, which says {datetime.now(UTC):%Y-%m-%d}."
            )
        text = str(cause) or text
        if cause.__cause__ is None:
            return text
        cause = cause.__cause__
