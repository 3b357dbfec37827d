"""Which transport carries Check is a setting; the whole gateway works with either."""

from pathlib import Path

from transport.peer import framed, peer_of

from e2e.conftest import EMBEDDING, Gateway, gateway_in


async def test_check_is_carried_by_libnghttp2_unless_told_otherwise(gateway: Gateway) -> None:
    assert await _tells_what_is_not_grpc(gateway)


async def test_check_may_be_carried_by_grpcio(tmp_path: Path) -> None:
    async with gateway_in(tmp_path, environment={"KEYTOLL_CHECK_TRANSPORT": "grpcio"}) as gateway:
        assert not await _tells_what_is_not_grpc(gateway)
        key = await gateway.new_key()
        async with gateway.http(key) as client:
            asked = {"model": EMBEDDING, "input": "one two"}
            assert (await client.post("/v1/embeddings", json=asked)).status_code == 200
        await gateway.charge(key)


async def _tells_what_is_not_grpc(gateway: Gateway) -> bool:
    """grpcio overlooks a content type that is not gRPC's."""
    async with peer_of(gateway.run_dir / "envoy.sock") as peer:
        stream_id = peer.head({"content-type": "text/plain"})
        peer.body(stream_id, framed(b""))
        peer.flush()
        return (await peer.outcome(stream_id)).fields[":status"] == "415"
