"""Two thousand questions through `rest`, to be profiled: `python -m cProfile -s tottime benchmarks/hot_path.py PORT`."""

from __future__ import annotations

import sys

from isochat import Connection, query_chat
from isochat.backends.rest import RestBackend

MESSAGES = [{"role": "user", "content": "What is a mixture of experts model?"}]

backend = RestBackend(Connection(f"http://127.0.0.1:{sys.argv[1]}", "t"))
stream = "stream" in sys.argv
for _ in range(20 if stream else 2000):
    answer = query_chat(MESSAGES, endpoint="e", backend=backend, stream=stream)
    if stream:
        for _ in answer:
            pass
backend.close()
