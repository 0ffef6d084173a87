"""Fixtures that every test may ask for."""

from tests.at_hand import children_at_hand, worker_at_hand
from tests.comparing import terminal
from tests.hub.fixtures import _running_hub, hub, hub_settings, roots

__all__ = ["_running_hub", "children_at_hand", "hub", "hub_settings", "roots", "terminal", "worker_at_hand"]
