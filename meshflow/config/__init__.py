"""meshflow.yaml: read, checked, and handed to plugins as settings."""

from meshflow.config.example import commented_example
from meshflow.config.load import config_from_mapping, load_config, parse_config
from meshflow.config.models import ApprovalsConfig, Config, PluginsConfig, StageConfig, TenantConfig
from meshflow.config.schema import config_schema
from meshflow.config.settings import check_sections, plugin_settings, unknown_plugin_settings

__all__ = [
    "ApprovalsConfig", "Config", "PluginsConfig", "StageConfig", "TenantConfig", "check_sections", "commented_example",
    "config_from_mapping", "config_schema", "load_config", "parse_config", "plugin_settings", "unknown_plugin_settings",
]  # fmt: skip
