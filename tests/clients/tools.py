"""The foreign programs that tests and bench drive: how each is found here, and the command that installs it.

Knows nothing of what they are used for. A tool that is absent skips a test and says what to run; under
``CI=true`` it fails, since there a skipped crossing would look like a kept promise.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODE_FOLDER = ROOT / "tests" / "clients" / "node"
"""Where Node clients are installed; a script run from here finds them."""

JAVA_FOLDER = ROOT / ".clients" / "java"
"""Where the jars of Java clients are."""

SOURCES_FOLDER = ROOT / ".clients"
"""Where sources are unpacked that are run as they are."""

SEARCHED = os.pathsep.join(
    (str(ROOT / ".clients" / "bin"), os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin")
)
"""Debian puts mosquitto in /usr/sbin, which is not on everybody's PATH."""


@dataclass(frozen=True)
class Tool:
    """``program`` must be found; ``package`` must be among the Node clients, ``jar`` among the Java ones, if given.

    ``source`` is a file that must be in ``SOURCES_FOLDER``.
    """

    program: str
    install: str
    package: str = ""
    jar: str = ""
    source: str = ""

    def found(self) -> str | None:
        """The program's path, or None if the tool cannot be used."""
        if self.package and not (NODE_FOLDER / "node_modules" / self.package / "package.json").is_file():
            return None
        if self.jar and not any(JAVA_FOLDER.glob(f"{self.jar}-*.jar")):
            return None
        if self.source and not (SOURCES_FOLDER / self.source).is_file():
            return None
        return shutil.which(self.program, path=SEARCHED)


TOOLS: dict[str, Tool] = {
    "mosquitto": Tool("mosquitto", "apt-get install mosquitto"),
    "mosquitto_pub": Tool("mosquitto_pub", "apt-get install mosquitto-clients"),
    "mosquitto_sub": Tool("mosquitto_sub", "apt-get install mosquitto-clients"),
    "mosquitto_rr": Tool("mosquitto_rr", "apt-get install mosquitto-clients"),
    "curl": Tool("curl", "apt-get install curl"),
    "openssl": Tool("openssl", "apt-get install openssl"),
    "node": Tool("node", "apt-get install nodejs npm"),
    "kcat": Tool("kcat", "apt-get install kcat"),
    "nats-server": Tool("nats-server", "make clients"),
    "maven:kafka-clients": Tool(
        "javac", "apt-get install default-jdk-headless maven; make clients", jar="kafka-clients"
    ),
    "gmqtt's tests": Tool(sys.executable, "make clients", source="gmqtt/tests/test_mqtt5.py"),
    "npm:@platformatic/kafka": Tool("node", "make clients", "@platformatic/kafka"),
    "npm:kafkajs": Tool("node", "make clients", "kafkajs"),
    "npm:mqtt": Tool("node", "make clients", "mqtt"),
    "npm:mqtt-packet": Tool("node", "make clients", "mqtt-packet"),
    "npm:@a2a-js/sdk": Tool("node", "make clients", "@a2a-js/sdk"),
    "npm:@modelcontextprotocol/client": Tool("node", "make clients", "@modelcontextprotocol/client"),
    "npm:@modelcontextprotocol/sdk": Tool("node", "make clients", "@modelcontextprotocol/sdk"),
}


class ToolMissing(Exception):
    """A foreign tool is not installed. The text names the command that installs it."""


def find(name: str) -> str:
    """The path of the program behind a tool of the table. Raises ``ToolMissing``."""
    tool = TOOLS[name]
    path = tool.found()
    if path is None:
        raise ToolMissing(f"{name} is not installed: {tool.install}")
    return path
