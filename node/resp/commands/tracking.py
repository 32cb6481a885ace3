"""CLIENT TRACKING."""

from __future__ import annotations


class TrackingClient:
    """What one client tracks."""

    redirect: int = 0
