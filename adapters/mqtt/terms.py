"""What holds for the clients of one listener: its own word where it has one, else the mesh's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from dragoman.adapters.mqtt.codes import Code
from dragoman.broker.redirects import Redirect

if TYPE_CHECKING:
    from dragoman.adapters.mqtt.listener_settings import ListenerSettings
    from dragoman.adapters.mqtt.properties import Properties
    from dragoman.adapters.mqtt.settings import MqttSettings

T = TypeVar("T")


class Terms(NamedTuple):
    """``connect_time_max_ms``: 0 = a connection may last as long as it likes.

    ``qos_max``     of what its clients publish, and of what they are granted
    ``retain``      whether they may publish retained values
    ``redirect``    where all of them are sent
    ``shared``, ``wildcards``, ``identifiers``  what they may subscribe with
    """

    connect_time_max_ms: int
    redirect: Redirect | None
    qos_max: int
    retain: bool
    shared: bool
    wildcards: bool
    identifiers: bool

    def refuses_will(self, qos: int, *, retain: bool) -> tuple[int, str] | None:
        """Why no client comes in with such a will."""
        if qos > self.qos_max:
            return Code.QOS_NOT_SUPPORTED, f"the will's QoS is {qos}, allowed are {self.qos_max} [3.2.2-12]"
        if retain and not self.retain:
            return Code.RETAIN_NOT_SUPPORTED, "the will is to be retained, which is not allowed [3.2.2-13]"
        return None

    def refuses_filter(self, filter_: str) -> Code | None:
        """Why nobody may subscribe to it (§3.9.3)."""
        if not self.shared and filter_.startswith("$share/"):
            return Code.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        if not self.wildcards and ("#" in filter_ or "+" in filter_):
            return Code.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED
        return None

    def tell(self, said: Properties, *, plainly: bool) -> None:
        """Adds what is not to be had to what CONNACK says; what is said of nothing is there (§3.2.2.3).

        ``plainly``: retained messages and wildcards are spoken of though they are to be had.
        """
        there = 1 if plainly else None
        said.maximum_qos = self.qos_max if self.qos_max < 2 else None
        said.retain_available = there if self.retain else 0
        said.wildcard_subscription_available = there if self.wildcards else 0
        said.subscription_identifier_available = None if self.identifiers else 0
        said.shared_subscription_available = None if self.shared else 0


def terms_of(listener: ListenerSettings, mesh: MqttSettings) -> Terms:
    """Its terms."""
    return Terms(
        connect_time_max_ms=1000 * _either(listener.connect_time_max_s, mesh.connect_time_max_s),
        redirect=_redirect(listener, mesh),
        qos_max=_either(listener.qos_max, mesh.qos_max),
        retain=_either(listener.retain_available, mesh.retain_available),
        shared=_either(listener.shared_subscriptions, mesh.shared_subscriptions),
        wildcards=_either(listener.wildcard_subscriptions, mesh.wildcard_subscriptions),
        identifiers=_either(listener.subscription_identifiers, mesh.subscription_identifiers),
    )


def _redirect(listener: ListenerSettings, mesh: MqttSettings) -> Redirect | None:
    if listener.redirect_to is not None:
        return Redirect(listener.redirect_to, listener.redirect_permanent) if listener.redirect_to else None
    return Redirect(mesh.redirect_to, mesh.redirect_permanent) if mesh.redirect_to else None


def _either(own: T | None, mesh: T) -> T:
    return mesh if own is None else own
