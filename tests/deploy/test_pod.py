"""What the pod's volumes must do: the catalog and the certificate follow their mounts, and Envoy can't reach the operator's
socket."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deploy.pod import MODEL, Pod, backend, container, mounted, until

TLS = Path(__file__).parent / "tls"


@pytest.fixture(scope="module")
async def pod(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pod]:
    """A pod that runs, with TLS as in the overlay."""
    root = tmp_path_factory.mktemp("pod")
    renew(root / "etc/keytoll/tls", "first")
    async with backend() as port:
        pod = Pod(root, port, {"KEYTOLL_TLS_DIR": str(root / "etc/keytoll/tls")})
        async with pod.running():
            yield pod


def renew(folder: Path, name: str) -> None:
    """Put a certificate and its key where the secret is mounted."""
    mounted(folder, {f"tls.{kind}": (TLS / f"{name}.{kind}").read_text() for kind in ("crt", "key")})


async def certificate_of(pod: Pod) -> bytes:
    """Return the certificate that callers see, in DER."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", pod.ports.data, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return bytes(certificate)


async def test_an_edit_of_the_config_map_comes_into_force_without_a_restart(pod: Pod) -> None:
    key = await pod.new_key()
    headers = {"authorization": f"Bearer {key['secret']}"}
    async with httpx.AsyncClient(base_url=pod.url, headers=headers, verify=False) as client:

        async def answers(model: str) -> int:
            body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
            return (await client.post("/v1/chat/completions", json=body)).status_code

        assert await answers(MODEL) == 200
        assert await answers("added") == 404
        pod.offer(MODEL, "added")

        async def added() -> bool:
            return await answers("added") == 200

        await until(added)
        pod.offer(MODEL)

        async def gone() -> bool:
            return await answers("added") == 404

        await until(gone)


async def test_a_renewed_certificate_is_taken_without_a_restart(pod: Pod) -> None:
    assert b"Keytoll first" in await certificate_of(pod)
    renew(pod.root / "etc/keytoll/tls", "second")

    async def renewed() -> bool:
        return b"Keytoll second" in await certificate_of(pod)

    await until(renewed)


async def test_the_folder_that_envoy_shares_has_no_operator_socket_ledger_or_admissions(pod: Pod) -> None:
    assert {each.name for each in pod.private_dir.iterdir()} >= {"operator.sock", "keytoll.db", "admissions"}
    shared = {each.name for each in pod.run_dir.iterdir()}
    assert shared >= {"envoy.sock", "api.sock", "admin.sock", "xds", "lua", "journal", "credentials"}
    assert not shared & {"operator.sock", "keytoll.db", "admissions"}
    private = {
        mount["mountPath"] for mount in container("keytoll")["volumeMounts"] if mount.get("subPath") == "keytoll"
    }
    assert private == {"/var/lib/keytoll"}
    assert private.isdisjoint(mount["mountPath"] for mount in container("envoy")["volumeMounts"])


async def test_the_cli_in_keytolls_container_needs_no_option(pod: Pod) -> None:
    code, out = await pod.keytoll("keys", "list", "--json")
    assert code == 0, out


async def test_from_envoys_container_there_is_no_way_to_operate(pod: Pod) -> None:
    code, out = await pod.keytoll("keys", "list", container="envoy")
    assert code == 1
    assert "not running" in out
