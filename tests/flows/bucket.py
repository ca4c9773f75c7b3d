"""A real S3 server (moto's) on loopback, behind a line that can be cut in the middle of a transfer and mended."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.ports import unused_port

BLOCK = 1 << 14


class Line:
    """Forwards connections to `target` until it has carried `limit` bytes; then all of them break and none is taken."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.open: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.limit: int | None = None
        self.carried = 0
        self.port = unused_port()
        self.mend()

    def mend(self) -> None:
        self.limit = None
        self.listener = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut_after(self, size: int) -> None:
        """Break the line once it has carried this many more bytes."""
        self.carried, self.limit = 0, size

    def cut(self) -> None:
        with self.lock:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            for end in self.open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
            self.open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self.target)
            except OSError:
                return
            with self.lock:
                self.open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(BLOCK):
                self.carried += len(block)
                if self.limit is not None and self.carried > self.limit:
                    self.cut()
                    return
                sink.sendall(block)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def bucket_behind_a_line(monkeypatch, name: str):
    """(client of the server itself, the line that everything else goes through); the bucket `name` is there."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    line = Line((host, port))
    settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for variable, value in {**settings, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{line.port}"}.items():
        monkeypatch.setenv(variable, value)
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket=name)
    s3fs.S3FileSystem.clear_instance_cache()  # it would keep the address of an earlier test's server
    try:
        yield client, line
    finally:
        line.cut()
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
