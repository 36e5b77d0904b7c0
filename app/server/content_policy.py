"""The Content-Security-Policy of the page: what a browser may load, run and talk to, whatever text it is shown.

Nothing comes from anywhere else, and only scripts that this server wrote run: inline ones are named by their hash,
because Gradio writes some with the address of the page in them. docs/live-api.md says what Gradio forces open.
"""

import base64
import re
from hashlib import sha256

_INLINE = re.compile(rb"<script\b(?![^>]*\ssrc=)[^>]*>(.*?)</script", re.DOTALL | re.IGNORECASE)
_POLICY = (
    "default-src 'self'",
    "script-src 'self' 'unsafe-eval' {scripts}",  # gr.HTML compiles its template and js_on_load
    "style-src 'self' 'unsafe-inline'",  # Gradio's components write style attributes and elements
    "img-src 'self' blob: data:",
    "media-src 'self' blob:",
    "font-src 'self' data:",
    "connect-src 'self'",
    "worker-src 'self' blob:",
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
    "frame-ancestors 'self'",
)


def page_policy(page: bytes) -> bytes:
    """The header's value for a page as it is sent: its inline scripts run, and no other."""
    hashes = [base64.b64encode(sha256(script).digest()).decode() for script in _INLINE.findall(page)]
    return "; ".join(_POLICY).replace("{scripts}", " ".join(f"'sha256-{each}'" for each in hashes)).encode()
