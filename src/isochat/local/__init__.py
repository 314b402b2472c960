"""Databricks Model Serving on your machine, for the clients you already use.

```python
from isochat.local import LocalEndpoint

with LocalEndpoint() as local:
    ...  # any client, with local.host and local.token
    local.questions[-1].json
```

A real HTTP server on loopback which imitates chat on Model Serving, with the peculiarities of each family of models,
faults to order, a script or a real model behind it. It uses nothing else of this package, so that a misreading of
the service is not written down twice.
"""

from __future__ import annotations

from isochat.local._cassette import Unmatched
from isochat.local._endpoint import LocalEndpoint, serve, shared
from isochat.local._families import FAMILIES, Endpoint, Family, endpoints
from isochat.local._faults import Fault
from isochat.local._quirks import QUIRKS, Quirk
from isochat.local._received import Received
from isochat.local._recorder import Door, Exchange, Recorder, Scrubber
from isochat.local._schema import instance
from isochat.local._script import Script, ScriptError
from isochat.local._surfaces import statement, tables

__all__ = [
    "FAMILIES",
    "QUIRKS",
    "Door",
    "Endpoint",
    "Exchange",
    "Family",
    "Fault",
    "LocalEndpoint",
    "Quirk",
    "Received",
    "Recorder",
    "Script",
    "ScriptError",
    "Scrubber",
    "Unmatched",
    "endpoints",
    "instance",
    "serve",
    "shared",
    "statement",
    "tables",
]
