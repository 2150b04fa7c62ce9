"""The blocking client against a real daemon."""
import array
import ctypes
import dataclasses
import gc
import multiprocessing
import os
import signal
import threading
import time

import numpy
import pytest

import thermocline
from conftest import BLOCK_BYTES, PATIENCE, contents, eventually, prompt, spec


def test_what_is_put_is_matched_and_viewed_in_place(client, space, daemon):
    blocks = contents(1, 8)
    assert space.put(prompt(1, 8), blocks) == 8
    with thermocline.connect(daemon.socket, timeout=PATIENCE) as other:
        same = other.open_space(spec())
        assert same.fingerprint == space.fingerprint and len(same.fingerprint) == 32
        with same.match(prompt(1, 8) + [7] * 40) as lease:
            assert lease.depth == 8 and lease.load() == 8
            assert [bytes(lease.view(place)) for place in range(8)] == blocks
            assert lease.view(8) is None
            assert [block.depth for block in lease.blocks] == list(range(8))
            assert {block.matched_tier for block in lease.blocks} == {"warm"}
            assert lease.still_valid()
        assert other.open_space(spec(model="another")).match(prompt(1, 8)).depth == 0
    assert client.stats().corrupt_blocks == 0


def test_a_put_brings_only_what_is_missing(client, space):
    blocks = contents(2, 8)
    assert space.put(prompt(2, 3), blocks[:3]) == 3
    filled = []

    def fill(block, part, slot):
        filled.append((block, part))
        slot.numpy()[:] = numpy.frombuffer(blocks[block], numpy.uint8)

    tokens = numpy.array(prompt(2, 8), numpy.int32)
    assert space.put(tokens, fill) == 8
    assert filled == [(place, 0) for place in range(3, 8)]
    assert space.put(tokens, fill) == 8 and len(filled) == 5
    assert space.put([], []) == 0
    lease = space.match(tokens)
    assert [bytes(lease.view(place)) for place in range(8)] == blocks
    with pytest.raises(thermocline.InvalidArgumentError, match="7 blocks were given for a path of 8"):
        space.put(tokens, blocks[:7])


def every_slot(space):
    """Reservations of all there is: what other tests put leaves memory for the disk bit by bit."""
    held, refusals = [], 0
    while refusals < 20:
        try:
            held += space.reserve(64 if refusals == 0 else 1)
            refusals = min(refusals, 1)
        except thermocline.ResourceExhaustedError:
            refusals += 1
            time.sleep(0.02)
    return held


def test_a_put_that_does_not_fit_whole_keeps_the_head(client, space):
    held = every_slot(space)
    del held[-5:]
    gc.collect()
    assert eventually(lambda: client.stats().reservations == len(held))
    depth = space.put(prompt(3, 8), contents(3, 8))
    assert 0 < depth <= 5
    assert [bytes(space.match(prompt(3, 8)).view(place)) for place in range(depth)] == contents(3, depth)


def test_a_view_is_memory_of_the_arena_and_read_only(space):
    space.put(prompt(4, 1), contents(4, 1))
    first, second = space.match(prompt(4, 1)), space.match(prompt(4, 1))
    view = first.view(0)
    assert view.readonly and view.nbytes == len(view) == BLOCK_BYTES
    assert memoryview(view).readonly and memoryview(view).c_contiguous
    values = view.numpy("f16", (2, 16, 1024))
    assert values.dtype == numpy.float16 and values.shape == (2, 16, 1024)
    assert values.tobytes() == contents(4, 1)[0]
    assert numpy.shares_memory(values, second.view(0).numpy())
    assert values.ctypes.data % 4096 == 0
    with pytest.raises(ValueError):
        values[:] = 0
    with pytest.raises((ValueError, TypeError)):
        memoryview(view)[0] = 1
    with pytest.raises(ValueError, match="another size"):
        view.cast("f32", (3, 5))
    with pytest.raises(ValueError, match="another size"):
        view.cast("f32", (2 ** 62, 2 ** 62))
    with pytest.raises(ValueError, match="f16"):
        view.cast("complex")


def test_dlpack_shares_the_memory_and_says_that_it_is_read_only(space):
    space.put(prompt(5, 1), contents(5, 1))
    view = space.match(prompt(5, 1)).view(0)
    plain = view.numpy("f32", (128, 128))
    assert view.__dlpack_device__() == (1, 0)
    if tuple(map(int, numpy.__version__.split(".")[:2])) >= (2, 1):
        shared = numpy.from_dlpack(view.cast("f32", (128, 128)))
        assert numpy.shares_memory(shared, plain) and not shared.flags.writeable
        assert shared.shape == (128, 128) and shared.tobytes() == contents(5, 1)[0]
        copied = numpy.from_dlpack(view, copy=True)
        assert not numpy.shares_memory(copied, plain) and copied.tobytes() == contents(5, 1)[0]
    with pytest.raises(BufferError, match="read-only"):
        view.__dlpack__()
    with pytest.raises(BufferError):
        view.__dlpack__(max_version=(1, 0), dl_device=(2, 0))
    for _ in range(100):  # capsules that nobody takes
        view.cast("bf16").__dlpack__(max_version=(1, 0))
        view.__dlpack__(copy=True)
    slot = space.reserve(1)[0]
    writable = numpy.from_dlpack(slot.array)
    assert numpy.shares_memory(writable, slot.array.numpy()) and writable.shape == (BLOCK_BYTES,)


def test_a_view_keeps_its_lease(daemon, client):
    space = client.open_space(spec())
    space.put(prompt(6, 2), contents(6, 2))
    with thermocline.connect(daemon.socket, timeout=PATIENCE) as other:
        there = other.open_space(spec())
        assert eventually(lambda: client.stats().leases == 0)
        with there.match(prompt(6, 2)) as lease:
            values = lease.view(1).numpy()
        assert lease.still_valid()
        with pytest.raises(thermocline.FailedPreconditionError, match="released"):
            lease.view(1)
        del there, lease
    del other
    gc.collect()
    time.sleep(0.3)
    assert client.stats().leases == 1 and values.tobytes() == contents(6, 2)[1]
    tensor = numpy.from_dlpack(numpy.array(values[:0]))  # some other array
    del values, tensor
    gc.collect()
    assert eventually(lambda: client.stats().leases == 0)


def test_a_slot_is_given_back_with_its_last_array(client, space):
    slots = space.reserve(3)
    values = slots[0].array.numpy()
    slots[1].release()
    with pytest.raises(thermocline.FailedPreconditionError, match="given back"):
        slots[1].array
    del slots
    gc.collect()
    assert eventually(lambda: client.stats().reservations == 1)
    values[:] = 1  # still ours
    del values
    assert eventually(lambda: client.stats().reservations == 0)


def test_a_committed_slot_gives_out_no_more_arrays(space):
    lease = space.match(prompt(7, 1))
    slot = space.reserve(1)[0]
    early = slot.array
    slot.write(contents(7, 1)[0])
    with pytest.raises(ValueError, match="takes all of them"):
        slot.write(b"short")
    with pytest.raises(ValueError, match="contiguous"):
        slot.write(numpy.zeros(2 * BLOCK_BYTES, numpy.uint8)[::2])
    with pytest.raises(ValueError, match="twice"):
        lease.commit(prompt(7, 2), [slot, slot])
    lease.commit(prompt(7, 1), [slot])
    with pytest.raises(BufferError):
        memoryview(early)
    with pytest.raises(thermocline.FailedPreconditionError, match="committed"):
        slot.array
    with pytest.raises(thermocline.FailedPreconditionError):
        lease.commit(prompt(7, 1), [slot])
    assert lease.depth == 1 and bytes(lease.view(0)) == contents(7, 1)[0]


def test_tokens_come_in_many_forms(space):
    tokens = prompt(8, 2)
    space.put(tokens, contents(8, 2))
    wide = numpy.zeros(64, numpy.int64)
    wide[::2] = tokens
    for form in (tuple(tokens), array.array("i", tokens), numpy.array(tokens, numpy.int32),
                 numpy.array(tokens, numpy.int64), numpy.array(tokens, numpy.uint32), wide[::2],
                 wide.astype(numpy.int32)[::2], memoryview(array.array("q", tokens)),
                 range(tokens[0], tokens[0] + 32)):
        assert space.match(form).depth == 2
        assert space.put(form, contents(8, 2)) == 2
    for wrong, error in (([2 ** 31], ValueError), ([2 ** 70], ValueError), ([1.5], TypeError),
                         ("text", TypeError), (b"bytes", TypeError), (3, TypeError),
                         (numpy.array([2 ** 40]), ValueError)):
        with pytest.raises(error):
            space.match(wrong)


def filled(space, blocks):
    slots = space.reserve(len(blocks), wait=PATIENCE)
    assert len(slots) == len(blocks)
    for slot, block in zip(slots, blocks):
        slot.write(block)
    return slots


def test_commits_that_do_not_wait_are_settled(client, space, daemon):
    tokens, blocks = prompt(17, 40), contents(17, 40)
    lease = space.match(tokens)
    assert lease.settled
    lease.settle()
    for place in range(0, 40, 8):
        slots = filled(space, blocks[place:place + 8])
        lease.commit(tokens[16 * place:16 * (place + 8)], slots, wait=False)
        assert lease.depth == 0  # moves when it is settled
        with pytest.raises(thermocline.FailedPreconditionError, match="committed"):
            slots[0].array
    lease.settle()
    assert lease.settled and lease.depth == 40
    assert [bytes(lease.view(place)) for place in range(40)] == blocks
    with pytest.raises(thermocline.InvalidArgumentError):
        lease.commit(tokens, filled(space, blocks[:1]), wait=False)

    with space.match(prompt(18, 1)) as gone:  # nobody settles it
        gone.commit(prompt(18, 1), filled(space, contents(18, 1)), wait=False)
    with thermocline.connect(daemon.socket, timeout=PATIENCE) as other:
        there = other.open_space(spec())
        assert there.match(tokens).depth == 40
        assert eventually(lambda: there.match(prompt(18, 1)).depth == 1)


def test_a_silent_daemon_is_not_waited_for(client, space, daemon):
    lease = space.match(prompt(19, 8))
    lease.commit(prompt(19, 4), filled(space, contents(19, 4)))
    slots = filled(space, contents(19, 5)[4:])
    daemon.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, daemon.process.pid, os.WSTOPPED)  # its threads stop one by one
    try:
        lease.commit(prompt(19, 5)[64:], slots, wait=False)
        assert not lease.settled
        with pytest.raises(thermocline.DeadlineExceededError):
            lease.settle(timeout=0.1)
        assert lease.depth == 4
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    lease.settle()
    assert lease.depth == 5 and bytes(lease.view(4)) == contents(19, 5)[4]


def test_a_daemon_elsewhere_is_reached_by_options(tls_daemon):
    remote = tls_daemon.remote
    with thermocline.connect("/nonexistent/t.sock", timeout=PATIENCE, remote=remote) as client:
        space = client.open_space(spec())
        assert space.put(prompt(20, 3), contents(20, 3)) == 3
        with space.match(prompt(20, 5)) as lease:
            assert lease.load() == 3
            assert [bytes(lease.view(place)) for place in range(3)] == contents(20, 3)
            tokens = prompt(20, 5)[48:]
            lease.commit(tokens, filled(space, contents(20, 5)[3:]), wait=False)
            lease.settle()
            assert lease.depth == 5
    with thermocline.connect(tls_daemon.socket, timeout=PATIENCE) as client:
        lease = client.open_space(spec()).match(prompt(20, 5))
        assert [bytes(lease.view(place)) for place in range(5)] == contents(20, 5)
    with pytest.raises(thermocline.InvalidArgumentError, match="tls://"):
        thermocline.connect(remote=dataclasses.replace(remote, address="elsewhere:1"))
    forged = tls_daemon.directory / "forged"
    forged.touch(mode=0o600)
    forged.write_text("f" * 32)
    with pytest.raises(thermocline.DaemonPermissionError, match="token"):
        thermocline.connect(remote=dataclasses.replace(remote, token_file=str(forged)), timeout=PATIENCE)


def test_what_an_administrator_may_do(client, space, daemon):
    with thermocline.AdminClient(daemon.socket, timeout=PATIENCE) as admin:
        assert space.put(prompt(21, 10), contents(21, 10)) == 10
        for wrong in ([], prompt(21, 1)[:15], prompt(21, 1) + [7]):
            with pytest.raises(ValueError):
                admin.delete(space, wrong)
        assert admin.delete(space, prompt(21, 4)) == 7  # the fourth place and what is behind it
        assert space.match(prompt(21, 10)).depth == 3
        listed = [info for info in client.spaces() if info.fingerprint == space.fingerprint]
        assert admin.delete(listed[0]) == 3 and space.match(prompt(21, 10)).depth == 0

        keyed = client.open_space(spec(model="keys", key_bytes=8))
        keys = [bytes([i]) * 8 for i in range(5)]
        assert keyed.put(keys, contents(22, 5)) == 5
        assert admin.delete(keyed, keys[:2]) == 4
        assert admin.delete(keyed) == 1

        assert space.put(prompt(21, 10), contents(21, 10)) == 10
        with space.match(prompt(21, 10)):
            assert admin.flush("warm").kept == 10
        assert admin.flush("warm") == thermocline.FlushResult(blocks=10, kept=0)
        assert space.match(prompt(21, 10)).load() == 10
        tenant, = admin.tenants()
        assert tenant.name == "default" and tenant.stats.places == client.stats().places > 0
        warm = tenant.stats.tiers[0]
        assert warm.tier == "warm" and warm.share_bytes == warm.lent_bytes == warm.capacity_bytes
        assert admin.drop_arena() == 10
        with pytest.raises(ValueError, match="lukewarm"):
            admin.flush("lukewarm")
    with pytest.raises(thermocline.FailedPreconditionError, match="closed"):
        admin.drop_arena()
    with pytest.raises(thermocline.UnavailableError):
        thermocline.AdminClient("/nonexistent/t.sock")


def test_opaque_keys_name_places(client):
    space = client.open_space(spec(model="keys", key_bytes=8, salt="secret"))
    keys = [bytes([i]) * 8 for i in range(5)]
    assert space.put(keys, contents(9, 5)) == 5
    lease = space.match(keys)
    assert [bytes(lease.view(place)) for place in range(5)] == contents(9, 5)
    for wrong, error in (([b"short"], thermocline.InvalidArgumentError), ([1, 2], TypeError), (b"12345678", TypeError)):
        with pytest.raises(error):
            space.match(wrong)
    assert "secret" not in repr(space.spec)
    listed = [info for info in client.spaces() if info.fingerprint == space.fingerprint]
    assert len(listed) == 1 and listed[0].places == 5 and listed[0].spec.key_bytes == 8


def test_blocks_of_several_places_and_parts(client):
    parts = [thermocline.Part(BLOCK_BYTES, name="full"),
             thermocline.Part(BLOCK_BYTES // 2, name="window", window_tokens=64)]
    space = client.open_space(spec(model="parts", block_tokens=32, parts=parts))
    tokens = prompt(10, 8)
    blocks = [data for block in contents(10, 4) for data in (block, block[:BLOCK_BYTES // 2])]
    assert space.put(tokens + [1] * 20, blocks) == 8
    with space.match(tokens) as lease:
        assert lease.load() == 8
        assert bytes(lease.view(7, 0)) == blocks[6] and bytes(lease.view(7, 1)) == blocks[7]
        assert lease.view(6) is None and bytes(lease.view(1)) == blocks[0]
        lease.truncate(4)
        assert lease.depth == 4
        with pytest.raises(thermocline.InvalidArgumentError, match="depth 4"):
            lease.truncate(5)


def test_cold_blocks_are_loaded_and_told_of(client, space, daemon):
    blocks = contents(11, 40)
    space.put(prompt(11, 40), blocks)
    assert eventually(lambda: client.stats().leases == 0)
    daemon.ctl("flush", "--tier", "warm")
    lease = space.match(prompt(11, 40))
    assert lease.depth == 40 and lease.view(0) is None and lease.blocks[0].tier == "cold"
    told = []

    def on_ready(places):
        assert all(bytes(lease.view(place)) == blocks[place] for place in range(told[-1] if told else 0, places))
        told.append(places)

    assert lease.load(on_ready) == 40
    assert told == sorted(set(told)) and told[-1] == 40
    lease.release()

    def refuse(places):
        raise KeyError(places)

    with pytest.raises(KeyError):
        space.match(prompt(11, 40)).load(refuse)
    assert eventually(lambda: client.stats().leases == 0)
    daemon.ctl("flush", "--tier", "warm")
    assert space.prefetch(prompt(11, 40)).matched_depth == 40
    assert space.put(prompt(11, 42), contents(11, 42)) == 42  # behind what may still be cold


def test_pins(client, space):
    with pytest.raises(thermocline.NotFoundError):
        space.pin(prompt(12, 2), ttl=60)
    space.put(prompt(12, 2), contents(12, 2))
    pin = space.pin(prompt(12, 2), ttl=60, tier="warm")
    assert pin.depth == 2 and pin.space == space.fingerprint and pin.expires_unix_ms / 1000 > time.time() + 50
    assert [(listed.pin, listed.tier) for listed in client.pins()] == [(pin.pin, "warm")]
    assert client.stats().pins == 1
    assert client.stats().tiers[0].ttl_pinned_bytes == 2 * BLOCK_BYTES
    client.unpin(pin.pin)
    assert client.stats().tiers[0].ttl_pinned_bytes == 0
    with pytest.raises(LookupError):
        client.unpin(pin.pin)
    for wrong in (dict(ttl=0), dict(ttl=-1), dict(ttl=1, tier="lukewarm"), dict(ttl=1, timeout=-2)):
        with pytest.raises(ValueError):
            space.pin(prompt(12, 2), **wrong)


def test_wrong_specifications_name_the_field(client):
    with pytest.raises(thermocline.InvalidArgumentError, match="block_tokens"):
        client.open_space(spec(block_tokens=17))
    with pytest.raises(ValueError, match="weights_sha256"):
        client.open_space(spec(weights_sha256=b"123"))
    with pytest.raises(thermocline.InvalidArgumentError):
        client.open_space(spec(parts=[]))
    assert client.open_space(spec(weights_sha256=b"1" * 32)).fingerprint != client.open_space(spec()).fingerprint


def test_no_daemon_says_how_to_start_one(tmp_path):
    with pytest.raises(thermocline.UnavailableError, match="thermoclined --socket") as raised:
        thermocline.connect(str(tmp_path / "none.sock"))
    assert isinstance(raised.value, ConnectionError) and raised.value.code == "UNAVAILABLE"


def test_a_closed_client_says_so(daemon):
    client = thermocline.connect(daemon.socket, timeout=PATIENCE)
    space = client.open_space(spec())
    client.close()
    client.close()
    with pytest.raises(thermocline.FailedPreconditionError, match="closed"):
        client.stats()
    assert not client.connected
    assert space.match(prompt(1, 1)).depth == 0  # spaces outlive it


def test_a_killed_daemon_costs_only_hits(client, space, daemon):
    space.put(prompt(13, 4), contents(13, 4))
    lease = space.match(prompt(13, 4))
    view = lease.view(3)
    daemon.stop(signal.SIGKILL)
    with pytest.raises(thermocline.UnavailableError):
        client.stats()
    assert bytes(view) == contents(13, 4)[3] and lease.still_valid()
    with pytest.raises(thermocline.FailedPreconditionError):
        lease.load()
    daemon.start()
    client.reconnect()
    assert client.connected and not lease.still_valid()
    again = space.match(prompt(13, 4))
    assert again.load() == 4 and bytes(again.view(3)) == contents(13, 4)[3]


def test_waiting_leaves_the_gil_to_others(space):
    held = every_slot(space)
    ticks, stop = [0], threading.Event()

    def tick():
        while not stop.wait(0.005):
            ticks[0] += 1

    ticker = threading.Thread(target=tick)
    ticker.start()
    with pytest.raises(thermocline.ResourceExhaustedError):
        space.reserve(64, wait=2.0)
    stop.set()
    ticker.join()
    assert ticks[0] > 5


def test_threads_share_a_lease(space):
    blocks = contents(14, 20)
    space.put(prompt(14, 20), blocks)
    lease = space.match(prompt(14, 20))
    wrong = []

    def read():
        for _ in range(20):
            if lease.load() != 20:
                wrong.append("load")
            wrong.extend(place for place in range(20) if bytes(lease.view(place)) != blocks[place])
            if not lease.still_valid():
                wrong.append("valid")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def in_child(*actions):
    """How many of the actions did not raise FailedPreconditionError in a forked child."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)
        failed = 0
        for action in actions:
            try:
                action()
                failed += 1
            except thermocline.FailedPreconditionError:
                pass
            except BaseException:
                failed += 1
        os._exit(failed)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_forked_child_is_told_and_the_parent_goes_on(client, space):
    space.put(prompt(15, 2), contents(15, 2))
    lease, slot = space.match(prompt(15, 2)), space.reserve(1)[0]
    assert in_child(client.stats, lambda: space.match(prompt(15, 2)), lambda: lease.view(0), lambda: lease.depth,
                    lease.load, lambda: slot.array, lambda: slot.write(bytes(BLOCK_BYTES))) == 0

    def drop():
        nonlocal lease, slot, client, space
        assert not lease.still_valid()
        lease.release()
        del lease, slot, client, space
        gc.collect()
        raise thermocline.FailedPreconditionError("dropped")

    assert in_child(drop) == 0
    assert bytes(lease.view(1)) == contents(15, 2)[1] and lease.still_valid()
    assert eventually(lambda: client.stats().reservations == 1)  # the slots granted ahead go back


def depth_elsewhere(socket, tokens):
    with thermocline.connect(socket, timeout=PATIENCE) as client:
        return client.open_space(spec()).match(tokens).depth


def test_a_spawned_process_reads_too(space, daemon):
    space.put(prompt(16, 3), contents(16, 3))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(depth_elsewhere, (daemon.socket, prompt(16, 3))) == 3


def read_imported(socket, exported):
    with thermocline.connect(socket, timeout=PATIENCE) as client:
        space = client.open_space(spec())
        with space.import_lease(exported) as lease:
            return [bytes(lease.view(place)) for place in range(lease.depth)]


def test_a_lease_goes_to_another_process(client, space, daemon):
    space.put(prompt(31, 5), contents(31, 5))
    with space.match(prompt(31, 5)) as lease:
        exported = lease.export()
        assert isinstance(exported, bytes) and len(exported) < 100  # no prompt travels
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(read_imported, (daemon.socket, exported)) == contents(31, 5)
    with pytest.raises(thermocline.InvalidArgumentError):
        client.open_space(spec(model="another")).import_lease(exported)
    with pytest.raises(thermocline.InvalidArgumentError):
        space.import_lease(b"nonsense")
    with pytest.raises(thermocline.FailedPreconditionError):
        lease.export()  # it was released


def test_who_verifies_always_is_not_shown_what_was_spoiled(client, space, daemon):
    space.put(prompt(32, 3), contents(32, 3))
    with space.match(prompt(32, 3)) as lease:
        view = lease.view(1)
        address = view.numpy().ctypes.data  # clients of one tenant can write there
        ctypes.memset(address + 77, contents(32, 3)[1][77] ^ 1, 1)
        with thermocline.connect(daemon.socket, timeout=PATIENCE, verify_always=True) as careful:
            with careful.open_space(spec()).match(prompt(32, 3)) as seen:
                assert bytes(seen.view(0)) == contents(32, 3)[0]
                assert seen.view(1) is None and seen.depth == 1
