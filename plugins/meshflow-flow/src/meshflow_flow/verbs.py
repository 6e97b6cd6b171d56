"""What the verb in a tool's name or an action says about the harm it can do."""

from __future__ import annotations

import re
from collections.abc import Mapping

from meshflow.plugin import RiskTier

_IRREVERSIBLE = (
    "approve cancel charge deactivate delete deploy destroy disburse drop erase execute grant invoice kill overwrite "
    "pay payout publish purge refund reimburse remit remove reset revoke sell shutdown sign terminate transfer "
    "truncate wipe wire withdraw"
)
_EXTERNAL = (
    "call download email export fax fetch forward message notify post push send share sms submit tweet upload webhook"
)
_INTERNAL = "add create edit insert merge move patch put rename save set store update upsert write"

VERB_TIERS: dict[str, RiskTier] = {
    **dict.fromkeys(_INTERNAL.split(), RiskTier.INTERNAL),
    **dict.fromkeys(_EXTERNAL.split(), RiskTier.EXTERNAL_IO),
    **dict.fromkeys(_IRREVERSIBLE.split(), RiskTier.IRREVERSIBLE),
}

# One alternation without nested repetition, so linear: HTTPServer gives HTTP, Server.
_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|[^\W\d_]+")
_MAX_NAME = 512


def tokens(name: str) -> list[str]:
    """Split a name on everything but letters and on changes of case, in lower case."""
    return [token.lower() for token in _TOKEN.findall(name[:_MAX_NAME])]


def verb_tier(name: str, tiers: Mapping[str, RiskTier]) -> RiskTier | None:
    """Return the highest tier that a word of the name stands for, or None."""
    words = tokens(name)
    found = [tiers[word] for word in words if word in tiers]
    if len(name) > _MAX_NAME:
        # What is not read may hold any verb.
        return RiskTier.IRREVERSIBLE
    return max(found, default=None)
