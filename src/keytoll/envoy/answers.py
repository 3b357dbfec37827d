"""Answers: the bytes of a CheckResponse, for what is decided.

An admission's are put together from prepared bytes, since to build the message anew would take longer than all the rest
of a Check. That rests on a rule of protobuf's encoding: what stands in a message twice is merged, so the part that many
answers share and the part that is this one's own may simply follow each other.
"""

from collections.abc import Callable
from functools import lru_cache
from uuid import UUID

from keytoll.core.decision import Admission, Denial, Read
from keytoll.core.endpoints import Endpoint
from keytoll.core.money import format_amount
from keytoll.core.offer import Offer, PriceVersion
from keytoll.envoy.entries import UNBOUNDED, shared_facts
from keytoll.envoy.messages.check_pb2 import CheckResponse, HeaderValueOption

KNOWN_HEADER = "x-kt-known"
"""Set by the headers-only Check; opens the route on which Envoy may buffer a large body."""

KEY_ID_HEADER = "x-kt-key-id"
"""Tells Keytoll's own API, behind the data listener, whose key reads. Envoy strips it from callers' requests."""

LEFT_HEADER = "x-keytoll-quota-remaining"
"""Tells the caller what is left of the key's limit. Envoy sets it on the answer after everything that a backend says."""

READS_POOL = "keytoll_api"
"""The static cluster of envoy.yaml that leads to Keytoll's own API."""

_PERMISSION_DENIED = 7  # google.rpc.Code
_Alike = tuple[str, str, str, tuple[bool, bool, bool]]


class Admitted:
    """The answers that let requests through, with what settlement and the data plane need to know of each.

    It keeps the part that is the same for all requests of a model, an endpoint and a month that ask for alike. That is
    bounded, as callers choose among what is on offer only. An offer that a new catalog replaced is told by its identity.
    """

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._shared: dict[_Alike, tuple[Offer, PriceVersion, tuple[bytes, str]]] = {}

    def answer(self, admission: Admission, decision_id: UUID) -> bytes:
        """Return the answer to one request."""
        key, left_nano = admission.key, admission.left_nano
        answer, facts = self._of_all(admission)
        hold = UNBOUNDED if admission.worst_nano is None else admission.worst_nano
        entry = f"{admission.admitted_at_us}|{hold}|{key.id}|{key.owner}|{facts}".encode()
        left = b"" if left_nano is None else _left(left_nano)
        before_id, before_entry = _around_id(len(entry))
        return b"".join((answer, left, before_id, str(decision_id).encode(), before_entry, entry))

    def _of_all(self, admission: Admission) -> tuple[bytes, str]:
        offer, price = admission.offer, admission.price
        flags = admission.stream, admission.wants_usage, admission.many_answers
        alike = offer.model, admission.endpoint.name, admission.month, flags
        found = self._shared.get(alike)
        if found is not None and found[0] is offer and found[1] is price:
            return found[2]
        if len(self._shared) >= self._most:
            self._shared.clear()
        shared = _shared_answer(admission), _shared_facts(admission)
        self._shared[alike] = offer, price, shared
        return shared


def read(read: Read) -> bytes:
    """Return the answer that lets Keytoll itself answer a read."""
    response = CheckResponse()
    response.ok_response.headers_to_remove.append("authorization")
    response.ok_response.headers.append(_header(KEY_ID_HEADER, read.key.id))
    response.dynamic_metadata.update({"pool": READS_POOL, "body": "none"})
    return response.SerializeToString() + (b"" if read.left_nano is None else _left(read.left_nano))


def known() -> bytes:
    """Return the answer of a headers-only Check that found nothing to object to."""
    response = CheckResponse()
    response.ok_response.headers.append(_header(KNOWN_HEADER, "1"))
    return response.SerializeToString()


def denied(denial: Denial) -> bytes:
    """Return the answer that refuses a request."""
    response = CheckResponse()
    response.status.code = _PERMISSION_DENIED
    refusal = response.denied_response
    refusal.status.code = denial.status
    refusal.headers.extend(_header(name, value) for name, value in denial.headers.items())
    refusal.body = denial.body
    return response.SerializeToString()


def decision_in(answer: bytes) -> UUID | None:
    """Return the decision that an answer tells of; None if it admitted nothing."""
    metadata = CheckResponse.FromString(answer).dynamic_metadata
    return UUID(metadata.fields["decision_id"].string_value) if "decision_id" in metadata.fields else None


def _header(name: str, value: str) -> HeaderValueOption:
    option = HeaderValueOption(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
    option.header.key = name
    option.header.value = value
    return option


def _shared_answer(admission: Admission) -> bytes:
    response = CheckResponse()
    response.ok_response.headers_to_remove.append("authorization")
    response.dynamic_metadata.update(_data_plane_orders(admission, admission.offer, admission.endpoint))
    return response.SerializeToString()


def _shared_facts(admission: Admission) -> str:
    offer, price = admission.offer, admission.price
    return shared_facts(
        model=offer.model,
        endpoint=admission.endpoint.name,
        price_id=price.id,
        prices=price.prices,
        month=admission.month,
        rates=offer.rates,
    )


def _data_plane_orders(admission: Admission, offer: Offer, endpoint: Endpoint) -> dict[str, str | float | bool]:
    """What request.lua does with the request; it knows no paths and no models of its own.

    What is not to be done isn't there: each member that the metadata has costs Envoy several times.
    """
    asks = admission.stream and endpoint.stream_options
    orders: dict[str, str | float | bool | None] = {
        "pool": offer.pool,
        "body": endpoint.body.value,
        "retries": offer.retries,
        "upstream_model": offer.upstream_model,
        "include_usage": asks,
        "strip_usage": asks and not admission.wants_usage,
        "running_usage": asks and offer.running_usage and not admission.many_answers,
        "no_running_usage": asks and admission.many_answers,
        "store_false": endpoint.stores,
    }
    return {name: value for name, value in orders.items() if value}


# ----------------------------------------------------------------------------------------------- the bytes themselves

_BYTES = 2  # the wire type of strings and messages
_OK_RESPONSE = CheckResponse.OK_RESPONSE_FIELD_NUMBER
_DYNAMIC_METADATA = CheckResponse.DYNAMIC_METADATA_FIELD_NUMBER


_METADATA_TAG = bytes([_DYNAMIC_METADATA << 3 | _BYTES])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_ID_BYTES = 36


@lru_cache(maxsize=4096)
def _around_id(entry_bytes: int) -> tuple[bytes, bytes]:
    """Return what stands before the decision's id and between it and an entry of this length, the end of the answer."""
    before_id, before_entry = _text_head("decision_id", _ID_BYTES), _text_head("entry", entry_bytes)
    length = len(before_id) + _ID_BYTES + len(before_entry) + entry_bytes
    return _METADATA_TAG + _varint(length) + before_id, before_entry


def _text_head(name: str, length: int) -> bytes:
    """Return what stands before a text in a member of the metadata, a google.protobuf.Struct."""
    return _head(lambda text: _field(1, _field(1, name.encode()) + _field(2, _field(3, text))), length)


def _head(encode: Callable[[bytes], bytes], length: int, *, behind: bytes = b"") -> bytes:
    """Return what `encode` puts before a content of this length."""
    return encode(bytes(length))[: -(length + len(behind)) or None]


def _left(left_nano: int) -> bytes:
    """Return the header that tells what is left."""
    amount = format_amount(left_nano).encode()
    return _left_head(len(amount)) + amount + _APPEND_ACTION


@lru_cache(maxsize=128)
def _left_head(length: int) -> bytes:
    name = LEFT_HEADER.encode()
    return _head(
        lambda amount: _field(_OK_RESPONSE, _field(6, _field(1, _field(1, name) + _field(2, amount)) + _APPEND_ACTION)),
        length,
        behind=_APPEND_ACTION,
    )


_APPEND_ACTION = bytes([3 << 3, HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD])
