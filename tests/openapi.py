"""The API's description, docs/openapi.json: what a node is held against, and what requests are made from."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.nodes import NodeProcess

FILE = Path(__file__).parent.parent / "docs" / "openapi.json"
METHODS = {"get", "put", "post", "patch", "delete"}
ACCOUNTS = ["alice", "b\u00f6b"]
BOXES = ["name:INBOX", "name:Work", "name:Play/2026"]


def description() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    return document


def operations() -> set[tuple[str, str]]:
    """Method and path of each."""
    return {
        (method.upper(), path)
        for path, item in description()["paths"].items()
        for method in item.keys() & METHODS
    }


def with_values_that_exist() -> dict[str, Any]:
    """The description with few accounts and mailboxes, which are there, and no long waits."""
    document = copy.deepcopy(description())
    parameters = document["components"]["parameters"]
    parameters["account"]["schema"] = {"enum": ACCOUNTS}
    parameters["mailbox"]["schema"] = {"enum": BOXES}
    parameters["script"]["schema"] = {"enum": ["main", "other"]}
    del (
        parameters["token"],
        parameters["tokenQuery"],
        parameters["tokenWait"],
        parameters["ack"],
        parameters["ackWait"],
    )
    for item in document["paths"].values():
        for operation in item.values():
            operation["parameters"] = [
                each
                for each in operation["parameters"]
                if each.get("name") != "wait" and each.get("$ref", "").rpartition("/")[2] in ("", *parameters)
            ]
    schemas = document["components"]["schemas"]
    schemas["MailboxReference"] = {"enum": BOXES}
    schemas["MailboxName"] = {"enum": ["Work", "Play/2026", "Old", "\u00fc"]}
    ids = {"enum": [f"m{number}" for number in range(20)]}
    schemas["Ids"]["items"] = schemas["NewMessage"]["properties"]["id"] = ids
    return document


def run_schemathesis(node: NodeProcess, folder: Path, *, examples: int, seed: int) -> None:
    """Requests made from the description, right and wrong ones; every answer must be one that it allows."""
    client = node.client()
    for account in ACCOUNTS:
        for box in BOXES:
            client.create_mailbox(account, box.removeprefix("name:"))
    file = folder / "openapi.json"
    file.write_text(json.dumps(with_values_that_exist()))
    # Limits in bytes are stated as characters, and only an account's own state tells whether a name is taken:
    # so neither "this should have been accepted" nor "refused" can be judged from the description alone.
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    checks += ",response_headers_conformance,response_schema_conformance,unsupported_method"
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", str(file), "--url", node.address]
    command += ["--checks", checks, "--max-examples", str(examples), "--seed", str(seed), "--no-shrink"]
    command += ["--phases", "coverage,fuzzing", "--suppress-health-check", "all", "--warnings", "off"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout[-10_000:]
    print(done.stdout[-2_000:])
