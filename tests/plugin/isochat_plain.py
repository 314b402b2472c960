from urllib.parse import quote

import httpx2
from isochat.backends import (
    EVERYTHING,
    Backend,
    Reply,
    decode_reply,
    directly,
    keep_deadlines,
    request_to_json,
    to_bytes,
    trusted,
)

A_DAY = 86400.0


class PlainBackend(Backend):
    """One POST."""

    name = "plain"
    drives = "httpx2"
    route = "/serving-endpoints/{name}/invocations"
    requires = ("httpx2",)
    carries = EVERYTHING - {"stream"}

    def __init__(self, connection=None):
        super().__init__(connection)
        self.http = new_client()

    def encode(self, request):
        path = f"/serving-endpoints/{quote(request.endpoint, safe='')}/invocations"
        return path, to_bytes(request_to_json(request))

    def send(self, call, timeout):
        path, body = call
        timeout = min(timeout, A_DAY)
        headers = {"Content-Type": "application/json", **self.connection.headers(timeout=timeout)}
        response = self.http.post(self.connection.host + path, content=body, headers=headers, timeout=timeout)
        return Reply(response.status_code, dict(response.headers), response.content)

    def decode(self, reply):
        return decode_reply(reply)

    def close(self):
        self.http.close()
        self.http = new_client()


def new_client():
    """A client that heeds the deadline, asks no proxy for this machine, and trusts whom the environment names."""
    return keep_deadlines(httpx2.Client(mounts=directly(), verify=trusted(httpx2)))
