"""Kafka: the wire protocol of Apache Kafka 4.x as a broker of one node speaks it."""
