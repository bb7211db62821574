"""`make serve`: the whole platform on this machine, from one command to one Ctrl-C.

python -m outrider_deployments.serve_local [--config FILE] [--policy FILE] [--database URL] [--host HOST] [--port PORT]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.status import Status

from outrider.errors import ConfigurationError, OutriderError
from outrider.policy import DEMO_KEY, DEMO_OPERATOR_KEY, parse_policies
from outrider_deployments import local_ray, preflight
from outrider_deployments.config import AppConfig, ListenConfig, resolve_path
from outrider_deployments.readiness import await_ready

__all__ = ["main"]

APPLICATION = "outrider"
DEFAULT_CONFIG = "deployments/outrider_deployments/configs/local.yaml"


class Interrupted(Exception):
    """Ctrl-C or SIGTERM before the platform was up."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line and the environment ask for."""

    config: str
    policy: str | None
    database: str | None
    host: str
    port: int

    @property
    def url(self) -> str:
        """Where this machine reaches the platform; a wildcard address is not one to connect to."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class Signals:
    """SIGINT or SIGTERM asks to stop, a second one ends the process at once; SIGHUP asks to deploy the files anew."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stop = False
        self._reload = False
        self._arrived = threading.Event()
        self.listen()

    def listen(self) -> None:
        """Take the signals; again after Ray has started, which takes SIGTERM for itself."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        if self._stop:
            self._console.print("stopped without waiting")
            os._exit(130)  # Ray's own reaper ends what this process started
        self._stop = True
        self._arrived.set()

    def _on_reload(self, number: int, frame: FrameType | None) -> None:
        self._reload = True
        self._arrived.set()

    def check(self) -> None:
        """Raises Interrupted once a stop was asked for."""
        if self._stop:
            raise Interrupted

    def wait_for_reload(self) -> None:
        """Return when a new deployment is asked for; raises Interrupted when a stop is."""
        while True:
            self._arrived.wait()
            self._arrived.clear()
            self.check()
            if self._reload:
                self._reload = False
                return


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 after a stop that was asked for, 1 after one clear line about what is wrong."""
    options = _options(arguments)
    console = Console(highlight=False, soft_wrap=True)
    signals = Signals(console)
    try:
        config = load_config(options.config, policy=options.policy, database=options.database)
        _serve(options, config, console, signals)
    except Interrupted:
        return 0
    except OutriderError as error:
        console.print(f"{error.code}: {error.message}", markup=False)
        return 1


def load_config(path: str, *, policy: str | None = None, database: str | None = None) -> AppConfig:
    """The `args` of the single application in a Serve config file; raises ConfigurationError."""
    import yaml  # as Serve itself reads the file

    file = resolve_path(path)
    try:
        document = yaml.safe_load(file.read_text("utf-8"))
        applications = document["applications"]
        arguments: dict[str, Any] = applications[0]["args"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} does not load: {' '.join(str(error).split())}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigurationError(f"{path} is not a Serve config with applications and args") from error
    changes = {"policy": policy, "database": database}
    arguments = {**arguments, **{name: value for name, value in changes.items() if value is not None}}
    return AppConfig.parse(arguments, source=Path(path).name)


def _options(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="outrider-serve", description="Run the platform on this machine.")
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="Serve config file (default: %(default)s)")
    parser.add_argument("--policy", help="policy file to use instead of the configured one")
    parser.add_argument("--database", help="URL of the database to use instead of the configured one")
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8000"))
    return Options(**vars(parser.parse_args(arguments)))


def _serve(options: Options, config: AppConfig, console: Console, signals: Signals) -> NoReturn:
    """Start, wait until real answers are possible, redeploy when asked; leaves by Interrupted, everything stopped."""
    local_ray.refuse_foreign_cluster()
    local_ray.check_port(options.host, options.port)
    if other := local_ray.other_cluster():
        console.print(
            f"A Ray cluster is already running on this machine ({other}). It is left alone: this command starts its "
            f"own beside it. To use that one instead: RAY_ADDRESS={other} serve run {options.config}"
        )
    with console.status("checking models and policy") as status:
        _check(config, options, console)
        signals.check()
        try:
            status.update("starting Ray")
            local_ray.start()
            signals.listen()
            _deploy(config, options, console, status, signals)
            _announce(options, config, console)
            try:
                _redeploy_on_request(options, console, status, signals)
            finally:
                status.start()
                status.update("draining: running streams may finish, Ctrl-C again stops at once")
                _drain(config.timeouts.drain_s)
        finally:
            status.update("stopping")
            local_ray.stop(APPLICATION)
            console.print("stopped")


def _listening(config: AppConfig, options: Options) -> AppConfig:
    """The configuration with the address of the command line."""
    listen = ListenConfig(host=options.host, port=options.port)
    return config.model_copy(update={"gateway": config.gateway.model_copy(update={"listen": listen})})


def _check(config: AppConfig, options: Options, console: Console) -> None:
    """Everything that can be found out before a process is started."""
    preflight.check(_listening(config, options))
    for name, model in config.models.items():
        if model.drafter is None:
            console.print(f"{name}: no drafter configured, every round is plain decoding")


def _redeploy_on_request(options: Options, console: Console, status: Status, signals: Signals) -> NoReturn:
    """On every SIGHUP, deploy what the files say then; what does not load leaves the running application alone."""
    while True:
        signals.wait_for_reload()
        try:
            config = load_config(options.config, policy=options.policy, database=options.database)
            _check(config, options, console)
            _deploy(config, options, console, status, signals)
        except OutriderError as error:
            status.stop()
            console.print(f"not redeployed: {error.code}: {error.message}", markup=False)


def _deploy(config: AppConfig, options: Options, console: Console, status: Status, signals: Signals) -> None:
    """Hand the application to Serve and wait until it answers; raises what keeps it from starting."""
    from ray import serve

    from outrider_deployments.app import build

    began_s = time.monotonic()
    status.start()
    status.update("starting Serve")
    serve.start(proxy_location="Disabled")
    config = _listening(config, options)
    target = serve.RunTarget(target=build(config), name=APPLICATION, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)
    await_ready(APPLICATION, options.url, config, report=status.update, check=signals.check)
    status.stop()
    console.print(f"ready after {time.monotonic() - began_s:.0f} s")


def _drain(limit_s: float) -> None:
    """Refuse what is new and let running streams finish; gives up on a gateway that does not answer."""
    from ray import serve
    from ray.exceptions import RayError

    gateway = serve.get_deployment_handle("gateway", APPLICATION)
    with contextlib.suppress(RayError, TimeoutError):
        gateway.drain.remote().result(timeout_s=limit_s)


def _announce(options: Options, config: AppConfig, console: Console) -> None:
    console.print(f"\n  endpoint  {options.url}/v1")
    console.print(f"  models    auto, {', '.join(config.models)}")
    documents = preflight.documents_of(config.policy, config.teams)
    policy = parse_policies(documents[0], documents[1:]).policy
    if policy is None or not policy.accepts_demo_key:
        console.print("  key       one of your policy's tenants; `outrider keys new` makes one\n")
        return
    body = '{"model": "auto", "messages": [{"role": "user", "content": "What is 12 + 30?"}], "max_tokens": 64}'
    console.print(f"  key       {DEMO_KEY}")
    if policy.accepts_demo_operator_key:
        console.print(f"  operator  {DEMO_OPERATOR_KEY} (OUTRIDER_OPERATOR_KEY=… outrider policy history)")
    console.print("")
    console.print(
        f"curl {options.url}/v1/chat/completions -H 'authorization: Bearer {DEMO_KEY}' "
        f"-H 'content-type: application/json' -d '{body}'\n",
        markup=False,
    )
    console.print("Ctrl-C stops everything.")


if __name__ == "__main__":
    sys.exit(main())
