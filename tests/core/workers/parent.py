"""A server to be killed by a test: starts a worker, prints its pid, gives it work and waits."""

import asyncio
import json
import sys

from corsac.core.workers.worker import Worker


async def main(method: str, arguments: dict[str, object]) -> None:
    worker = Worker("stubborn:Stubborn", {}, name="orphan")
    await worker.start()
    sys.stdout.write(f"{worker.pid}\n")
    sys.stdout.flush()
    await worker.call(method, arguments, timeout_s=60)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
