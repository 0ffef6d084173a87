"""Fixtures that every test may ask for."""

from tests.comparing import family, terminal
from tests.hub.fixtures import _running_hub, hub, hub_settings, roots

__all__ = ["_running_hub", "family", "hub", "hub_settings", "roots", "terminal"]
