"""An accounting owner as a process, on a Unix socket: `python -m support.owner_process URL SOCKET LEASE_S`."""

from __future__ import annotations

import asyncio
import pickle
import sys
from typing import Any

from outrider.accounting import AccountingOwner
from outrider.database import open_database
from outrider.errors import AccountingUnavailable, OutriderError
from outrider.policy import Limits
from support.accounts import DAILY, policy_of

__all__ = ["SocketOwner"]


class SocketOwner:
    """An OwnerClient: one connection a call, as lossy as a process that may be killed at any moment."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def exchange(self, exchange: Any) -> Any:
        return await self._call("exchange", exchange)

    async def settle(self, settle: Any) -> Any:
        return await self._call("settle", settle)

    async def attend(self, gateway: str) -> Any:
        return await self._call("attend", gateway)

    async def _call(self, name: str, argument: object) -> Any:
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
            try:
                writer.write(pickle.dumps((name, argument)))
                writer.write_eof()
                answer = pickle.loads(await reader.read())
            finally:
                writer.close()
        except (OSError, EOFError, pickle.UnpicklingError):
            raise AccountingUnavailable("the owner is gone") from None
        if isinstance(answer, OutriderError):
            raise answer
        return answer


async def serve(url: str, path: str, lease_s: float) -> None:
    policy = policy_of({"acme": Limits(budgets=(DAILY,))})
    owner = AccountingOwner(open_database(url), lambda: policy, lease_s=lease_s)
    await owner.start()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name, argument = pickle.loads(await reader.read())
        try:
            found = await getattr(owner, name)(argument)
        except OutriderError as error:
            found = error
        writer.write(pickle.dumps(found))
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], float(sys.argv[3])))
