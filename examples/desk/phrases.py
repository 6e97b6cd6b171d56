"""The phrases by which the desk tells what a message wants, in five languages."""

from __future__ import annotations

import re


def any_of(*phrases: str) -> re.Pattern[str]:
    """Compile alternatives, whatever their case."""
    return re.compile("|".join(phrases), re.IGNORECASE)


SPAM = any_of(
    r"gift cards? .{0,80}codes",
    r"verify your (?:password|account)",
    r"\bguaranteed\b.{0,200}(?:click|reply)",
    r"click (?:here|the (?:secure )?link)",
    r"verify and make payment",
    r"scratch the backs",
)

REFUND = any_of(
    r"\brefund(?!bot)",
    r"money back",
    r"erstatt",
    r"gutschrift",
    r"rembours",
    r"reembols",
    r"\bzwrot",
    r"återbetal",
    r"send the money back",
)

GRATITUDE = any_of(
    r"no action needed",
    r"nothing that you need to do",
    r"kein handlungsbedarf",
    r"the trapdoor works",
    r"ticket kann zu",
)

# A complaint in so many words is worked on beside whatever else the message wants.
COMPLAINT = any_of(
    r"(?:formal|register a|recorded as a|want a) complaint",
    r"complaint (?:opened|regarding)",
    r"^complaint:",
    r"reklamation zu",
    r"reklamacj[aę]",
    r"réclamation",
)

NO_REFUND = any_of(
    r"no refund wanted",
    r"not asking for money",
    r"don't (?:want|need) money",
    r"formally withdraw",
)

# In the order in which the agent works through them.
INTENTS: dict[str, re.Pattern[str]] = {
    "privacy_request": any_of(
        r"subject access", r"\barticle 1[57]\b", r"\bart\. ?1[57]\b", r"\bDSGVO\b", r"delete my", r"privacy officer"
    ),
    "disclose": any_of(
        r"look ?up (?:and send|that customer)",
        r"tell me to what address",
        r"send (?:me )?his (?:full )?(?:customer details|address)",
    ),
    "export": any_of(
        r"\bexport(?:er|ar)?\b.{0,60}(?:orders|account|order history|commandes|pedidos)",
        r"list of (?:all orders|all purchases|everything)",
    ),
    "change_address": any_of(
        r"new (?:delivery )?address\s*:",
        r"(?:deliver|ship)(?: (?:it|them))? to\s*:",
        r"lieferadresse",
        r"neue adresse",
        r"nueva direcci",
        r"nouvelle adresse",
        r"nowy adres",
    ),
    "refund": REFUND,
    "note": any_of(r"(?:put|add) a note (?:on|to)"),
    "order_status": any_of(
        r"where(?:'s|s| is| are| it's| has)? ",
        r"where it is",
        r"how far the shipment",
        r"\beta\b",
        r"\bstatus\b",
        r"track",
        r"when(?:'s| is| will| it)",
        r"expect",
        r"looking for my",
        r"delivery (?:slot|chase)",
        r"wo (?:bleibt|ist|befindet)",
        r"wo sich",
        r"lieferstatus",
        r"sendungsverfolgung",
        r"où (?:en est|est|se trouve)",
        r"\bsuivi\b",
        r"auprès du transporteur",
        r"dónde está",
        r"kiedy",
        r"gdzie",
        r"is HS-\d{5} gonna be",
        r"what the carrier says",
        r"the location of",
    ),
    "invoice": any_of(r"invoice", r"rechnung", r"factur", r"faktur", r"statement to me"),
    "contact_update": any_of(
        r"update the (?:e-?mail|contact)", r"account e-?mail should change", r"W-?9", r"net 30", r"use this one"
    ),
    "complaint": any_of(r"complain", r"reklama", r"réclam", r"reclam", r"garbage", r"broken", r"defect", r"wrong"),
    "catalogue": any_of(
        r"do you (?:do|sell|stock|carry)",
        r"prices?\b",
        r"catalog",
        r"führen sie",
        r"haben sie",
        r"starter list",
        r"stainless",
        r"smaller than thirty",
        r"is your (?:SEN|HYD|BLT)",
    ),
    "thanks": any_of(r"thank you", r"thanks", r"\bdanke", r"merci", r"gracias", r"gratitude", r"the trapdoor works"),
}

NEW_ADDRESS = re.compile(
    r"(?:new (?:delivery )?address|(?:deliver|ship)(?: (?:it|them))? to|neue (?:liefer)?adresse|nueva direcci[oó]n"
    r"|nouvelle adresse|nowy adres)\s*:\s*(?P<address>[^\n]{8,200})",
    re.IGNORECASE,
)

QUOTED = re.compile(
    r"^(?:>|On .{1,80} wrote:|Am .{1,80} schrieb |-{5,}\s*(?:Original|Urspr|Forwarded)|-{3}$|--$)", re.IGNORECASE
)

LANGUAGES: dict[str, frozenset[str]] = {
    "en": frozenset(["the", "and", "you", "your", "for", "with", "have", "please"]),
    "de": frozenset(["und", "die", "der", "bitte", "nicht", "wir", "mit", "ist", "sie", "auftrag"]),
    "fr": frozenset(["le", "la", "les", "vous", "nous", "pour", "est", "une", "commande", "merci"]),
    "es": frozenset(["el", "los", "las", "que", "para", "por", "con", "pedido", "gracias", "una"]),
    "pl": frozenset(["nie", "jest", "proszę", "zamówienia", "się", "na", "w", "z", "do", "dzień"]),
}
