"""The asyncio client against a real daemon."""
import asyncio
import gc

import pytest

import thermocline
from conftest import PATIENCE, contents, eventually, prompt, spec


def test_the_calls_are_coroutines(daemon):
    async def main():
        async with await thermocline.aio.connect(daemon.socket, timeout=PATIENCE) as client:
            space = await client.open_space(spec())
            assert space.spec.model == "test" and len(space.fingerprint) == 32
            assert await space.put(prompt(1, 6), contents(1, 6)) == 6
            async with await space.match(prompt(1, 8)) as lease:
                assert await lease.load() == lease.depth == len(lease.blocks) == 6
                assert [bytes(lease.view(place)) for place in range(6)] == contents(1, 6)
                slots = await space.reserve(2)
                for slot, block in zip(slots, contents(1, 8)[6:]):
                    slot.write(block)
                await lease.commit(prompt(1, 8)[6 * 16:], slots)
                assert lease.depth == 8 and lease.still_valid()
                slots = await space.reserve(1)
                slots[0].write(contents(1, 9)[8])
                await lease.commit(prompt(1, 9)[8 * 16:], slots, wait=False)
                await lease.settle()
                assert lease.settled and lease.depth == 9
                await lease.truncate(3)
                assert lease.depth == 3
            pin = await space.pin(prompt(1, 8), ttl=60)
            assert [listed.pin for listed in await client.pins()] == [pin.pin]
            await client.unpin(pin.pin)
            assert (await space.prefetch(prompt(1, 8))).matched_depth == 8
            assert (await client.stats()).places == 9
            assert len(await client.spaces()) == 1
            await client.reconnect()
            assert client.connected and client.socket_path == daemon.socket

    asyncio.run(main())


def test_administration(daemon):
    async def main():
        async with await thermocline.aio.connect(daemon.socket, timeout=PATIENCE) as client, \
                await thermocline.aio.connect_admin(daemon.socket, timeout=PATIENCE) as admin:
            space = await client.open_space(spec())
            assert await space.put(prompt(1, 6), contents(1, 6)) == 6
            async with await space.match(prompt(1, 6)) as lease, \
                    await space.import_lease(lease.export()) as imported:
                assert imported.depth == 6
            assert [tenant.name for tenant in await admin.tenants()] == ["default"]
            assert await admin.delete(space, prompt(1, 5)) == 2
            assert (await admin.flush("warm")).blocks == 4 and await admin.drop_arena() == 0
            assert await admin.delete((await client.spaces())[0]) == 4
        with pytest.raises(thermocline.UnavailableError):
            await thermocline.aio.connect_admin("/nonexistent/t.sock")

    asyncio.run(main())


def test_a_daemon_elsewhere(tls_daemon):
    async def main():
        async with await thermocline.aio.connect(remote=tls_daemon.remote, timeout=PATIENCE) as client:
            space = await client.open_space(spec())
            assert await space.put(prompt(1, 3), contents(1, 3)) == 3
            assert (await space.match(prompt(1, 4))).depth == 3

    asyncio.run(main())


def test_many_tasks_share_a_client(daemon):
    async def main():
        async with await thermocline.aio.connect(daemon.socket, timeout=PATIENCE) as client:
            space = await client.open_space(spec())
            async def work(number):
                seed = number % 5
                await space.put(prompt(seed, 4), contents(seed, 4))
                async with await space.match(prompt(seed, 4)) as lease:
                    assert await lease.load() == 4
                    assert [bytes(lease.view(place)) for place in range(4)] == contents(seed, 4)

            await asyncio.gather(*(work(number) for number in range(60)))

    asyncio.run(main())


def test_a_cancelled_call_leaves_nothing_behind(daemon):
    async def main():
        async with await thermocline.aio.connect(daemon.socket, timeout=PATIENCE) as client:
            space = await client.open_space(spec())
            held, refusals = [], 0
            while refusals < 20:  # as test_client's every_slot
                try:
                    held += await space.reserve(64 if refusals == 0 else 1)
                    refusals = min(refusals, 1)
                except thermocline.ResourceExhaustedError:
                    refusals += 1
                    await asyncio.sleep(0.02)
            waiting = asyncio.create_task(space.reserve(8, wait=3.0))
            await asyncio.sleep(0.2)  # the loop goes on meanwhile
            assert not waiting.done()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            held.clear()  # what the cancelled call is granted now, nobody takes

    asyncio.run(main())
    gc.collect()
    with thermocline.connect(daemon.socket, timeout=PATIENCE) as client:
        assert eventually(lambda: client.stats().reservations == 0)


def test_errors_are_raised_by_the_coroutine(daemon):
    async def main():
        with pytest.raises(thermocline.UnavailableError):
            await thermocline.aio.connect("/nonexistent/t.sock")
        client = await thermocline.aio.connect(daemon.socket, timeout=PATIENCE)
        with pytest.raises(thermocline.NotFoundError):
            await client.unpin(12345)
        await client.close()

    asyncio.run(main())
