"""How our refusals are said in Kafka. One table."""

from __future__ import annotations

from typing import Final

from dragoman.adapters.kafka.codes import ErrorCode
from dragoman.routing.refusals import Reason, Refusal

CODES: Final[dict[Reason, ErrorCode]] = {
    Reason.NOT_AUTHENTICATED: ErrorCode.SASL_AUTHENTICATION_FAILED,
    Reason.NOT_AUTHORIZED: ErrorCode.TOPIC_AUTHORIZATION_FAILED,
    Reason.BANNED: ErrorCode.SASL_AUTHENTICATION_FAILED,
    Reason.NAME_INVALID: ErrorCode.INVALID_TOPIC_EXCEPTION,
    Reason.FILTER_INVALID: ErrorCode.INVALID_TOPIC_EXCEPTION,
    Reason.NAME_NOT_EXPRESSIBLE: ErrorCode.INVALID_TOPIC_EXCEPTION,
    Reason.PAYLOAD_INVALID: ErrorCode.INVALID_RECORD,
    Reason.ARGUMENTS_INVALID: ErrorCode.INVALID_REQUEST,
    Reason.CARD_INVALID: ErrorCode.INVALID_RECORD,
    Reason.TOO_LARGE: ErrorCode.MESSAGE_TOO_LARGE,
    Reason.QUOTA_EXCEEDED: ErrorCode.POLICY_VIOLATION,
    Reason.RATE_EXCEEDED: ErrorCode.THROTTLING_QUOTA_EXCEEDED,
    Reason.BUSY: ErrorCode.REQUEST_TIMED_OUT,
    Reason.MAILBOX_FULL: ErrorCode.POLICY_VIOLATION,
    Reason.STORAGE_FULL: ErrorCode.KAFKA_STORAGE_ERROR,
    Reason.STORAGE_FAILED: ErrorCode.KAFKA_STORAGE_ERROR,
    Reason.UNKNOWN_CHANNEL: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    Reason.UNKNOWN_AGENT: ErrorCode.INVALID_RECORD,
    Reason.UNKNOWN_SKILL: ErrorCode.INVALID_RECORD,
    Reason.UNKNOWN_CALL: ErrorCode.INVALID_RECORD,
    Reason.UNKNOWN_GROUP: ErrorCode.GROUP_ID_NOT_FOUND,
    Reason.UNKNOWN_DELIVERY: ErrorCode.INVALID_RECORD_STATE,
    Reason.AGENT_TAKEN: ErrorCode.TOPIC_AUTHORIZATION_FAILED,
    Reason.AGENT_UNREACHABLE: ErrorCode.INVALID_RECORD,
    Reason.CONFLICT: ErrorCode.TOPIC_ALREADY_EXISTS,
    Reason.GONE: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    Reason.DEADLINE_PASSED: ErrorCode.REQUEST_TIMED_OUT,
    Reason.CANCELLED: ErrorCode.INVALID_RECORD,
    Reason.FAILED: ErrorCode.UNKNOWN_SERVER_ERROR,
    Reason.UNSUPPORTED: ErrorCode.UNSUPPORTED_VERSION,
    Reason.TAKEN_OVER: ErrorCode.INVALID_RECORD,
    Reason.DISCONNECTED: ErrorCode.NETWORK_EXCEPTION,
    Reason.SHUTTING_DOWN: ErrorCode.NOT_LEADER_OR_FOLLOWER,
}
"""Retriable ones where waiting helps: a disk that refuses (nothing is lost), a mesh that stops (ask again)."""


def code_of(refusal: Refusal) -> ErrorCode:
    """The error code of a refusal."""
    return CODES[refusal.reason]
