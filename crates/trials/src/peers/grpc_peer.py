"""A gRPC server and a client that checks it, without generated code: python grpc_peer.py server|client PORT."""
import sys
import time
from concurrent import futures

import grpc

role, port = sys.argv[1], int(sys.argv[2])


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", metadata.get("x-ask", "none")),))
    context.set_trailing_metadata((("x-final-bin", b"\x00\x01"),))
    if request == b"refuse":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked: \u00e4")
    if request == b"slow":
        time.sleep(5)
    return request


def count(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def collect(requests, context):
    return b"".join(requests)


def both(requests, context):
    for request in requests:
        yield request[::-1]


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Peer", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def client():
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/test.Peer/Unary")
        answer, state = call.with_call(b"hello", metadata=(("x-ask", "yes"),), timeout=20)
        assert answer == b"hello"
        assert dict(state.initial_metadata())["x-initial"] == "yes", state.initial_metadata()
        assert dict(state.trailing_metadata())["x-final-bin"] == b"\x00\x01", state.trailing_metadata()
        assert call(b"x" * (3 << 20), timeout=20) == b"x" * (3 << 20)
        for message, code in [(b"refuse", grpc.StatusCode.FAILED_PRECONDITION), (b"slow", grpc.StatusCode.DEADLINE_EXCEEDED)]:
            try:
                call(message, timeout=0.5 if message == b"slow" else 20)
            except grpc.RpcError as error:
                assert error.code() == code, error
                assert message != b"refuse" or error.details() == "as asked: \u00e4", error
            else:
                raise AssertionError(message)
        missing = channel.unary_unary("/test.Peer/Nothing")
        try:
            missing(b"", timeout=20)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
        numbers = list(channel.unary_stream("/test.Peer/Count")(b"2000", timeout=20))
        assert numbers == [b"%d" % number for number in range(2000)]
        parts = [b"%d," % number for number in range(500)]
        assert channel.stream_unary("/test.Peer/Collect")(iter(parts), timeout=20) == b"".join(parts)
        # Each word waits for the answer to the one before: nothing may be held back.
        answers, gate = [], []

        def words():
            for number in range(50):
                while len(answers) < number:
                    time.sleep(0.001)
                yield b"word %d" % number

        for answer in channel.stream_stream("/test.Peer/Both")(words(), timeout=20):
            answers.append(answer)
        assert answers == [(b"word %d" % number)[::-1] for number in range(50)], gate
    print("all well")


serve() if role == "server" else client()
