"""The OpenTelemetry variables in the environment of the command line."""

from __future__ import annotations

import os

from cli.errors import CommandError
from mesh.observability.config import TraceConfig
from mesh.settings import ConfigError, Settings


def trace_settings() -> TraceConfig:
    """Returns the trace settings of the environment. Raises CommandError if one is invalid."""
    try:
        return TraceConfig.from_settings(Settings(os.environ))
    except ConfigError as error:
        raise CommandError(str(error), code="INVALID_ARGUMENT", reason="SETTING_INVALID") from None
