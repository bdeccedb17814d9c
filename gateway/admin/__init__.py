"""The administration API below `/api/v1`: one file per resource, each stating its `ROUTES`."""

from __future__ import annotations

from gateway.admin._doors import check_declared, doors
from gateway.admin._routes import House

__all__ = ["House", "check_declared", "doors"]
