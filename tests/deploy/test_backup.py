"""A backup is made while Keytoll runs, and what was charged since is charged again from the journal after a restore."""

from pathlib import Path

import httpx
import pytest
from command_line import run_plain

from deploy.pod import MODEL, Pod, backend


async def ask(pod: Pod, secret: str, times: int) -> None:
    """Make requests, and return once the ledger holds each."""
    before = len(await pod.charges())
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    async with httpx.AsyncClient(base_url=pod.url, headers={"authorization": f"Bearer {secret}"}) as client:
        for _ in range(times):
            (await client.post("/v1/chat/completions", json=body)).raise_for_status()
    await pod.charged(before + times)


async def test_a_restored_backup_has_all_and_the_journal_adds_what_came_later(tmp_path: Path) -> None:
    async with backend() as port:
        pod = Pod(tmp_path, port)
        copy = pod.private_dir / "backup.db"
        async with pod.running():
            old = await pod.new_key()
            await ask(pod, old["secret"], 3)
            assert await pod.keytoll("store", "backup", str(copy)) == (0, f"{copy} holds 3 rows of the ledger.\n")
            await ask(pod, old["secret"], 2)
            known = await pod.charges()
            code, out = await pod.keytoll("store", "restore", str(copy))
            assert code == 1
            assert "is in use by another Keytoll" in out
        (pod.private_dir / "keytoll.db").write_bytes(b"lost")
        code, out = await pod.keytoll("store", "restore", str(copy))
        assert code == 0, out
        assert (pod.private_dir / "keytoll.db.before").read_bytes() == b"lost"
        code, out = await pod.keytoll("store", "restore", str(copy))
        assert code == 1
        assert "keytoll.db.before is there already: move it away first" in out
        async with pod.running():
            found = await pod.charged(len(known))
            assert {row["decision_id"]: row["amount"] for row in found} == {
                row["decision_id"]: row["amount"] for row in known
            }
            await ask(pod, old["secret"], 1)


async def test_a_backup_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "there.db").write_text("mine")
    ran = await run_plain("store", "backup", str(tmp_path / "there.db"), "--run-dir", str(tmp_path))
    assert (ran.code, ran.err) == (1, f"keytoll: {tmp_path}/there.db is there already: move it away first\n")
    assert (tmp_path / "there.db").read_text() == "mine"


@pytest.mark.parametrize("text", [None, "no database"])
async def test_what_is_no_database_is_not_restored(tmp_path: Path, text: str | None) -> None:
    source = tmp_path / "backup.db"
    if text is not None:
        source.write_text(text)
    ran = await run_plain("store", "restore", str(source), "--run-dir", str(tmp_path))
    assert ran.code == 1
    assert str(source) in ran.err
    assert {each.name for each in tmp_path.iterdir()} <= {"backup.db", "keytoll.db", "keytoll.db.lock"}
