"""A data pipeline with nothing but Kafka (aiokafka): one consumer of a group, which commits what it has worked off."""

from __future__ import annotations

import asyncio
import logging
import sys

from acting import say
from aiokafka import AIOKafkaConsumer

GROUP = "pipeline"
TOPICS = ("home.living-room.temperature", "home.alerts")


async def main(address: str) -> None:
    # It is used to brokers that go away and come back; its reader here is not.
    logging.disable(logging.CRITICAL)
    consumer = AIOKafkaConsumer(
        *TOPICS,
        bootstrap_servers=address,
        group_id=GROUP,
        # It keeps its place in the group over a crash, so that nobody waits for its session to end.
        group_instance_id="worker-1",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        metadata_max_age_ms=1_000,
    )
    await consumer.start()
    say("consumes", protocol="Kafka", group=GROUP)
    async for record in consumer:
        await consumer.commit()
        value = None if record.value is None else record.value.decode()
        say("takes a record", protocol="Kafka", channel=record.topic, payload=value, offset=record.offset)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
