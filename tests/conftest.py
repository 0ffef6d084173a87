"""Fixtures that every test may ask for."""

from tests.comparing import terminal
from tests.hub.fixtures import _running_hub, hub, hub_settings, roots

__all__ = ["_running_hub", "hub", "hub_settings", "roots", "terminal"]
