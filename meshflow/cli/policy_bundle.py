"""Find the bundle, the engine and the document that the options of ``meshflow policy`` name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshflow.cli.explain import read_input
from meshflow.cli.options import Chosen
from meshflow.cli.output import print_json
from meshflow.errors import ConfigError

if TYPE_CHECKING:
    from meshflow.config.models import Config
    from meshflow.policy import Bundle, PolicyEngine
    from meshflow.policy.engine import EntryPoint


def rego_settings(config: Config) -> Any:
    """Return the settings of the rego plugin."""
    from meshflow.config import plugin_settings
    from meshflow.registry.discover import discover, import_plugin

    return plugin_settings(config, "rego", import_plugin(discover()["rego"]))


def chosen_bundle(options: Chosen, path: Path | None, data: Path | None, *, tests: bool = False) -> Bundle:
    """Return the bundle that is named, or configured, or else the starter bundle, with its data laid over.

    The folder of a profile pack stands for its rules.
    """
    from meshflow.policy import Bundle, shipped_bundle
    from meshflow.policy.data import parse_document
    from meshflow.profiles.manifest import FILE_NAME as PACK_FILE

    overlay = data
    if path is None:
        config = options.load()
        settings = rego_settings(config)
        path = config.base / settings.bundle if settings.bundle is not None else shipped_bundle("authz")
        if overlay is None and settings.data is not None:
            overlay = config.base / settings.data
    bundle = _pack(path, tests) if (path / PACK_FILE).is_file() else Bundle.load(path, tests=tests)
    return bundle if overlay is None else bundle.with_data(parse_document(overlay.read_bytes(), str(overlay)))


def _pack(folder: Path, tests: bool) -> Bundle:
    """Return the rules of a profile pack as they are in force: with its settings and the library of packs."""
    from meshflow.profiles.packs import load_pack

    bundle = load_pack(folder, {}, tests=tests).bundle
    if bundle is None:
        raise ConfigError("the profile pack has no rules of its own", where=str(folder))
    return bundle


def chosen_engine(options: Chosen, bundle: Bundle, name: str | None) -> PolicyEngine:
    """Return the engine that is named or configured, with the configured server where it asks one."""
    from meshflow.policy import Policy

    config = options.load()
    settings = rego_settings(config)
    engine = name or settings.engine
    server = settings.server.server() if engine == "opa" and settings.server is not None else None
    return Policy(bundle, engine=engine).engine(
        max_input_bytes=settings.max_input_bytes, server=server, base=config.base
    )


def entry_of(stage: str) -> EntryPoint:
    """Return the entry point of a stage."""
    from meshflow.policy import ENTRY_POINTS

    return next(entry for entry in ENTRY_POINTS if entry.stage == stage)


def document_from(given: str | None, stage: str) -> dict[str, Any]:
    """Return the decision document that is given, or that of a plain tool call where none is."""
    if given is None:
        return sample_document(stage)
    document = read_input(given)
    if not isinstance(document, dict):
        raise typer.BadParameter(f"a decision document is an object, not {type(document).__name__}")
    return document


def sample_document(stage: str) -> dict[str, Any]:
    """Return the document of a made-up tool call."""
    from meshflow.facts import Confidentiality, Origin, Principal, RiskTier, TaintLabels, TenantScope
    from meshflow.policy import step_document
    from meshflow.step import NodeInput, context_for

    step = NodeInput(node_id="look up", kind="tool", tool="lookup_order", input={"id": 7})
    context = context_for(
        step,
        identity_verification=Principal("ana", "desk", roles=("support",)),
        tenant_scoping=TenantScope("acme"),
        risk_classification=RiskTier.INTERNAL,
        taint_propagation=TaintLabels(Origin.USER, Confidentiality.INTERNAL),
    )
    return step_document(context, entry_of(stage), "found")


def print_policy_schema(stage: str | None, *, answer: bool) -> None:
    """Print the JSON Schema of a policy's input at a stage, or of its answer."""
    from meshflow.policy.schema import answer_schema, input_schema

    if stage is not None and answer:
        raise typer.BadParameter("--policy-input and --policy-answer are two schemas; ask for one")
    print_json(answer_schema() if stage is None else input_schema(entry_of(stage)))
