"""Make the plugins that are wanted: validated settings, checked hooks, and what goes into the fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import pbkdf2_hmac, sha256
from typing import Any

from pydantic import Secret, SecretBytes, SecretStr

from meshflow.config.models import Config
from meshflow.config.settings import plugin_settings
from meshflow.errors import ConfigError, PluginError
from meshflow.plugin.base import Host, Plugin
from meshflow.registry.discover import Found, discover, import_plugin
from meshflow.registry.hooks import Hook, declared_hooks, hooks_of
from meshflow.registry.manifest import FIRST_PARTY, FIRST_PARTY_DISTRIBUTIONS

IN_PROCESS = "in-process"
_STRETCH = 100_000


@dataclass(frozen=True, slots=True)
class Provider:
    """A plugin that has been made, and where it came from."""

    name: str
    plugin: Plugin[Any]
    hooks: Mapping[str, Hook]
    distribution: str
    version: str
    settings_digest: str

    @property
    def third_party(self) -> bool:
        """True unless the plugin ships with meshflow."""
        return self.distribution not in FIRST_PARTY_DISTRIBUTIONS

    @property
    def in_process(self) -> bool:
        """True for an instance that the application handed in."""
        return self.distribution == IN_PROCESS


@dataclass(slots=True)
class Shelf:
    """Every plugin that may be used, made when first asked for."""

    config: Config
    host: Host
    found: Mapping[str, Found]
    given: Mapping[str, Plugin[Any]]
    previous: Mapping[str, Provider] = field(default_factory=dict)
    _made: dict[str, Provider] = field(default_factory=dict)
    _classes: dict[str, type[Plugin[Any]]] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        config: Config,
        host: Host,
        given: Mapping[str, Plugin[Any]],
        previous: Mapping[str, Provider] | None = None,
    ) -> Shelf:
        """List what is installed and allowed, and what the application handed in; import nothing."""
        found = discover()
        allowed = set(config.allow) | FIRST_PARTY if config.allow is not None else set(found)
        usable = {name: item for name, item in found.items() if name in allowed and name not in set(config.disable)}
        return cls(config, host, usable, given, previous or {})

    @property
    def names(self) -> tuple[str, ...]:
        """Every usable name: those handed in first, then the installed ones in order of name."""
        return (*self.given, *sorted(set(self.found) - set(self.given)))

    def third_party_names(self) -> tuple[str, ...]:
        """Installed plugins that do not ship with meshflow, in order of name."""
        return tuple(
            name
            for name in sorted(self.found)
            if name not in self.given and self.found[name].distribution not in FIRST_PARTY_DISTRIBUTIONS
        )

    def serves(self, name: str, hook: str) -> bool:
        """Return whether a plugin has a hook. An installed one is not made for that: unwanted, it needs no settings."""
        if name in self.given:
            return hook in self.provider(name).hooks
        return hook in declared_hooks(name, self.plugin_type(name, ""))

    def provider(self, name: str, where: str = "") -> Provider:
        """Return a plugin by name, made once; ``where`` is the setting that asked for it."""
        if name not in self._made:
            self._made[name] = self._make(name, where)
        return self._made[name]

    def for_tenant(self, name: str, tenant: str) -> Provider:
        """Return a plugin of its own for one tenant, with the tenant's settings, named ``name@tenant``."""
        key = f"{name}@{tenant}"
        if key not in self._made:
            if name in self.given:
                raise ConfigError(f"the plugin {name!r} was handed in by the application and cannot be set per tenant")
            plugin_type = self.plugin_type(name, f"tenants.{tenant}")
            settings = plugin_settings(self.config, name, plugin_type, tenant=tenant)
            self._made[key] = self._provide(key, plugin_type, settings, self.found[name], tenant)
        return self._made[key]

    def made(self) -> Mapping[str, Provider]:
        """Return all that was made so far, by name."""
        return dict(self._made)

    def classes(self) -> Mapping[str, type[Plugin[Any]]]:
        """Return the plugin classes imported so far, by name."""
        return dict(self._classes)

    def plugin_type(self, name: str, where: str) -> type[Plugin[Any]]:
        """Return a plugin's class, imported when first asked for."""
        if name not in self._classes:
            if name not in self.found:
                raise ConfigError(_unknown(name, self.names), where=where)
            self._classes[name] = import_plugin(self.found[name])
        return self._classes[name]

    def _make(self, name: str, where: str) -> Provider:
        given = self.given.get(name)
        if given is not None:
            return Provider(name, given, hooks_of(name, given), IN_PROCESS, "", _digest_settings(given.settings))
        plugin_type = self.plugin_type(name, where)
        settings = plugin_settings(self.config, name, plugin_type)
        return self._provide(name, plugin_type, settings, self.found[name], None)

    def _provide(
        self, name: str, plugin_type: type[Plugin[Any]], settings: Any, found: Found, tenant: str | None
    ) -> Provider:
        digest = _digest_settings(settings)
        old = self.previous.get(name)
        host = replace(self.host, tenant=tenant) if tenant is not None else self.host
        try:
            plugin = plugin_type(settings, host)
        except (ConfigError, PluginError):
            raise
        except Exception as error:
            raise PluginError(
                f"plugin {name!r} of distribution {found.distribution}: making it failed: "
                f"{type(error).__name__}: {error}"
            ) from error
        if old is not None and type(old.plugin) is plugin_type:
            if old.settings_digest == digest and old.plugin.digest() == plugin.digest():
                return old
            plugin.adopt(old.plugin)
        return Provider(name, plugin, hooks_of(name, plugin), found.distribution, found.version, digest)


def _digest_settings(settings: Any) -> str:
    if not hasattr(settings, "model_dump_json"):
        return sha256(repr(settings).encode()).hexdigest()
    found = sha256(settings.model_dump_json().encode())
    for secret in _secrets(settings.model_dump()):  # JSON has stars in their place
        # Stretched, since records show a fingerprint made of it, by which a short secret could be guessed.
        found.update(pbkdf2_hmac("sha256", secret, b"meshflow/secret/v1", _STRETCH))
    return found.hexdigest()


def _secrets(value: Any) -> Iterator[bytes]:
    """Yield what the secrets in settings hold, in the order of their fields."""
    if isinstance(value, Secret | SecretStr | SecretBytes):
        held = value.get_secret_value()
        yield held if isinstance(held, bytes) else str(held).encode("utf-8", "surrogatepass")
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _secrets(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _secrets(one)


def _unknown(name: str, names: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"installed are {sorted(names)}"
    return f"no plugin named {name!r} is installed or allowed; {hint}"
