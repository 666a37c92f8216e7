"""kafka-python in a process of its own: ``BOOTSTRAP TOPIC COUNT PARTITIONS CHUNK``. Prints each record acknowledged.

Not a test: it leaves sockets that could not connect to the garbage collector, which a test run would complain of.
"""

from __future__ import annotations

import sys
from collections import deque

from kafka import KafkaProducer

DELIVERY_S = 40


def main(bootstrap: str, topic: str, count: int, partitions: int, chunk: int) -> None:
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, reconnect_backoff_max_ms=200, delivery_timeout_ms=DELIVERY_S * 1000
    )
    waiting: deque = deque()
    for n in range(count):
        value = f"kafka-python {n}"
        waiting.append((value, producer.send(topic, value.encode(), partition=n % partitions)))
        while len(waiting) > (chunk if n + 1 < count else 0):
            said, future = waiting.popleft()
            future.get(DELIVERY_S)
            print(said, flush=True)
    producer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
