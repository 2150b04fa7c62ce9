"""Batches of unordered keys, blocking and by asyncio."""
import asyncio

import numpy
import pytest

import thermocline
from conftest import BLOCK_BYTES, PATIENCE, content, spec


def keys_of(*numbers):
    return [bytes([number]) * 8 for number in numbers]


def put_keys(space, *numbers):
    for number in numbers:
        assert space.put(keys_of(number), [content(number, 0)[:BLOCK_BYTES]]) == 1


@pytest.mark.parametrize("remote", [False, True])
def test_each_is_found_and_read_whatever_the_order(daemon, remote):
    elsewhere = thermocline.RemoteOptions(address=f"unix://{daemon.socket}.grpc") if remote else None
    with thermocline.connect(daemon.socket, timeout=PATIENCE, remote=elsewhere) as client:
        space = client.open_space(spec(model="unordered", key_bytes=8))
        put_keys(space, 1, 2, 3)
        asked = (3, 9, 1, 3)
        tiers = ["warm", "none", "warm", "warm"]
        assert space.look_up(keys_of(*asked)) == tiers
        buffers = [bytearray(BLOCK_BYTES), numpy.zeros(BLOCK_BYTES, numpy.uint8),
                   numpy.zeros((2, BLOCK_BYTES // 8), numpy.int32), memoryview(bytearray(BLOCK_BYTES))]
        assert space.read_into(keys_of(*asked), buffers) == tiers
        for number, buffer, tier in zip(asked, buffers, tiers):
            if tier != "none":
                assert bytes(memoryview(buffer).cast("B")) == content(number, 0)[:BLOCK_BYTES]
        assert space.look_up([]) == space.read_into([], []) == []


def test_what_does_not_fit_is_refused(client, space):
    keyed = client.open_space(spec(model="unordered", key_bytes=8))
    put_keys(keyed, 1)
    for wrong, error in (([bytes(BLOCK_BYTES)], BufferError), ([bytearray(7)], thermocline.InvalidArgumentError),
                         ([], thermocline.InvalidArgumentError), ([7], TypeError),
                         ([numpy.zeros(2 * BLOCK_BYTES, numpy.uint8)[::2]], ValueError)):
        with pytest.raises(error):
            keyed.read_into(keys_of(1), wrong)
    with pytest.raises(thermocline.InvalidArgumentError):
        keyed.read_into(keys_of(1), [bytearray(BLOCK_BYTES)], part=1)
    with pytest.raises(thermocline.InvalidArgumentError):
        space.look_up([1] * 16)


def test_the_calls_are_coroutines(daemon):
    async def main():
        async with await thermocline.aio.connect(daemon.socket, timeout=PATIENCE) as client:
            space = await client.open_space(spec(model="unordered", key_bytes=8))
            assert await space.put(keys_of(5), [content(5, 0)[:BLOCK_BYTES]]) == 1
            assert await space.look_up(keys_of(6, 5)) == ["none", "warm"]
            buffer = bytearray(BLOCK_BYTES)
            assert await space.read_into(keys_of(5), [buffer]) == ["warm"]
            assert buffer == content(5, 0)[:BLOCK_BYTES]

    asyncio.run(main())
