"""The whole platform, as `make serve` starts it, once for every test that asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import openai
import pytest

from support.platform_process import DEMO_KEY, PlatformProcess, running

CONFIG = os.environ.get("OUTRIDER_E2E_CONFIG", "deployments/outrider_deployments/configs/local.yaml")


@pytest.fixture(scope="session")
def platform() -> Iterator[PlatformProcess]:
    with running("--config", CONFIG) as platform:
        yield platform


@pytest.fixture(scope="session")
def client(platform: PlatformProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{platform.url}/v1", api_key=DEMO_KEY, max_retries=0, timeout=120)
