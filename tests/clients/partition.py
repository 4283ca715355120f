"""A TCP proxy that can cut a client off from its server, as a network partition does."""
import contextlib
import selectors
import socket
import threading


class Partition:
    """Listens on `port`; use it in a `with` statement."""

    def __init__(self, server: tuple[str, int]):
        self._server = server
        self._lock = threading.Lock()
        self._open = True
        self._pairs = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.cut()
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._open:
                    client.close()
                    continue
                pair = (client, socket.create_connection(self._server))
                self._pairs.append(pair)
            threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket):
        with one, other, contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            selector.register(one, selectors.EVENT_READ, other)
            selector.register(other, selectors.EVENT_READ, one)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(1 << 16)
                    if not data:
                        return
                    key.data.sendall(data)

    def cut(self):
        """Ends every connection and refuses new ones."""
        with self._lock:
            self._open = False
            for pair in self._pairs:
                for side in pair:
                    with contextlib.suppress(OSError):
                        side.shutdown(socket.SHUT_RDWR)
            self._pairs.clear()

    def heal(self):
        with self._lock:
            self._open = True
