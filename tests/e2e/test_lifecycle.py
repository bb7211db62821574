"""Starting, redeploying and stopping, with the lightest application there is: one model and no drafter."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from support.platform_process import DEMO_KEY, PlatformProcess, running, until

SHIPPED = Path(os.environ.get("OUTRIDER_E2E_CONFIG", "deployments/outrider_deployments/configs/local.yaml"))

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    document = yaml.safe_load(SHIPPED.read_text("utf-8"))
    arguments = document["applications"][0]["args"]
    arguments["policy"] = str(Path(arguments["policy"]).resolve())
    arguments["models"] = {"flash": {"directory": arguments["models"]["flash"]["directory"], "drafter": "none"}}
    path = tmp_path_factory.mktemp("lifecycle") / "no-drafter.yaml"
    path.write_text(yaml.safe_dump(document), "utf-8")
    return path


@pytest.fixture(scope="module")
def platform(config: Path) -> Iterator[PlatformProcess]:
    with running("--config", str(config)) as platform:
        yield platform


class LongStream:
    """A streamed answer read on a thread, so that something can happen meanwhile."""

    def __init__(self, platform: PlatformProcess, tokens: int) -> None:
        self._client = openai.OpenAI(base_url=f"{platform.url}/v1", api_key=DEMO_KEY, max_retries=0, timeout=300)
        self._tokens = tokens
        self.finish: str | None = None
        self.tokens = 0
        self.error: Exception | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._begun.wait(60)

    def _read(self) -> None:
        try:
            stream: Any = self._client.chat.completions.create(
                model="flash",
                messages=[{"role": "user", "content": "Tell me a story."}],
                max_tokens=self._tokens,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            for chunk in stream:
                self._begun.set()
                if chunk.choices:
                    self.finish = chunk.choices[0].finish_reason
                elif chunk.usage:
                    self.tokens = chunk.usage.completion_tokens
        except Exception as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(300)


def test_a_target_without_a_drafter_is_announced_and_answers(platform: PlatformProcess) -> None:
    assert any("flash: no drafter configured" in line for line in platform.lines)
    state = platform.state("flash")
    assert (state["ready"], state["drafter_attached"]) == (True, False)
    assert platform.replica("draft-flash") is None


def test_a_busy_port_is_said_plainly(platform: PlatformProcess, config: Path) -> None:
    second = PlatformProcess("--config", str(config), port=platform.port)
    assert second.wait_for_end() == 1
    assert second.lines[-1].startswith(f"port_in_use: port {platform.port}")
    assert "Traceback" not in second.output


def test_what_does_not_load_is_not_deployed(platform: PlatformProcess, config: Path) -> None:
    good = config.read_text("utf-8")
    before = platform.replica("gateway")
    config.write_text(good.replace("drafter:", "draughter:"), "utf-8")
    try:
        platform.process.send_signal(signal.SIGHUP)
        until(lambda: platform.lines[-1].startswith("not redeployed: configuration_error: "))
    finally:
        config.write_text(good, "utf-8")
    assert _ready(platform)
    assert platform.replica("gateway") == before


def test_redeploying_lets_streams_finish(platform: PlatformProcess) -> None:
    before = platform.replica("gateway"), platform.replica("target-flash")
    stream = LongStream(platform, tokens=1900)
    announced = len(platform.lines)
    platform.process.send_signal(signal.SIGHUP)
    stream.join()
    assert stream.error is None
    assert (stream.finish, stream.tokens) == ("length", 1900)
    until(lambda: any(line.startswith("ready after") for line in platform.lines[announced:]), limit_s=300)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    assert None not in (platform.replica("gateway"), platform.replica("target-flash"))
    assert _ready(platform)


def test_stopping_drains_and_leaves_no_process(platform: PlatformProcess) -> None:
    started = set(platform.descendants())
    stream = LongStream(platform, tokens=1500)
    platform.process.send_signal(signal.SIGTERM)
    refused = until(lambda: _refusal(platform), limit_s=20)
    assert refused == (503, "not_ready")
    stream.join()
    assert stream.error is None
    assert (stream.finish, stream.tokens) == ("length", 1500)
    assert platform.wait_for_end() == 0
    assert platform.lines[-1] == "stopped"
    until(lambda: not [pid for pid in started if Path(f"/proc/{pid}").exists()], limit_s=20)


def _ready(platform: PlatformProcess) -> bool:
    try:
        return bool(platform.state("flash")["ready"])
    except (httpx.HTTPError, KeyError, json.JSONDecodeError):
        return False


def _refusal(platform: PlatformProcess) -> tuple[int, str] | None:
    body = {"model": "flash", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    answer = httpx.post(
        f"{platform.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {DEMO_KEY}"}, timeout=30
    )
    return None if answer.status_code == 200 else (answer.status_code, answer.json()["error"]["code"])
