"""The signals of an injection in English, each a name, a weight, and an RE2 pattern over folded text."""

from __future__ import annotations

from meshflow_guardrails.languages import OTHER_LANGUAGES
from meshflow_guardrails.words import N, Signal, W, up_to

_IGNORE = (
    r"(?:ignore|disregard|forget|override|overwrite|bypass|neglect|overlook|set aside|throw out|discard|abandon|"
    r"pay no attention to|stop (?:following|obeying)|(?:do not|don't|dont|no longer) (?:follow|obey|comply with))"
)
_RULES = (
    r"(?:instructions?|directions|prompts?|rules|guidelines|guardrails|directives?|commands|programming|training|"
    r"restrictions|constraints|safety (?:measures|guidelines|protocols?)|system (?:prompt|message)|policies)"
)
_EARLIER = r"(?:previous|prior|preceding|above|earlier|past|former|foregoing|existing|original|initial)"
_AI = (
    r"(?:(?:ai |llm )?(?:ai|a\.i\.|llms?|agents?|assistants?|language models?|chat ?bots?|bots?|models?|"
    r"gpt|claude|gemini|copilot))"
)
_VALUABLES = (
    r"(?:passwords?|credentials?|api keys?|secret keys?|secrets|access tokens?|private keys?|ssh keys?|"
    r"env(?:ironment)? variables?|\.env|chat history|(?:this|the|entire|whole|full) conversation|"
    r"customer (?:list|data|database|records|table)|"
    r"database (?:dump|contents?)|session tokens?|cookies|system prompt|"
    r"(?:all|every) (?:of )?(?:the |their |your |my |our )?"
    r"(?:files?|e-?mails?|data|messages?|documents?|contacts?|customers?|records?|notes?|invoices?))"
)
_LEAK = (
    r"(?:reveal|show|print|repeat|output|display|tell me|give me|share|disclose|leak|dump|recite|"
    r"write (?:out|down)|copy|paste|return|list|quote|translate|encode|summari[sz]e|echo|expose|send me)"
)

SIGNALS: tuple[Signal, ...] = (
    Signal(
        "override_all",
        1.0,
        rf"\b{_IGNORE}{N}(?:absolutely{N})?(?:all|any|every|each|your|everything){N}{up_to(4)}{_RULES}\b",
        quotable=True,
    ),
    Signal(
        "override_earlier",
        1.0,
        rf"\b{_IGNORE}{N}{_EARLIER}{N}{up_to(2)}{_RULES}\b",
        quotable=True,
    ),
    Signal(
        "override_the",
        0.7,
        rf"\b{_IGNORE}{N}(?:the|these|those|my|system|what(?:ever)?){N}{up_to(2)}(?:{_RULES}|"
        rf"{_EARLIER}{N}{up_to(1)}(?:text|content|context|messages?))\b",
        quotable=True,
    ),
    Signal(
        "forget_everything",
        1.0,
        rf"\b(?:ignore|forget|disregard|delete|erase){N}(?:everything|all|anything|whatever|"
        rf"what){N}{up_to(4)}(?:above|before|previously|prior|earlier|so far|until now|you were told|"
        r"you've been told|you have been told|you know|was said|been said)\b",
        quotable=True,
    ),
    Signal(
        "new_instructions",
        0.6,
        r"\b(?:new|updated|revised|real|actual|true|additional|important|urgent|"
        r"priority) (?:system )?(?:instructions?|tasks?|objective|mission|directives?|orders?|"
        r"prompt)(?: for you)? ?[:=-]",
    ),
    Signal(
        "new_role",
        0.7,
        r"\byou (?:are|will be|shall be)(?: now| from now on)?,? (?:in )?(?:an? |the |"
        r"my )?(?:new )?(?:dan\b|stan\b|dude\b|aim\b|evil|unrestricted|unfiltered|uncensored|jailbroken|"
        r"amoral|hacker|developer mode|dev mode|god mode|root|free of|free from|no longer (?:bound|"
        r"restricted|limited|an? |subject|required)|not bound|not an ai)",
    ),
    Signal(
        "act_as",
        0.7,
        rf"\b(?:act|behave|respond|answer|speak|operate|role-?play|pretend)(?: to be)?{N}(?:as|like|you are|"
        rf"that you are|you're|you have)?(?:{N})?(?:if you (?:are|were|have) )?(?:an? |the |my )?(?:dan\b|"
        r"evil|unrestricted|unfiltered|uncensored|jailbroken|amoral|unethical|malicious|hacker|no (?:rules|"
        r"restrictions|limits|filters|guidelines|ethics)|ai (?:without|with no)|without (?:any )?(?:rules|"
        r"restrictions|limits|filters))",
    ),
    Signal(
        "no_limits",
        0.5,
        r"\b(?:without|no|free (?:of|from)|not bound by|ignoring|have no)(?: any| all| your|"
        r" the)?(?: of)?(?: \w+)? ?(?:ethical|moral|safety|content|legal) (?:restrictions?|filters?|"
        r"guidelines|limitations?|constraints|considerations|boundaries|rules|concerns|policies)\b",
    ),
    Signal(
        "do_anything",
        0.8,
        r"\b(?:do anything now|jailbreak (?:mode|prompt) (?:on|enabled|activated)|you (?:can|may|"
        r"will) do anything|never (?:refuse|decline|reject) (?:a |any |my |to )|(?:developer|debug|god|"
        r"admin|maintenance|sudo|dan|jailbreak|unrestricted|root) mode[:,]? (?:is )?(?:now )?(?:enabled?|"
        r"activated?|on|engaged|unlocked)|(?:enter|enable|activate|switch to|go into) (?:developer|debug|"
        r"god|admin|maintenance|sudo|dan|jailbreak|unrestricted|root) mode)\b",
    ),
    Signal(
        "prompt_leak",
        1.0,
        rf"\b{_LEAK}{N}{up_to(6)}your{N}(?:(?:full|entire|exact|complete|own|very|first|initial|original|"
        r"hidden|secret|system|internal|confidential|previous|custom|underlying|"
        rf"base){N}){{0,4}}(?:system (?:prompt|message|instructions)|(?:initial|original|hidden|secret|"
        r"system|internal|confidential|custom|underlying|base) (?:instructions?|prompt|rules|guidelines|"
        r"message|configuration)|prompt|instructions)\b",
        quotable=True,
    ),
    Signal(
        "prompt_leak_the",
        0.6,
        rf"\b{_LEAK}{N}{up_to(4)}(?:the|above){N}{up_to(2)}(?:system (?:prompt|message|instructions)|"
        r"(?:initial|hidden|secret|internal) (?:prompt|instructions))\b",
        quotable=True,
    ),
    Signal(
        "prompt_question",
        0.8,
        r"\bwhat (?:is|are|was|were)(?: \w+)? your (?:(?:exact|full|initial|original|hidden|secret|system|"
        r"internal|first) ){1,3}(?:prompt|instructions?|rules|message)\b",
        quotable=True,
    ),
    Signal(
        "repeat_above",
        0.8,
        rf"\b(?:repeat|print|output|copy|echo|recite|reproduce){N}(?:back{N})?(?:everything|all|(?:the|"
        r"all)(?: of)?(?: the)? (?:words|text|content|lines?|messages?|conversation|"
        rf"prompt)){N}{up_to(4)}(?:above|before this|so far|verbatim|word for word|you were given)\b",
    ),
    Signal(
        "starting_with",
        0.5,
        r"\b(?:starting|beginning|begins?|starts?) with (?:the (?:words|phrase) )?[\"'`]?you are\b",
    ),
    Signal(
        "chat_delimiter",
        1.0,
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext|begin_of_text|start_header_id|end_header_id|"
        r"eot_id|endofprompt)\|>|<start_of_turn>|<<SYS>>|<</SYS>>",
    ),
    Signal(
        "inst_delimiter",
        0.8,
        r"\[/?INST\]",
    ),
    Signal(
        "role_heading",
        0.5,
        r"(?m)^[\s#*\[<-]{0,8}(?:system|assistant|developer)(?: (?:prompt|message|override|instructions?|"
        r"note|update))?[\]>*]{0,3}\s?:\s*\S",
    ),
    Signal(
        "role_block",
        0.6,
        r"(?m)^\s*#{2,4} ?(?:system|instructions?|assistant|new instructions?)(?: prompt| message)? ?:?\s*$|"
        r"\b(?:begin|start of|end of) (?:system|admin|hidden|new|user) (?:message|prompt|override|"
        r"instructions?|input)\b|</?(?:system|system_prompt|instructions?|user_input|untrusted[\w-]*|"
        r"tool_results?|function_results?)>",
    ),
    Signal(
        "system_override",
        0.8,
        r"\bsystem[ _-]?(?:override|takeover)\b|\b(?:admin|administrator|developer|security|safety|"
        r"policy) override\b",
    ),
    Signal(
        "to_the_agent",
        0.7,
        r"\b(?:instructions?|messages?|notes?|notice|attention|important|directives?|orders?|"
        rf"task)(?: {W})? (?:to|for) (?:the |any |all |every )?{_AI}\b\s*(?:reading|processing|parsing|:|\]|"
        r"\)|-|\.|who|that|which)|\b(?:attention|dear|hey|hello|hi),? (?:the |any |all )?(?:ai|llm|ai agent|"
        r"ai assistant|assistant|language model|chatbot)s?\b\s*[,:!.-]",
    ),
    Signal(
        "if_you_are_ai",
        0.6,
        r"\b(?:if you are|if you're|any|every|all) (?:an? )?(?:ai|llm|language model|ai agent|ai assistant|"
        rf"ai model|chatbot|automated (?:system|agent|assistant))s?(?: {W}){{0,2}} (?:reading|processing|"
        r"parsing|summari[sz]ing|reviewing|handling|must|should|needs? to)\b|\b(?:ai|llm|language model|"
        r"ai agent|assistant)s? (?:reading|processing|parsing|summari[sz]ing) this\b",
    ),
    Signal(
        "when_read",
        0.4,
        r"\b(?:when|after|before|while|once) (?:you|the (?:assistant|ai|agent|model)) (?:read|see|process|"
        r"summari[sz]e|finish|have read|are done|reply|respond|answer)\w*(?: with)?(?: this| reading|"
        r" summari\w+)?\b",
    ),
    Signal(
        "send_elsewhere",
        0.35,
        r"\b(?:send|forward|e-?mail|post|upload|transmit|exfiltrate|leak|submit|copy|bcc|deliver|pipe|"
        r"append)\b(?:[\s,;:'\"*_()-]+[^\s]+){0,12}[\s:]+(?:to|at|with)?[\s:]*[<\"'`(]?(?:https?://|"
        r"[\w.+-]+@[\w-]+\.)",
    ),
    Signal(
        "send_secrets",
        0.5,
        r"\b(?:send|forward|e-?mail|post|upload|transmit|exfiltrate|leak|submit|bcc|encode|append|include|"
        rf"attach|fetch|read|collect|gather|export|retrieve){N}{up_to(5)}{_VALUABLES}",
    ),
    Signal(
        "exfiltrate",
        0.6,
        r"\bexfiltrat(?:e|ing)\b(?:[^.\n]{0,80})\b(?:to|via|using)\b|"
        r"!\[[^\]]{0,40}\]\(https?://[^)\s]{0,200}(?:\{|\[|<|data=|q=|secret|conversation|base64)",
    ),
    Signal(
        "call_tool",
        0.5,
        rf"\b(?:call|use|invoke|run|execute|trigger){N}(?:the )?[`'\"]?\w+[`'\"]?\s*(?:tool|function|"
        r"command|api|plugin|skill)\b|\b(?:call|invoke|run|execute)\s+[`'\"]?\w+_\w+[`'\"]?\s?\(",
    ),
    Signal(
        "destroy",
        0.4,
        r"\b(?:delete|wipe|erase|destroy|drop|refund|transfer|approve|pay out|wire|cancel|grant|disable|"
        r"shut down) (?:all|every|the entire|everything|any|each|full|root|admin)\b|\brm -rf\b|"
        r"\bdrop table\b|\bcurl [^|\n]{0,200}\| ?(?:ba)?sh\b",
    ),
    Signal(
        "money",
        0.3,
        r"\b(?:transfer|wire|pay|refund|send|issue|approve)\b[^.\n]{0,40}(?:\$|usd|eur|gbp|€)? ?\d[\d,.]{2,}",
    ),
    Signal(
        "conceal",
        0.6,
        r"\b(?:do not|don't|dont|never|without)(?: ever)? (?:tell|mention|inform|notify|alert|reveal|"
        r"disclose|show|let|warn|telling|mentioning|informing|notifying|alerting|asking|"
        rf"say){N}{up_to(4)}(?:user|human|anyone|anybody|operator|customer|owner|people|person|them)\b",
    ),
    Signal(
        "conceal_this",
        0.5,
        r"\b(?:do not|don't|never) (?:mention|reveal|disclose|refer to|acknowledge|repeat) (?:this|these|"
        r"that you|the existence of|any of this|having|them)\b",
    ),
    Signal(
        "unasked",
        0.3,
        r"\b(?:silently|secretly|covertly|without (?:asking|confirmation|any confirmation|approval|"
        r"permission|further (?:questions|confirmation)|hesitation|question|warning|refusing))\b",
    ),
    Signal(
        "authority",
        0.4,
        r"\b(?:i am|i'm|this is|as) (?:your |the |an? )?(?:developer|creator|system admin(?:istrator)?|"
        r"admin(?:istrator)?|owner|openai|anthropic|google|security team|root user)\b|\b(?:authori[sz]ed|"
        r"approved|sanctioned|cleared|verified) by (?:the )?(?:admin\w*|security(?: team)?|developers?|"
        r"openai|anthropic|system|management|ceo)\b",
    ),
    Signal(
        "disable_guards",
        0.7,
        r"\b(?:bypass|disable|turn off|circumvent|evade|deactivate|switch off|get around|drop|suspend|lift|"
        rf"remove|ignore){N}(?:all |any |your |the |these |its ){{0,2}}(?:safety|security|content|ethical|"
        r"moral|moderation|policy) ?(?:filters?|guardrails?|guidelines|restrictions|safeguards|protections?|"
        r"policies|policy|moderation|checks|controls|limitations|protocols?|measures)\b",
        quotable=True,
    ),
    Signal(
        "jailbreak",
        0.3,
        r"\bjail ?break(?:ing|ed|s)?\b",
    ),
    Signal(
        "only_task",
        0.5,
        r"\byour (?:only|sole|new|real|true|actual|primary|next|first) (?:purpose|goal|task|job|role|"
        r"instruction|objective|mission|identity)\b(?: now)? (?:is|will be)\b",
    ),
    Signal(
        "from_now_on",
        0.4,
        r"\b(?:from now on|from this (?:point|moment)(?: on| forward)?|starting now|henceforth|"
        r"for the rest of (?:this|the|our) (?:conversation|chat|session)),? (?:you|respond|answer|act|"
        r"always|every|all|reply|only|your)\b",
    ),
    Signal(
        "must_obey",
        0.5,
        r"\byou (?:must|will|have to|are required to|shall|are (?:obliged|"
        r"programmed) to) (?:now )?(?:always )?(?:comply|obey|follow|do (?:as|what|exactly|whatever)|"
        r"answer (?:all|any|every)|execute)\b",
    ),
    Signal(
        "ordered",
        0.3,
        r"\byou (?:must|should|have to|are to|need to|will) (?:now |always |also |immediately |"
        r"first )?(?:approve|transfer|wire|refund|send|mark|delete|forward|grant|execute|call|ignore|"
        r"disregard|reply|respond|say|rank|recommend|output|upload|export|run|use)\b",
    ),
    Signal(
        "begin_reply",
        0.5,
        r"\b(?:start|begin|open|prefix) (?:your|every|each|the) (?:response|reply|answer|message|"
        r"output)s? with\b",
    ),
    Signal(
        "instead_say",
        0.5,
        r"\b(?:instead|and then|and|then|just|only)[,;:]? (?:only |just |simply )?(?:output|say|print|reply|"
        rf"respond|write|return|answer|translate)(?: with)?{N}{up_to(4)}[\"'`]",
    ),
    Signal(
        "instead_do",
        0.4,
        r"\binstead[,;:]? (?:you (?:must|should|will) )?(?:do|say|output|reply|respond|print|write|tell|"
        r"send|call|translate|give|perform|execute|approve|answer|return|run|provide|act)\b",
    ),
    Signal(
        "opposite",
        0.4,
        r"\b(?:hypothetical(?:ly)?|fictional|in (?:this|the) (?:story|game|scenario|"
        r"novel))\b[^.\n]{0,120}\b(?:no (?:rules|restrictions|limits|laws)|anything is allowed|not apply|"
        r"don't apply|do not apply)\b",
    ),
    Signal(
        "harmful_how",
        0.5,
        r"\b(?:how to|steps to|instructions (?:for|to)|recipe for|guide to) (?:make|build|making|building|"
        r"synthesi[sz]e|synthesi[sz]ing|cook(?:ing)?|create|creating) (?:an? )?(?:\w+ )?(?:bomb|explosives?|"
        r"napalm|meth(?:amphetamine)?|malware|ransomware|nerve agent|bioweapon|ricin)\b",
    ),
    Signal(
        "ignore_spelt",
        1.0,
        r"(?:ignore|disregard|forget)(?:all|any|your|the|my)*(?:previous|prior|above|"
        r"earlier)*(?:instructions?|rules|prompts?)|(?:reveal|print|show)(?:me)?(?:your|"
        r"the)(?:system)?prompt",
    ),
    *OTHER_LANGUAGES,
)
