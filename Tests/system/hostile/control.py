"""A control API that lies: HTTP/2 with the certificate of a real server, whose answers it changes as a test says."""
import json
import socket
import ssl
import threading

import h2.config
import h2.connection
import h2.events


class LyingControl:
    """Answers each request with what `answer(method, path, body)` returns: a status and a document or bytes.

    A path holds its query. Everything else about the connection is right.
    """

    def __init__(self, data, answer):
        self.answer = answer
        self.asked = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(data / "server/cert.pem", data / "server/key.pem")
        self._context.set_alpn_protocols(["h2"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "https://127.0.0.1:{}".format(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Ends accept(2) too.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            with self._context.wrap_socket(connection, server_side=True) as stream:
                self._speak(stream)
        except OSError:
            pass

    def _speak(self, stream):
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        stream.sendall(http.data_to_send())
        heads, bodies = {}, {}
        while data := stream.recv(65536):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    heads[event.stream_id], bodies[event.stream_id] = dict(event.headers), b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self._reply(stream, http, event.stream_id, heads.pop(event.stream_id), bodies.pop(event.stream_id))
            stream.sendall(http.data_to_send())

    def _reply(self, stream, http, number, head, body):
        self.asked.append((head[":method"], head[":path"]))
        status, document = self.answer(head[":method"], head[":path"], body)
        content = document if isinstance(document, bytes) else json.dumps(document, ensure_ascii=False).encode()
        http.send_headers(number, [
            (":status", str(status)), ("content-type", "application/json" if status < 400 else "application/problem+json"),
            ("content-length", str(len(content)))])
        for start in range(0, len(content), 16384):
            http.send_data(number, content[start:start + 16384])
            stream.sendall(http.data_to_send())
        http.end_stream(number)


def forwarded(api, change):
    """An `answer` that asks a real server and changes what it says: `change(path, status, document)`."""
    def answer(method, path, body):
        real = api.request(method, path, content=body or None,
                           headers={"content-type": "application/json"} if body else {})
        return change(path, real.status_code, real.json() if real.content else {})
    return answer
