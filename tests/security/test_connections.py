"""Connections that send slowly, too much or nonsense, or never read: each is cut off, and keeps nobody waiting."""

from __future__ import annotations

import contextlib
import socket
import time

import httpx
import pytest

from raw_http import echo_length, receive_all, served
from rlhf_hitl.api.connections import ConnectionLimits, Connections


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"GET / HT", b"HTTP/1.1 408"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"HTTP/1.1 408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{", b"HTTP/1.1 408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", b"HTTP/1.1 408"),
    ],
    ids=["nothing", "half a line", "half a head", "half a body", "half a chunk"],
)
def test_who_stops_sending_is_cut_off(sent, answer):
    with served(echo_length) as address, socket.create_connection(address) as client:
        client.sendall(sent)
        assert receive_all(client).startswith(answer)


def test_who_sends_a_byte_at_a_time_is_cut_off_and_who_is_slow_but_steady_is_not():
    with (
        served(echo_length) as address,
        socket.create_connection(address) as dripping,
        socket.create_connection(address) as steady,
    ):
        for client in (dripping, steady):
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 600\r\n\r\n")
        for _ in range(30):  # three seconds at 10 and at 200 bytes a second
            steady.sendall(b"x" * 20)
            with contextlib.suppress(OSError):
                dripping.sendall(b"x")
            time.sleep(0.1)
        assert receive_all(steady).endswith(b"600")
        assert receive_all(dripping).startswith(b"HTTP/1.1 408")


def test_who_does_not_read_the_answer_is_cut_off():
    connections: list[Connections] = []
    with served(echo_length, connections=connections) as address, socket.create_connection(address) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 15
        while connections[0].number == 0 or client.recv(1, socket.MSG_PEEK) == b"":
            assert time.monotonic() < deadline
        while connections[0].number > 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(receive_all(client)) < 50_000_000


def test_a_head_without_end_is_refused_before_it_fills_the_memory():
    with served(echo_length) as address, socket.create_connection(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(OSError):
            for i in range(2000):
                client.sendall(b"X-%d: " % i + b"y" * 1000 + b"\r\n")
        assert receive_all(client)[:12] in (b"HTTP/1.1 431", b"")


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        (b"GET /?" + b"%61=&" * 70, b"", b"414"),
        (b"GET /?" + b"a" * 5000, b"", b"414"),
        (b"GET /", b"Accept-Language: " + b"a," * 10_000 + b"\r\n", b"431"),
        (b"GET /", b"a:\r\n" * 120, b"431"),
        (b"GET /", b"a:\r\n" * 16_000, b"431"),
    ],
    ids=["many parameters", "a long address", "a long header", "many headers", "very many headers"],
)
def test_what_costs_more_to_read_than_to_send_is_refused(request_line, headers, status):
    usual = ConnectionLimits(connections=40, per_address=20)
    with served(echo_length, usual) as address, socket.create_connection(address) as client:
        client.sendall(request_line + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
        assert receive_all(client)[9:12] == status


def test_a_body_in_chunks_of_a_byte_is_refused_and_one_in_short_lines_is_taken():
    for chunk, status in ((b"1\r\na\r\n", b"400"), (b"20\r\n" + b"a" * 32 + b"\r\n", b"200")):
        with served(echo_length) as address, socket.create_connection(address) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            with contextlib.suppress(OSError):
                client.sendall(chunk * 1000 + b"0\r\n\r\n")
            assert receive_all(client)[9:12] == status


def test_a_body_that_goes_on_after_the_response_ends_the_connection(app):
    connections: list[Connections] = []
    with served(app, connections=connections) as address, socket.create_connection(address) as client:
        client.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        begun, is_closed = time.monotonic(), False
        while not is_closed:
            try:
                client.sendall(b"400\r\n" + b"a" * 1024 + b"\r\n")
            except OSError:
                is_closed = True
            assert time.monotonic() < begun + 20


def test_a_large_body_in_the_packet_of_a_short_head_is_taken():
    with served(echo_length) as address, socket.create_connection(address) as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50000
        )
        assert receive_all(client).endswith(b"50000")


def test_somebody_who_opens_connections_closes_their_own_and_keeps_nobody_out():
    with served(echo_length) as address:
        opened = [socket.create_connection(address) for _ in range(60)]
        assert httpx.get(f"http://127.0.0.1:{address[1]}/").text == "0"
        for client in opened:
            client.setblocking(False)
        deadline, closed = time.monotonic() + 0.5, 0
        while time.monotonic() < deadline:
            closed = sum(_is_closed(client) for client in opened)
        assert closed >= 40, "twenty from one address are kept"
        for client in opened:
            client.close()


def test_a_body_that_comes_fast_enough_is_not_closed_for_others_that_send_nothing():
    with served(echo_length) as address, socket.create_connection(address) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2000\r\n\r\n")
        idle = []
        for _ in range(20):
            client.sendall(b"x" * 100)
            idle += [socket.create_connection(address) for _ in range(3)]
            with socket.create_connection(address) as other:  # what came before its answer has been read
                other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert receive_all(other).endswith(b"0")
        assert receive_all(client).endswith(b"2000")
        for other in idle:
            other.close()


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_trailers_without_end_are_refused():
    with served(echo_length) as address, socket.create_connection(address) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n")
        with contextlib.suppress(OSError):
            for i in range(2000):
                client.sendall(b"X-%d: " % i + b"y" * 1000 + b"\r\n")
        assert receive_all(client)[:12] in (b"HTTP/1.1 431", b"")


def test_a_second_request_before_the_first_answer_ends_the_connection():
    connections: list[Connections] = []
    with served(echo_length, connections=connections) as address, socket.create_connection(address) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
        receive_all(client)
        deadline = time.monotonic() + 15
        while connections[0].number:
            assert time.monotonic() < deadline


def test_a_connection_that_is_closed_and_not_read_is_cut_off():
    connections: list[Connections] = []
    with served(echo_length, connections=connections) as address, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect(address)
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
        deadline = time.monotonic() + 20
        while not connections or connections[0].number:
            assert time.monotonic() < deadline, "it is neither read nor waited for"
            time.sleep(0.05)


def test_a_trusted_proxy_may_open_more_connections_than_one_client():
    with served(echo_length, proxies="127.0.0.1") as address:
        opened = [socket.create_connection(address) for _ in range(30)]
        assert httpx.get(f"http://127.0.0.1:{address[1]}/").text == "0"
        for client in opened:
            client.setblocking(False)
        assert not any(map(_is_closed, opened))
        for client in opened:
            client.close()
