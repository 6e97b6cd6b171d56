"""Where a plugin's bundle comes from: read whole, verified if it must be signed, and watched for changes."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Any

from meshflow.errors import ConfigError
from meshflow.plugin import Host
from meshflow.policy import Bundle, Policy, shipped_bundle
from meshflow.policy.data import parse_document
from meshflow.policy.rego_tests import run_rego_tests
from meshflow.policy.signing import Verifier, verify_folder
from meshflow.policy.snapshot import snapshot
from meshflow_rego.settings import RegoSettings

STARTER = "authz"
_CLOCK_GRAIN_S = 0.1
"""File times are no finer than the kernel's clock, which ticks every few milliseconds."""
_TEST = "_test.rego"


class BundleSource:
    """Reads the policy that the settings, or the runtime, name."""

    def __init__(self, settings: RegoSettings, host: Host, given: Any) -> None:
        self._settings = settings
        self._host = host
        self._given = given
        self._sign = ""
        self._read_s = 0.0
        self._digest = ""
        self._settled = False
        self._differs = False

    def read(self) -> Policy:
        """Return the policy; ConfigError says what is wrong, or that it changed meanwhile."""
        if isinstance(self._given, Policy):
            if self._settings.verify is not None:
                raise ConfigError("a Policy object is not signed; give the folder of a bundle", path=_VERIFY)
            return self._laid_over(self._given)
        self._sign = snapshot(*self._paths())
        bundle = self._bundle()
        policy = self._laid_over(Policy(bundle, engine=self._settings.engine))
        if self._settings.reload.watch_ms and snapshot(*self._paths()) != self._sign:
            raise ConfigError("the bundle changed while it was read", where=str(self._path()))
        self._read_s, self._digest = monotonic(), policy.digest
        return policy

    def changed(self) -> str:
        """Return a sign of how the files differ from those that were read; empty where they do not."""
        if isinstance(self._given, Policy) or not self._sign:
            return ""
        sign = snapshot(*self._paths())
        if sign != self._sign:
            return sign
        if not self._settled and monotonic() - self._read_s > _CLOCK_GRAIN_S:
            self._settled = True
            self._differs = self._reread() != self._digest
        return f"{sign} differs" if self._differs else ""

    def _reread(self) -> str:
        """Return the digest of what the files hold now: one written right after it was read has the same times."""
        try:
            return self._laid_over(Policy(self._bundle(), engine=self._settings.engine)).digest
        except ConfigError as error:
            return str(error)

    def run_tests(self, bundle: Bundle) -> None:
        """Run the tests beside a bundle that was read; ConfigError names the first that fails. Blocks."""
        if isinstance(self._given, Policy):
            return
        tested = Bundle.load(self._path(), tests=True)
        rules = {path: text for path, text in tested.policies.items() if not path.endswith(_TEST)}
        if rules != dict(bundle.policies):
            raise ConfigError("the bundle changed while it was read", where=str(self._path()))
        for test in run_rego_tests(self._with_overlay(tested)):
            if not test.passed:
                raise ConfigError(f"{test.rule} {test.problem}", where=str(self._path() / test.where))

    def _bundle(self) -> Bundle:
        path, verify = self._path(), self._settings.verify
        if verify is None:
            return Bundle.load(path)
        verifier = Verifier(self._host.base / verify.key, verify.key_id, verify.scope)
        files = {name: content for name, content in verify_folder(path, verifier).items() if not name.endswith(_TEST)}
        return Bundle.from_files(files, name=path.resolve().name, origin=str(path))

    def _path(self) -> Path:
        given = self._given if self._given is not None else self._settings.bundle
        if given is None:
            return shipped_bundle(STARTER)
        if not isinstance(given, (str, Path)):
            raise ConfigError(
                f"policy must be a Policy, the path of a bundle or a policy engine, not {type(given).__name__}"
            )
        return self._host.base / given

    def _paths(self) -> tuple[Path, ...]:
        data = self._settings.data
        return (self._path(),) if data is None else (self._path(), self._host.base / data)

    def _laid_over(self, policy: Policy) -> Policy:
        bundle = self._with_overlay(policy.bundle)
        return policy if bundle is policy.bundle else Policy(bundle, engine=policy.engine_name)

    def _with_overlay(self, bundle: Bundle) -> Bundle:
        if self._settings.data is None:
            return bundle
        path = self._host.base / self._settings.data
        try:
            return bundle.with_data(parse_document(path.read_bytes(), str(path)))
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), path="plugins.rego.data") from None


_VERIFY = "plugins.rego.verify"
