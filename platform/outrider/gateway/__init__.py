"""Tenant HTTP to request and back: keys, OpenAI's schema, budgets, routing, streaming."""

from outrider.gateway.app import create_app
from outrider.gateway.service import Gateway
from outrider.gateway.settings import GatewaySettings
from outrider.gateway.upstream import ChunkStream, Upstream

__all__ = ["ChunkStream", "Gateway", "GatewaySettings", "Upstream", "create_app"]
