"""Kafka clients in processes of their own: kcat, kafkajs, @platformatic/kafka and the Java client.

But for kcat each is a small program in its own language that does one of the things asked of every client. It is
told ``BOOTSTRAP USER PASSWORD CA PATIENCE_MS VERB …`` and prints lines; a record is ``KEY|VALUE|NAME:VALUE;…``, all
in hex, where ``-`` is null. Who is refused prints ``refused …`` and ends with 3.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.clients import tools
from tests.clients.processes import run_client
from tests.kafka.kafka_clients import CODECS, PATIENCE_MS, WAIT_S, Record, Refused, Shares, Where

HERE = Path(__file__).parent
REFUSED = 3


def spelt(record: Record) -> str:
    def hexed(value: bytes | None) -> str:
        return "-" if value is None else value.hex()

    headers = ";".join(f"{name.encode().hex()}:{hexed(value)}" for name, value in record.headers)
    return f"{hexed(record.key)}|{hexed(record.value)}|{headers}"


def parsed(line: str) -> Record:
    def unhexed(text: str) -> bytes | None:
        return None if text == "-" else bytes.fromhex(text)

    key, value, said = line.split("|")
    pairs = [pair.split(":") for pair in said.split(";")] if said else []
    return Record(unhexed(key), unhexed(value), tuple((bytes.fromhex(n).decode(), unhexed(v)) for n, v in pairs))


class Foreign:
    """A program that does what it is told."""

    name: str
    tool: str
    codecs: tuple[str, ...] = CODECS
    headers = "all"
    script: str

    def argv(self) -> list[str]:
        """What is run, before what it is told."""
        return [tools.find("node"), "--input-type=module", "-"]

    def run(self, where: Where, *told: object) -> list[str]:
        who = [where.user, where.password, where.mechanism, where.ca]
        argv = [*self.argv(), where.bootstrap, *who, str(PATIENCE_MS), *map(str, told)]
        script = (HERE / self.script).read_bytes()
        ended = run_client(argv, stdin=script, cwd=tools.NODE_FOLDER, timeout_s=2 * WAIT_S, code=None)
        if ended.code == REFUSED:
            raise Refused(ended.stdout)
        assert ended.code == 0, (ended, argv)
        return ended.stdout.splitlines()

    def produce(self, where: Where, topic: str, records: list[Record], codec: str = "none") -> list[int]:
        with tempfile.NamedTemporaryFile("w") as file:
            file.writelines(f"{spelt(record)}\n" for record in records)
            file.flush()
            return [int(line) for line in self.run(where, "produce", topic, codec, file.name)]

    def read(self, where: Where, topic: str, group: str, count: int) -> list[Record]:
        return [parsed(line) for line in self.run(where, "read", topic, group, count)]

    def share(self, where: Where, topic: str, group: str) -> Shares:
        lines = self.run(where, "share", topic, group)
        first, second, alone = (frozenset(map(int, line.split(","))) for line in lines)
        return Shares((first, second), alone)

    def woken_s(self, where: Where, topic: str) -> float:
        return float(self.run(where, "woken", topic)[0])

    def create(self, where: Where, topic: str, partitions: int) -> None:
        self.run(where, "create", topic, partitions)

    def delete(self, where: Where, topic: str) -> None:
        self.run(where, "remove", topic)

    def topics(self, where: Where) -> dict[str, int]:
        pairs = (line.rsplit(" ", 1) for line in self.run(where, "topics"))
        return {name: int(count) for name, count in pairs}


class KafkaJs(Foreign):
    """Its other codecs are plugins."""

    name = "kafkajs"
    tool = "npm:kafkajs"
    codecs = ("none", "gzip")
    headers = "grouped"
    script = "kafkajs.mjs"


class Platformatic(Foreign):
    """zstd needs a newer Node than Debian's."""

    name = "platformatic"
    tool = "npm:@platformatic/kafka"
    codecs = ("none", "gzip", "snappy", "lz4")
    headers = "single"
    script = "platformatic.mjs"


class Java(Foreign):
    """The client of Apache Kafka itself. Idempotent unless told otherwise."""

    name = "java"
    tool = "maven:kafka-clients"
    script = "JavaClient.java"

    def __init__(self) -> None:
        self.classes: Path | None = None

    def build(self, folder: Path) -> None:
        """Compiles the program, once."""
        if self.classes is None:
            run_client([tools.find(self.tool), "-cp", f"{tools.JAVA_FOLDER}/*", "-d", folder, HERE / self.script])
            self.classes = folder

    def argv(self) -> list[str]:
        assert self.classes is not None, "not built"
        # Short lives: nothing of it is worth compiling well.
        java = [
            str(Path(tools.find(self.tool)).with_name("java")),
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Xshare:auto",
        ]
        return [*java, "-cp", f"{self.classes}:{tools.JAVA_FOLDER}/*", "JavaClient"]


class Kcat:
    """The command line, on an old librdkafka (2.0 in Debian). Says lines of text."""

    name = "kcat"
    tool = "kcat"
    codecs = CODECS
    headers = "text"

    def run(self, where: Where, *told: str, stdin: bytes = b"") -> str:
        options = {
            "security.protocol": where.protocol,
            "message.timeout.ms": str(PATIENCE_MS),
            "message.max.bytes": str(64 << 20),
            "topic.metadata.propagation.max.ms": "0",
        }
        if where.user:
            options |= {"sasl.mechanism": where.mechanism, "sasl.username": where.user, "sasl.password": where.password}
        if where.ca:
            options |= {"ssl.ca.location": where.ca}
        argv = [tools.find("kcat"), "-b", where.bootstrap]
        for name, value in options.items():
            argv += ["-X", f"{name}={value}"]
        ended = run_client([*argv, *told], stdin=stdin, timeout_s=WAIT_S, code=None)
        if ended.code:
            raise Refused(ended.stderr)
        return ended.stdout

    def produce(self, where: Where, topic: str, records: list[Record], codec: str = "none") -> list[int]:
        """It does not say at what offsets; they are those of a new topic."""
        headers = [part for name, value in records[0].headers for part in ("-H", f"{name}={(value or b'').decode()}")]
        lines = b"".join((r.key or b"") + b"|" + (r.value or b"") + b"\n" for r in records)
        told = ["-P", "-t", topic, "-p", "0", "-K", "|", "-z", codec, *headers]
        self.run(where, *told, stdin=lines)
        return list(range(len(records)))

    def read(self, where: Where, topic: str, group: str, count: int) -> list[Record]:
        """Its group commits where it ends."""
        told = ["-f", "%K|%S|%h|%k|%s\n", "-X", "auto.offset.reset=earliest", "-c", str(count), "-G", group, topic]
        return [_of_kcat(line) for line in self.run(where, *told).splitlines()]


def _of_kcat(line: str) -> Record:
    key_length, value_length, headers, key, value = line.split("|", 4)
    pairs = tuple((n, v.encode()) for n, v in (pair.split("=", 1) for pair in headers.split(",") if pair))
    return Record(None if key_length == "-1" else key.encode(), None if value_length == "-1" else value.encode(), pairs)
