"""Every code that the kernel itself decides, and what it means."""

from __future__ import annotations

from meshflow.stages import STAGES, Kind

_CAUSES = {
    "stage_error": "A provider of the stage raised an exception.",
    "stage_timeout": "A provider of the stage took longer than its time-out, by the timer or by the clock.",
    "invalid_decision": "A provider answered something that is not a valid answer for the stage.",
    "context_written": "A provider tried to write to the read-only context.",
    "input_mutated": "A provider changed the step's input in place.",
    "obligation_unmet": "A provider laid an obligation on the step that no later enforced provider meets.",
}

CODES: dict[str, str] = {
    **{
        f"{stage.name}.{cause}": meaning
        for stage in STAGES
        if stage.kind in (Kind.GATE, Kind.OUTPUT)
        for cause, meaning in _CAUSES.items()
    },
    **{
        f"{stage.name}.no_decision": "No provider of the stage gave an answer, and silence denies."
        for stage in STAGES
        if stage.silence_denies
    },
    "execution.stage_error": "The executor itself raised an exception.",
    "execution.stage_timeout": "The executor took longer than stages.execution.timeout_ms.",
    "execution.invalid_decision": "The executor answered something other than an Execution or a denial.",
    "execution.input_mutated": "The step's input changed while it passed the gates.",
    "output_guardrails.not_held": "A stream was to wait for a person before its end, and its rest is not there.",
    "output_guardrails.too_late": "A provider would change a stream that has already been released.",
    "audit_ledger.intent_failed": "The intent could not be written, so the step did not run.",
    "audit_ledger.record_failed": "The record could not be written, so the output is withheld.",
    "approval.asked": "The caller wants a person to approve the step before it runs; this code comes with escalate.",
    "approval.granted": "A person approved the step; this code comes with allow.",
    "approval.pending": "The step was handed in again before a person decided.",
    "approval.unreadable": "The audit provider could not say whether a person decided.",
    "approval.rejected": "A person said no.",
    "approval.used": "A step has begun on the strength of the approval already; it covers one execution.",
    "approval.other_step": "The approval was given for another step.",
    "approval.incomplete": "Gates ask what nobody was asked when the step was approved; this code comes with escalate.",
    "approval.other_tenant": "The approval was given in another tenant.",
    "approval.other_principal": "The step was handed in again for another principal than the one that asked.",
    "approval.expired": "The approval has expired.",
    "approval.self_approved": "The approver is the one who asked.",
    "approval.not_an_approver": "Somebody approved whom the configuration does not name.",
    "approval.too_few": "Fewer people approved than the configuration asks for.",
    "approval.policy_changed": "Plugins, settings or policy changed since the approval.",
    "approval.arguments_changed": "The arguments are not those that were approved.",
    "step.cancelled": "The caller cancelled the step while it ran.",
    "step.interrupted": "The process was told to stop while the step ran.",
    "step.abandoned": "The caller stopped reading a stream before its end.",
}
