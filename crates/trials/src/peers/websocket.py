"""A WebSocket server that echoes, and a client that checks it: python websocket.py server|client PORT."""
import asyncio
import sys

import websockets

role, port = sys.argv[1], int(sys.argv[2])


async def echo(socket, *_):
    async for message in socket:
        if message == "close":
            await socket.close(4001, "as asked")
        else:
            await socket.send(message)


async def serve():
    async with websockets.serve(echo, "127.0.0.1", port, max_size=1 << 24):
        await asyncio.Future()


async def one(number):
    async with websockets.connect(f"ws://127.0.0.1:{port}/chat?n={number}", max_size=1 << 24) as socket:
        for message in ["hello", "ä€", b"\x00\xff" * 10, "x" * (1 << 20)]:
            await socket.send(message)
            assert await asyncio.wait_for(socket.recv(), 20) == message
        await asyncio.wait_for(await socket.ping(), 20)
        await socket.send("close")
        try:
            await asyncio.wait_for(socket.recv(), 20)
        except websockets.ConnectionClosed as closed:
            code = closed.rcvd.code if getattr(closed, "rcvd", None) else closed.code
            assert code == 4001, code
            return
        raise AssertionError("not closed")


async def client():
    await asyncio.gather(*(one(number) for number in range(20)))
    print("all well")


asyncio.run(serve() if role == "server" else client())
